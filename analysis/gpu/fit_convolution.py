"""Fits convolutions and copies (`accel/gpu/convolution.py`, `accel/gpu/transfer.py`) to a calibration record."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from accel.gpu.convolution import ConvolutionFit
from accel.gpu.fit import Error
from accel.gpu.machine import GpuMachine
from accel.gpu.memory_bound import MemoryBoundFit, MovingKernel
from accel.gpu.transfer import Link, TransferFit
from analysis.gpu.fits_to_points import Parameter, fitted
from analysis.gpu.held_out import error
from dataflow.gpu.convolution import convolution
from dataflow.gpu.estimate import Floats
from dataflow.gpu.transfer import copy_over, copy_within

Rows = Sequence[Mapping[str, Any]]
COLUMNS = ("batch", "channels", "out", "side")
KERNELS = ("depthwise_first", "depthwise_last", "to_last", "weights_to_last", "to_first", "bias")
PARAMETERS = {
    "tensor_share": Parameter(0.8, 0.3, 1.1),
    "small_exponent": Parameter(0.2, 0.01, 1.0),
    "taps_share": Parameter(0.9, 0.5, 1.1),
    "prologue_cycles": Parameter(1500.0, 10.0, 2e4),
    "split_cycles": Parameter(3000.0, 100.0, 5e4),
    "latency_cycles": Parameter(3000.0, 100.0, 5e4),
    **{f"{name}.slots": Parameter(30.0, 0.1, 2000.0) for name in KERNELS},
    **{f"{name}.row_slots": Parameter(3.0, 0.01, 100.0) for name in KERNELS[:2]},
    **{f"{name}.latency_cycles": Parameter(2000.0, 100.0, 5e4) for name in KERNELS},
}
PINNED, FAR = ("h2d_pinned", "d2h_pinned"), "h2d_pageable"
FAR_BYTES = 3.3e7  # between the two sizes where the rate of h2d_pageable was seen to change
OWN = ("tensor_share", "small_exponent", "taps_share", "prologue_cycles", "split_cycles", "latency_cycles")
LINKS = ("h2d_pinned", "d2h_pinned", "h2d_pageable", "d2h_pageable")


def predict(machine: GpuMachine, fit: ConvolutionFit, memory: MemoryBoundFit, rows: Rows) -> Floats:
    """[rows] seconds of rows of part `convolution`; `bias` where they say so."""
    found = np.zeros(len(rows))
    keys = [(row["groups"] > 1, bool(row["channels_last"]), bool(row.get("bias", False))) for row in rows]
    for key in dict.fromkeys(keys):
        chosen = [place for place, other in enumerate(keys) if other == key]
        shape = [np.array([rows[place][name] for place in chosen]) for name in COLUMNS]
        shape.append(np.array([_side(rows[place]) for place in chosen]))
        depthwise, last, bias = key
        made = convolution(machine, fit, memory, *shape, depthwise=depthwise, channels_last=last, bias=bias)
        found[chosen] = made.seconds
    return found


def _side(row: Mapping[str, Any]) -> int:
    """Of the filter, from the row's name ("dense 3x3 ..."): records give the field `kernel` to the kernels' names."""
    return int(row["name"].split()[1].partition("x")[0])


def section(values: Mapping[str, float]) -> ConvolutionFit:
    """The fit that some numbers make."""
    kernels = {name: _kernel(values, name) for name in KERNELS}
    own: dict[str, Any] = {name: values[name] for name in OWN}
    return ConvolutionFit.model_construct(None, **own, kernels=kernels)


def _kernel(values: Mapping[str, float], name: str) -> MovingKernel:
    fields: dict[str, Any] = {
        "chain_cycles": 0.0,
        "memory_share": 1.0,
        "row_slots": values.get(f"{name}.row_slots", 0.0),
    }
    fields |= {field: values[f"{name}.{field}"] for field in ("slots", "latency_cycles")}
    return MovingKernel.model_construct(None, **fields)


def fit_convolution(machine: GpuMachine, memory: MemoryBoundFit, rows: Rows) -> ConvolutionFit:
    """Least squares of relative errors of rows of part `convolution` that are not held out."""
    used = [row for row in rows if not row["held_out"]]
    seconds = np.array([1e-6 * row["us"] for row in used])
    values = fitted(PARAMETERS, lambda some: np.log(predict(machine, section(some), memory, used) / seconds))
    return ConvolutionFit.model_validate(section(values).model_dump())


def convolution_errors(
    machine: GpuMachine, fit: ConvolutionFit, memory: MemoryBoundFit, rows: Rows
) -> dict[str, Error]:
    """Of held-out rows: dense and depthwise, together and by layout."""
    held = [row for row in rows if row["held_out"]]
    ours, theirs = predict(machine, fit, memory, held), np.array([1e-6 * row["us"] for row in held])
    found = {}
    for name in ("convolution", "convolution_depthwise"):
        for layout in ("", ": channels first", ": channels last"):
            chosen = np.array([_belongs(row, name, layout) for row in held])
            if chosen.any():
                found[name + layout] = error(ours[chosen], theirs[chosen])
    return found


def _belongs(row: Mapping[str, Any], name: str, layout: str) -> bool:
    return (row["groups"] > 1) == name.endswith("depthwise") and (
        not layout or row["channels_last"] == ("last" in layout)
    )


def fit_transfer(machine: GpuMachine, memory: MemoryBoundFit, rows: Rows) -> TransferFit:
    """To rows of part `transfers` that are not held out."""
    used = [row for row in rows if not row["held_out"]]
    parameters = {"latency_cycles": Parameter(1500.0, 50.0, 1e5), "memory_share": Parameter(0.95, 0.3, 1.5)}
    for link in LINKS:
        latency = Parameter(2e-6, 1e-7, 1e-4) if link in PINNED else Parameter(2e-5, 1e-6, 1e-3)
        parameters |= {
            f"{link}.latency_s": latency,
            f"{link}.share": Parameter(0.8 if link in PINNED else 0.3, 0.01, 1.5),
        }
        if link in PINNED:
            parameters[f"{link}.call_s"] = Parameter(5e-6, 1e-6, 1e-4)
        else:
            parameters |= {
                f"{link}.stage_bytes": Parameter(2e6, 2e5, 1e7),
                f"{link}.stage_share": Parameter(0.6, 0.05, 50),
            }
    parameters |= {f"{FAR}.far_share": Parameter(0.16, 0.01, 1.5)}
    seconds = np.array([1e-6 * row["us"] for row in used])
    values = fitted(parameters, lambda some: np.log(predict_transfers(machine, _links(some), memory, used) / seconds))
    return TransferFit.model_validate(_links(values).model_dump())


def _links(values: Mapping[str, float]) -> TransferFit:
    links = {name: _link(values, name) for name in LINKS}
    return TransferFit(latency_cycles=values["latency_cycles"], memory_share=values["memory_share"], links=links)


def _link(values: Mapping[str, float], name: str) -> Link:
    latency, share = values[f"{name}.latency_s"], values[f"{name}.share"]
    far = values.get(f"{name}.far_share")
    call_s = values.get(f"{name}.call_s", 0.0)
    stage = {key: values[f"{name}.{key}"] for key in ("stage_bytes", "stage_share") if f"{name}.{key}" in values}
    far_bytes = FAR_BYTES if far else 1.0
    return Link(latency_s=latency, call_s=call_s, share=share, far_share=far, far_bytes=far_bytes, **stage)


def predict_transfers(machine: GpuMachine, fit: TransferFit, memory: MemoryBoundFit, rows: Rows) -> Floats:
    """[rows] seconds of rows of part `transfers`."""
    found = np.zeros(len(rows))
    for way in dict.fromkeys(row["way"] for row in rows):
        chosen = [place for place, row in enumerate(rows) if row["way"] == way]
        sizes = np.array([rows[place]["bytes"] for place in chosen], dtype=np.float64)
        made = copy_within(machine, fit, memory, sizes) if way == "d2d" else copy_over(machine, fit, way, sizes)
        found[chosen] = made.seconds
    return found


def transfer_errors(machine: GpuMachine, fit: TransferFit, memory: MemoryBoundFit, rows: Rows) -> dict[str, Error]:
    """Of held-out rows, together and by way."""
    held = [row for row in rows if row["held_out"]]
    ours, theirs = predict_transfers(machine, fit, memory, held), np.array([1e-6 * row["us"] for row in held])
    ways = [row["way"] for row in held]
    found = {"transfer": error(ours, theirs)}
    for way in dict.fromkeys(ways):
        chosen = np.array([other == way for other in ways])
        found[f"transfer: {way}"] = error(ours[chosen], theirs[chosen])
    return found
