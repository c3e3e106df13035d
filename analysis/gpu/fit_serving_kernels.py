"""Fits elementwise kernels of a GPU to published profiles of a serving system.

    python -m analysis.gpu.fit_serving_kernels table.csv A100-80G-SXM a100_80g_sxm a100

The table has columns device, kernel, M, N, value. What loops of one device cannot tell apart (L2, overlap) stays as the
fit of the H200 has it, and so does every kernel that the table lacks. Norms, gates and rotations read what was just
written; a residual was written before all of its block: `between`, a number of the source and not of the device, says
how much passed since. Rule, settled before the first fit: of the values of M, sorted, every second one is held out,
from the second on.
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from accel.gpu.fit import Error
from accel.gpu.loading import load_fit
from accel.gpu.machine import GpuMachine
from accel.gpu.memory_bound import MemoryBoundFit, MovingKernel
from accel.machine import load_machine
from analysis.gpu.fit_memory_bound import Points
from analysis.gpu.fit_moving import FITS
from analysis.gpu.fits import add_section
from analysis.gpu.fits_to_points import Parameter, fitted
from analysis.gpu.held_out import error, said
from dataflow.gpu.estimate import Floats
from dataflow.gpu.memory_bound import by_rows
from dataflow.gpu.moving_kernels import OPERATORS as GPU_OPERATORS

OPERATORS = {"rmsnorm": "rms_norm_narrow", "silu_mul(gated)": "silu_mul_narrow", "residual_add": "add", "rope": "rope"}
LEAST_S = 8e-6  # the table has whole microseconds
KERNELS = ("binary", "rms_norm_narrow", "silu_mul_narrow", "rope")
SOURCE = {"between": Parameter(2.0, 1.0, 20.0)}  # two uses of a residual, over the bytes of its addition
SHARES = {"shares": Parameter(1.0, 0.5, 1.2)}  # of the memory's peak, over those of the H200
EACH = {"latency_cycles": Parameter(3000.0, 50.0, 2e4)}
SLOW = {
    "slots": Parameter(80.0, 1.0, 500.0),
    "missed_slots": Parameter(20.0, 0.1, 500.0),
    "chain_cycles": Parameter(1.0, 0.01, 50.0),
}


def read(table: Path, device: str) -> list[Points]:
    """Points of LEAST_S and more of one device, by operator."""
    with table.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["device"] == device and row["kernel"] in OPERATORS]
    if not rows:
        raise ValueError(f"{table}: no elementwise kernels of {device!r}")
    apart = set(sorted({int(row["M"]) for row in rows})[1::2])
    kept = [row for row in rows if 1e-6 * float(row["value"]) >= LEAST_S]
    return [_points(OPERATORS[name], [row for row in kept if row["kernel"] == name], apart) for name in OPERATORS]


def _points(operator: str, rows: Sequence[Mapping[str, str]], apart: set[int]) -> Points:
    tall, wide, us = (np.array([float(row[name]) for row in rows]) for name in ("M", "N", "value"))
    return Points(operator, tall, wide, 1e-6 * us, np.isin(tall, list(apart)))


def parameters() -> dict[str, Parameter]:
    """By path."""
    found = SHARES | SOURCE
    for name in KERNELS:
        fields = EACH | (SLOW if name in KERNELS[1:] else {})
        found |= {f"{name}.{field}": value for field, value in fields.items()}
    return found


def section(base: MemoryBoundFit, values: Mapping[str, float]) -> MemoryBoundFit:
    """The fit of another device with what some numbers say."""
    kernels = dict(base.kernels) | {name: _kernel(base, values, name) for name in KERNELS}
    shares = {name: values["shares"] * getattr(base, name) for name in ("read_share", "write_share")}
    return base.model_copy(update=shares | {"kernels": kernels})


def _kernel(base: MemoryBoundFit, values: Mapping[str, float], name: str) -> MovingKernel:
    mine = {path.partition(".")[2]: value for path, value in values.items() if path.startswith(f"{name}.")}
    known = base.kernels.get(name)
    return MovingKernel(**(known.model_dump() if known else {}) | mine)


def fit_serving(machine: GpuMachine, base: MemoryBoundFit, found: Sequence[Points]) -> tuple[MemoryBoundFit, float]:
    """(fit, `between`) by least squares of relative errors over the points that are not held out."""

    def residuals(values: Mapping[str, float]) -> Floats:
        fit, between = section(base, values), values["between"]
        times = [(predict(machine, fit, one, between), one) for one in found]
        return np.concatenate([np.log(ours / one.seconds)[~one.held_out] for ours, one in times])

    values = fitted(parameters(), residuals)
    return section(base, values), values["between"]


def predict(machine: GpuMachine, fit: MemoryBoundFit, one: Points, between: float) -> Floats:
    """Seconds."""
    passed = (between if one.operator == "add" else 1.0) * GPU_OPERATORS[one.operator].footprint
    return by_rows(machine, fit, one.operator, one.rows, one.width, passed * one.rows * one.width).seconds


def errors(machine: GpuMachine, fit: MemoryBoundFit, found: Sequence[Points], between: float) -> dict[str, Error]:
    """Of held-out points: all as `rows`, and by operator."""
    pairs = [(predict(machine, fit, one, between)[one.held_out], one.seconds[one.held_out]) for one in found]
    told = {"rows": error(*map(np.concatenate, zip(*pairs, strict=True)))}
    return told | {
        f"{GPU_OPERATORS[one.operator].kind}: {one.operator}": error(*pair)
        for one, pair in zip(found, pairs, strict=True)
    }


def origin_of(table: Path) -> str:
    """What the table says of itself."""
    with table.open(encoding="utf-8") as file:
        return next(csv.DictReader(file))["source"]


def main(table: str, device: str, name: str, fit_name: str) -> None:
    """Fit, put the section into the fit's file, print the errors."""
    machine, base = load_machine(name), load_fit("h200").memory_bound
    if not isinstance(machine, GpuMachine) or base is None:
        raise ValueError(f"machine: must be a GPU of these models, got {name!r}")
    found = read(Path(table), device)
    fit, between = fit_serving(machine, base, found)
    told = errors(machine, fit, found, between)
    count = sum(int((~one.held_out).sum()) for one in found)
    origin = f"{origin_of(Path(table))}, {device}, {count} points; held out: {said(told['rows'])}"
    add_section(FITS / f"{fit_name}.yaml", "memory_bound", fit, origin, {"rows": told["rows"]}, fit=fit_name)
    for kind, one in told.items():
        print(f"{kind:36}{said(one)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
