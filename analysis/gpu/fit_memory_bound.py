"""Fits kernels that move bytes (`accel/gpu/memory_bound.py`) to parts elementwise, rows, activations of a record."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.gpu.fit import Error
from accel.gpu.machine import GpuMachine
from accel.gpu.memory_bound import MemoryBoundFit, MovingKernel
from analysis.gpu.fits_to_points import Parameter, fitted
from analysis.gpu.held_out import error
from dataflow.gpu.estimate import Floats
from dataflow.gpu.memory_bound import by_rows
from dataflow.gpu.moving_kernels import OPERATORS

QUANTIZERS = {"plain": "quantize", "norm": "quantize_norm", "gate": "quantize_gate"}
LEAST_S = 2e-6  # of points that are judged: below it a launch is all there is
SHARED = {
    "resident": Parameter(0.9, 0.3, 3.0),
    "sharpness": Parameter(4.0, 1.0, 12.0),
    "overlap": Parameter(4.0, 1.5, 12.0),
    "read_share": Parameter(0.93, 0.5, 1.0),
    "write_share": Parameter(0.85, 0.4, 1.0),
    "cache_read_share": Parameter(0.9, 0.3, 2.0),
    "cache_write_share": Parameter(0.5, 0.2, 2.0),
}
# kernels that are seen only as parts of an operator share a latency
LATENCY = {"unary_float32": "unary", "scale_rows": "small", "scale_columns": "small", "softmax_warp": "softmax"}
LATENCY |= {"reduce_float32": "reduce", "reduce_all": "reduce"}
STEPS = [step for one in OPERATORS.values() for step in one.steps]
BY_ROWS = {name for step in STEPS for name in (step.kernel, step.short_kernel) if step.blocks == "rows" and name}
REREADS = {step.kernel for step in STEPS if step.rereads}
REDUCE = {step.kernel for step in STEPS if step.blocks.startswith("reduce")}
SLOW = {"widen", "scale_rows", "scale_columns", "cat", "transpose"}  # kernels with few loads in flight
DEFAULTS = {
    "reread_slots": 0.0,
    "row_slots": 0.0,
    "chain_cycles": 0.0,
    "split_cycles": 0.0,
    "missed_slots": 0.0,
    "full_cycles": 0.0,
    "memory_share": 1.0,
}
START = {"transpose": 200.0, "cat": 30.0, "widen": 50.0}  # slots of kernels that bandwidth does not limit
PARTS = ("elementwise", "rows", "activations")


@dataclass(frozen=True)
class Points:
    """Of one operator, arrays [points]."""

    operator: str
    rows: Floats
    width: Floats
    seconds: Floats
    held_out: NDArray[np.bool_]

    def predict(self, machine: GpuMachine, fit: MemoryBoundFit) -> Floats:
        """Seconds."""
        return by_rows(machine, fit, self.operator, self.rows, self.width).seconds


def points(rows: Sequence[Mapping[str, Any]]) -> list[Points]:
    """Of a record, by operator; what was refused or has no model is left out."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        operator = QUANTIZERS.get(row.get("family", ""), row.get("family", ""))
        if row["part"] in PARTS and operator in OPERATORS and "us" in row:
            groups[operator].append(row)
    return [_points(operator, some) for operator, some in groups.items()]


def _points(operator: str, rows: Sequence[Mapping[str, Any]]) -> Points:
    height = [row.get("rows", 1) for row in rows]
    width = [row.get("width", row.get("elements")) for row in rows]
    seconds = [1e-6 * row["us"] for row in rows]
    tall, wide, time = (np.array(column, dtype=np.float64) for column in (height, width, seconds))
    return Points(operator, tall, wide, time, np.array([row["held_out"] for row in rows], dtype=bool))


def parameters(kernels: Sequence[str]) -> dict[str, Parameter]:
    """By path: what all share, then latency, slots, ... of each kernel."""
    found = dict(SHARED)
    for name in kernels:
        found[f"{LATENCY.get(name, name)}.latency_cycles"] = Parameter(1200.0, 50.0, 20000.0)
        found[f"{name}.slots"] = Parameter(START.get(name, 5.0), 0.1, 2000.0)
        if name in BY_ROWS | REDUCE:
            found[f"{name}.row_slots"] = Parameter(300.0, 1.0, 1e5)
            found[f"{LATENCY.get(name, name)}.chain_cycles"] = Parameter(50.0 if name in REDUCE else 1.0, 1e-3, 200.0)
        if name in REDUCE:
            found[f"{LATENCY.get(name, name)}.split_cycles"] = Parameter(5000.0, 10.0, 5e4)
        if name in BY_ROWS | REDUCE | SLOW:
            found[f"{name}.missed_slots"] = Parameter(5.0, 0.1, 500.0)
        if name in REREADS:
            found[f"{name}.reread_slots"] = Parameter(5.0, 0.1, 500.0)
        if name in QUANTIZERS.values():
            found[f"{name}.full_cycles"] = Parameter(1000.0, 10.0, 2e4)
    return found


def section(values: Mapping[str, float], kernels: Sequence[str]) -> MemoryBoundFit:
    """The fit that some numbers make."""
    fields: dict[str, Any] = {name: values[name] for name in SHARED}
    return MemoryBoundFit.model_construct(None, **fields, kernels={name: _kernel(values, name) for name in kernels})


def _kernel(values: Mapping[str, float], name: str) -> MovingKernel:
    like = LATENCY.get(name, name)
    fields: dict[str, Any] = {"latency_cycles": values[f"{like}.latency_cycles"], "slots": values[f"{name}.slots"]}
    for field, default in DEFAULTS.items():
        fields[field] = values.get(f"{name}.{field}", values.get(f"{like}.{field}", default))
    return MovingKernel.model_construct(None, **fields)


def fit_memory_bound(machine: GpuMachine, found: Sequence[Points]) -> MemoryBoundFit:
    """Least squares of relative errors over the points that are not held out."""
    steps = [step for one in found for step in OPERATORS[one.operator].steps]
    kernels = [name for name in dict.fromkeys(n for step in steps for n in (step.kernel, step.short_kernel)) if name]

    def residuals(values: Mapping[str, float]) -> Floats:
        fit = section(values, kernels)
        return np.concatenate([np.log(one.predict(machine, fit) / one.seconds)[~one.held_out] for one in found])

    given = parameters(kernels)
    touched = np.concatenate([np.tile(_touched(one, list(given)), (int((~one.held_out).sum()), 1)) for one in found])
    return MemoryBoundFit.model_validate(section(fitted(given, residuals, touched), kernels).model_dump())


def _touched(one: Points, names: Sequence[str]) -> NDArray[np.bool_]:
    """[parameters] that the operator's time depends on."""
    kernels = {name for step in OPERATORS[one.operator].steps for name in (step.kernel, step.short_kernel)}
    near = kernels | {LATENCY.get(name, name) for name in kernels}
    return np.array([name in SHARED or name.partition(".")[0] in near for name in names], dtype=bool)


def errors(machine: GpuMachine, fit: MemoryBoundFit, found: Sequence[Points]) -> dict[str, Error]:
    """By class and by operator, of held-out points of LEAST_S and more."""
    pairs: dict[str, list[tuple[Floats, Floats]]] = defaultdict(list)
    for one in found:
        judged = one.held_out & (one.seconds >= LEAST_S)
        if judged.any():
            pair = one.predict(machine, fit)[judged], one.seconds[judged]
            kind = OPERATORS[one.operator].kind
            pairs[kind].append(pair)
            pairs[f"{kind}: {one.operator}"].append(pair)
    return {kind: error(*map(np.concatenate, zip(*some, strict=True))) for kind, some in pairs.items()}
