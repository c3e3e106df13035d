"""Fits energy (`accel/gpu/energy.py`) to loops whose power the driver's counter told: part `energy` of a record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from accel.gpu.energy import DEVICE_PJ_PER_BIT, LIKE, EnergyFit, node_scale, square_volts
from accel.gpu.fit import Error
from accel.gpu.machine import GpuMachine
from analysis.gpu.held_out import error
from dataflow.gpu.energy import at_clock, throttled, total_j
from dataflow.gpu.estimate import Estimate
from dataflow.gpu.moving_kernels import OPERATORS

UNITS = {"bf16": "fp16", "w4a16": "fp16", "fp8": "fp8", "fma32": "fp32", "exp2": "special"}  # others: int8
# chains in registers whose operands hardly change: they take far less than real data, so nothing is fitted to them
QUIET = ("multiply-add", "exponentials", "int8 by wgmma", "int8 by mma.sync")
FITTED = ("fp16", "int8", "fp8", "fp32")  # others take what these do (`accel.gpu.energy.LIKE`)
TILE = 128, 256  # of a product: what its operands cross the L2 for
STREAMS = 0.7  # of the memory's peak: above it memory limits a loop, not the clock
KEYS = 128  # queries of prefill attention that share a read of the keys
HEAD, SCORE_OPERATIONS = 128, 48.0  # head size of these loops; two an instruction, of a score, half of its issue slots
# assumed: integer operations that unpack a 4-bit value (tables of the kernels' READMEs), values = 2 a byte
UNPACKED = {"w4a8_channel": 1.0, "w4a8_group": 1.5, "w4a16": 1.5, "portable_channel": 1.0, "kv4": 2.5}
OPERANDS = {"fp16": 2.0, "int8": 1.0, "fp8": 1.0}  # bytes


@dataclass(frozen=True)
class Loop:
    """One loop: joules and what one call did."""

    name: str
    power_w: float
    seconds: float
    clock: float
    dram_bytes: float
    l2_bytes: float
    operations: Mapping[str, float]
    held_out: bool


def loops(machine: GpuMachine, rows: Sequence[Mapping[str, Any]]) -> list[Loop]:
    """Of a record; what was refused, or whose power the counter did not tell, is left out."""
    return [_loop(machine, row) for row in rows if row["part"] == "energy" and row.get("power_w")]


def _loop(machine: GpuMachine, row: Mapping[str, Any]) -> Loop:
    operator = row["name"].split()[-1]
    stream = row["l2_bytes"] and operator in OPERATORS
    counts = _counts(operator, row["l2_bytes"]) if stream else _products(row)
    l2_bytes = max(row["l2_bytes"], row["dram_bytes"]) if stream or operator == "read" else _operands(row, counts)
    clock = 1e6 * row["sm_mhz"] / machine.clock_hz
    seconds = 1e-6 * row["us"]
    return Loop(row["name"], row["power_w"], seconds, clock, row["dram_bytes"], l2_bytes, counts, row["held_out"])


def _counts(operator: str, size: float) -> dict[str, float]:
    """Operations of a stream of so many bytes."""
    made = OPERATORS[operator]
    elements = size / made.compulsory
    return {unit: each * elements for step in made.steps for unit, each in step.operations}


def _products(row: Mapping[str, Any]) -> dict[str, float]:
    work = row["operations"]
    counts = {UNITS.get(row["format"], "fp16" if row["format"].startswith("kv") else "int8"): work}
    if row["name"].startswith("prefill"):
        scores = work / 4 / HEAD
        counts |= {"special": scores, "fp32": SCORE_OPERATIONS * scores}
    if row["format"] in UNPACKED:
        counts["int32"] = UNPACKED[row["format"]] * 2 * row["dram_bytes"]
    return counts


def _operands(row: Mapping[str, Any], counts: Mapping[str, float]) -> float:
    """Bytes between L2 and multiprocessors: operands of tiles, keys and values; not of loops without memory."""
    name, (unit, work) = row["name"], next(iter(counts.items()))
    if name.startswith("prefill"):
        return work / KEYS
    if name.split()[-1].count("x") == 2:
        x_bytes = OPERANDS[unit]
        w_bytes = 0.5 if row["format"] in UNPACKED else x_bytes
        return float(max(row["dram_bytes"], work / 2 * (x_bytes / TILE[1] + w_bytes / TILE[0])))
    return float(row["dram_bytes"])


def estimate(one: Loop) -> Estimate:
    """What was measured, as an estimate of one point."""
    zero, seconds = np.zeros(1), np.array([one.seconds])
    return Estimate(
        kind="energy",
        seconds=seconds,
        floor_s=zero,
        dram_read_bytes=np.array([one.dram_bytes]),
        dram_write_bytes=zero,
        l2_bytes=np.array([one.l2_bytes]),
        operations={unit: np.array([count]) for unit, count in one.operations.items()},
        terms={},
    )


def predicted_w(machine: GpuMachine, fit: EnergyFit, one: Loop) -> float:
    """Watts of a loop, its time and clock taken from the measurement."""
    made = estimate(one)
    joules = total_j(at_clock(machine, fit, made, np.array([one.clock]), made.seconds))
    return float(min(machine.power.limit_w, joules[0] / one.seconds))


def active_share(machine: GpuMachine, rows: Sequence[Mapping[str, Any]]) -> float:
    """Of the limit: what a GPU with a context takes at rest, above idle without one."""
    rest = next(row["power_w"] for row in rows if row["part"] == "idle" and row["name"] == "after rest")
    return max(0.0, rest - machine.power.idle_w) / machine.power.limit_w


def fit_energy(machine: GpuMachine, found: Sequence[Loop], share: float) -> EnergyFit:
    """Least squares of relative errors of power, no number below 0, over loops that are not held out.

    share   of `active_share`: static power is measured, not fitted
    """
    try:
        from scipy.optimize import nnls
    except ImportError:
        raise ImportError("fitting needs scipy: install tilewright[fit]") from None
    used = [one for one in found if not one.held_out and one.name not in QUIET]
    units = [unit for unit in FITTED if any(one.operations.get(unit) for one in used)]
    resting = machine.power.idle_w + share * machine.power.limit_w
    known = [resting + 8e-12 * _device(machine) * one.dram_bytes / one.seconds for one in used]
    watts = np.array([one.power_w for one in used])
    matrix = np.array([_columns(machine, one, units) for one in used])
    values, _ = nnls(matrix / watts[:, None], (watts - np.array(known)) / watts)
    path, l2, *operations = values.tolist()
    pairs = dict(zip(units, operations, strict=True))
    return EnergyFit(active_share=share, path_pj_per_bit=path, l2_pj_per_bit=l2, operation_pj=pairs)


def _device(machine: GpuMachine) -> float:
    return DEVICE_PJ_PER_BIT[machine.memory.kind]


def _columns(machine: GpuMachine, one: Loop, units: Sequence[str]) -> list[float]:
    """Watts of each number of the fit where it is 1."""
    logic = 1e-12 * node_scale(machine.process_nm) * float(square_volts(one.clock * machine.clock_hz)) / one.seconds
    moved = [8e-12 * size / one.seconds for size in (one.dram_bytes, one.l2_bytes)]
    counts = dict(one.operations)
    for unit, ((like, times), *_) in LIKE.items():
        if unit not in units and like in units:
            counts[like] = counts.get(like, 0.0) + times * counts.pop(unit, 0.0)
    return [*moved, *(logic * counts.get(unit, 0.0) for unit in units)]


def as_used(machine: GpuMachine, fit: EnergyFit, one: Loop) -> tuple[float, float]:
    """(watts, seconds) of a loop of which only the time at the highest clock is known: what a prediction has.

    That time is not measured where the limit lowered the clock: it is put at the measured one times the clock's share,
    or at the measured one where memory limits.
    """
    made = estimate(one)
    streams = one.dram_bytes / one.seconds > STREAMS * machine.memory.peak_bytes_per_s
    seconds = made.seconds * (1.0 if streams else min(1.0, one.clock))
    found = throttled(machine, fit, replace(made, seconds=seconds, terms={"dram" if streams else "tensor": seconds}))
    return float(found.power_w[0]), float(found.seconds[0])


def errors(machine: GpuMachine, fit: EnergyFit, found: Sequence[Loop]) -> dict[str, Error]:
    """Of held-out loops: power and energy as predictions give them; power where time and clock are given.

    Chains in registers, to which nothing is fitted, stand apart.
    """
    held = [one for one in found if one.held_out and one.name not in QUIET]
    quiet = [one for one in found if one.held_out and one.name in QUIET]
    if not held:
        return {}
    used = np.array([as_used(machine, fit, one) for one in held])
    watts, seconds = (np.array([getattr(one, name) for one in held]) for name in ("power_w", "seconds"))
    told = {"power": error(used[:, 0], watts), "energy": error(used[:, 0] * used[:, 1], watts * seconds)}
    told["power: time and clock given"] = error([predicted_w(machine, fit, one) for one in held], watts)
    if quiet:
        ours = [predicted_w(machine, fit, one) for one in quiet]
        told["power: chains in registers"] = error(ours, [one.power_w for one in quiet])
    return told
