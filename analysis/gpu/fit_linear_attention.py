"""Fits linear attention (`dataflow/gpu/linear_attention.py`) to a calibration record.

fit = fit_linear_attention(record, machine, memory)    # LinearAttentionFit, on a MemoryBoundFit
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from accel.gpu.attention import LinearAttentionFit
from accel.gpu.machine import GpuMachine
from accel.gpu.memory_bound import MemoryBoundFit, MovingKernel
from analysis.gpu.fit_attention import Points, columns, fitted_to, judged, least, part_rows, points_of
from analysis.gpu.fit_moving import Section
from analysis.gpu.fits_to_points import Parameter
from dataflow.gpu.estimate import Estimate
from dataflow.gpu.linear_attention import linear_attention, separate_kernels

LINEAR_KERNELS, FITTED_KERNELS = 14, (6, 7, 8, 9, 10, 12)  # of `separate_kernels`: copies, products, division
LINEAR = {
    "turned.slots": Parameter(20.0, 0.5, 400.0),
    "turned.missed_slots": Parameter(20.0, 0.1, 400.0),
    "strided.slots": Parameter(10.0, 0.5, 400.0),
    "strided.missed_slots": Parameter(10.0, 0.1, 400.0),
    "latency_cycles": Parameter(1000.0, 50.0, 8000.0),
    "sum_cycles": Parameter(600.0, 50.0, 4000.0),
    "mix_share": Parameter(0.4, 0.05, 1.0),
    "product_cycles": Parameter(2000.0, 50.0, 10000.0),
}


def linear_points(machine: GpuMachine, record: Mapping[str, Any], memory: MemoryBoundFit) -> list[Points]:
    """Part `linear_attention`."""
    rows = part_rows(record, "linear_attention")
    if not rows:
        return []
    b, h, tokens, size = columns(rows, "batch", "heads", "length", "size")
    return [points_of("linear_attention", rows, lambda fit: linear_attention(machine, fit, memory, b, h, tokens, size))]


def _linear(values: Mapping[str, float]) -> LinearAttentionFit:
    kernels = {
        name: MovingKernel(
            latency_cycles=values["latency_cycles"],
            slots=values[f"{name}.slots"],
            missed_slots=values[f"{name}.missed_slots"],
        )
        for name in ("turned", "strided")
    }
    rest = {name: values[name] for name in ("sum_cycles", "mix_share", "product_cycles")}
    return LinearAttentionFit(**kernels, **rest)


def fit_linear_attention(record: Mapping[str, Any], machine: GpuMachine, memory: MemoryBoundFit) -> LinearAttentionFit:
    """From whole calls, and from the shares of them that the profiler gives to each kernel."""
    whole = linear_points(machine, record, memory)
    found: LinearAttentionFit = least(LINEAR, _linear, [*whole, *_kernel_points(machine, record, memory)])
    return found


def _kernel_points(machine: GpuMachine, record: Mapping[str, Any], memory: MemoryBoundFit) -> list[Points]:
    """Each kernel whose numbers are fitted here, of calls that are not held out."""
    rows = [row for row in part_rows(record, "linear_attention") if not row["held_out"]]
    rows = [row for row in rows if len(row.get("launches", ())) == LINEAR_KERNELS]
    if not rows:
        return []
    batch, heads, tokens, size, us = columns(rows, "batch", "heads", "length", "size", "us")
    took = np.array([[one["us"] for one in row["launches"]] for row in rows])
    took *= (us / took.sum(axis=1))[:, None]

    def one(place: int) -> Points:
        def estimate(fit: LinearAttentionFit) -> Estimate:
            return separate_kernels(machine, fit, memory, batch * heads, tokens, size)[place]

        return Points("kernel", 1e-6 * took[:, place], np.zeros(len(rows), dtype=bool), estimate)

    return [one(place) for place in FITTED_KERNELS]


def linear_sections(machine: GpuMachine, record: Mapping[str, Any], memory: MemoryBoundFit) -> dict[str, Section]:
    """What a calibration puts into a fit; nothing where the record has no linear attention."""
    found = linear_points(machine, record, memory)
    if not found:
        return {}
    fit = fit_linear_attention(record, machine, memory)
    return {"linear_attention": Section(fit, judged(found, fit), fitted_to(found))}
