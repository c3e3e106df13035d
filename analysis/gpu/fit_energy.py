"""Fits energy (`accel/gpu/energy.py`) to loops whose power the driver's counter told: part `energy` of records.

What a loop does is told by the models that predict its time (`loops.py`), so that the energy of a prediction is judged
by the same counts. How the numbers are bound to each other was chosen by leaving loops of calibration out one by one
(within the limit 5.9 % mean, 10.7 % at the 90th percentile; without it 8.2 and 21.3 %). A constant of all kernels that
run is not among them: it explains loops near the limit, and misses published sweeps of power on other GPUs by a third.

Held-out loops of the H200, power and energy, mean and 90th percentile:

    counts by hand, one GPU, first evaluation       8.3 and 27.0 %, 13.8 and 27.1 %
    counts of the models, two GPUs, evaluated once  1.7 and 3.8 %, 4.3 and 8.4 %; clock given, no limit: 6.6 and 14.2 %

The first evaluation pointed to what was not counted: padded products, mma.sync, instructions of norms. The second is
therefore not blind. Least certain: FlashAttention 2 (14 to 24 % too low), whose products read registers.

    python -m analysis.gpu.fit_energy h200 calibration_h200.json calibration_h200_second_machine.json
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from accel.gpu.energy import EnergyFit, as_fitted, device_byte_j, node_scale, square_volts
from accel.gpu.fit import Error, Fit
from accel.gpu.loading import load_fit
from accel.gpu.machine import GpuMachine
from accel.machine import load_machine
from analysis.gpu.fit_moving import FITS, Section
from analysis.gpu.fits import add_section
from analysis.gpu.held_out import error, said
from analysis.gpu.loops import Loop, loops
from dataflow.gpu.energy import at_clock, throttled, total_j

# operands that do not change once they have converged: they take far less than real data, so nothing is fitted to them
QUIET = ("multiply-add", "exponentials")
FITTED = ("fp16", "fp32")  # others take what these do (`accel.gpu.energy.LIKE`)
RECORDS = Path(__file__).parents[2] / "gpu_kernels/results"


def predicted_w(machine: GpuMachine, fit: EnergyFit, one: Loop) -> float:
    """Watts of a loop, its time and clock taken from the measurement; nothing keeps them within the limit."""
    clock, seconds = np.array([one.clock]), np.array([one.seconds])
    return float(total_j(at_clock(machine, fit, one.estimate, clock, seconds))[0] / one.seconds)


def active_share(machine: GpuMachine, rows: Sequence[Mapping[str, Any]]) -> float:
    """Of the limit: what a GPU with a context takes at rest, above idle."""
    rest = next(row["power_w"] for row in rows if row["part"] == "idle" and row["name"] == "after rest")
    return max(0.0, rest - machine.power.idle_w) / machine.power.limit_w


def calibrating(found: Sequence[Loop]) -> list[Loop]:
    """Loops that may be fitted."""
    return [one for one in found if not one.held_out and one.name not in QUIET]


def fit_energy(machine: GpuMachine, found: Sequence[Loop], share: float) -> EnergyFit:
    """Least squares of relative errors of power, no number below 0, over loops that are not held out.

    share   of `active_share`: static power is measured, not fitted
    """
    try:
        from scipy.optimize import nnls
    except ImportError:
        raise ImportError("fitting needs scipy: install tilewright[fit]") from None
    used = calibrating(found)
    units = [unit for unit in FITTED if any(as_fitted(other, (unit,))[1] for one in used for other in _units(one))]
    watts = np.array([one.power_w for one in used])
    known = np.array([_known_w(machine, one, share) for one in used])
    matrix = np.array([_columns(machine, one, units) for one in used])
    values, _ = nnls(matrix / watts[:, None], (watts - known) / watts)
    path, l2, *operations = values.tolist()
    pairs = dict(zip(units, operations, strict=True))
    return EnergyFit(active_share=share, path_pj_per_bit=path, l2_pj_per_bit=l2, operation_pj=pairs)


def _units(one: Loop) -> list[str]:
    return [unit for unit, count in one.estimate.operations.items() if count[0]]


def _bytes(one: Loop) -> float:
    return float((one.estimate.dram_read_bytes + one.estimate.dram_write_bytes)[0])


def _known_w(machine: GpuMachine, one: Loop, share: float) -> float:
    """Watts that are not fitted: rest, and DRAM chips."""
    resting = machine.power.idle_w + share * machine.power.limit_w
    return resting + device_byte_j(machine) * _bytes(one) / one.seconds


def _columns(machine: GpuMachine, one: Loop, units: Sequence[str]) -> list[float]:
    """Watts of each number of the fit where it is 1."""
    top = float(square_volts(float(machine.clock_hz)))
    logic = float(square_volts(one.clock * machine.clock_hz)) / one.seconds
    moved = [8e-12 * logic / top * size for size in (_bytes(one), float(one.estimate.l2_bytes[0]))]
    counts = dict.fromkeys(units, 0.0)
    for unit, count in one.estimate.operations.items():
        like, share = as_fitted(unit, units)
        counts[like] = counts.get(like, 0.0) + share * float(count[0])
    return [*moved, *(1e-12 * node_scale(machine.process_nm) * logic * counts[unit] for unit in units)]


def left_out(machine: GpuMachine, found: Sequence[Loop], share: float) -> dict[str, float]:
    """Of calibration loops by name: relative error of power, its name left out of the fit; time and clock given."""
    used, errors = calibrating(found), {}
    for name in dict.fromkeys(one.name for one in used):
        fit = fit_energy(machine, [one for one in used if one.name != name], share)
        off = [predicted_w(machine, fit, one) / one.power_w - 1 for one in used if one.name == name]
        errors[name] = float(np.mean(off))
    return errors


def as_used(machine: GpuMachine, fit: EnergyFit, one: Loop) -> tuple[float, float]:
    """(watts, seconds) of a loop as a prediction has them: nothing of the measurement is given."""
    found = throttled(machine, fit, one.estimate)
    return float(found.power_w[0]), float(found.seconds[0])


def errors(machine: GpuMachine, fit: EnergyFit, found: Sequence[Loop]) -> dict[str, Error]:
    """Of held-out loops: power and energy as predictions give them; power_at_clock: time and clock are given.

    Most loops are at the board's limit, where all predictions above it say the same: power_at_clock, which no limit
    cuts, tells how good the numbers are.
    Chains in registers, to which nothing is fitted, stand apart.
    """
    held = [one for one in found if one.held_out and one.name not in QUIET]
    quiet = [one for one in found if one.held_out and one.name in QUIET]
    if not held:
        return {}
    used = np.array([as_used(machine, fit, one) for one in held])
    watts, seconds = (np.array([getattr(one, name) for one in held]) for name in ("power_w", "seconds"))
    told = {"power": error(used[:, 0], watts), "energy": error(used[:, 0] * used[:, 1], watts * seconds)}
    told["power_at_clock"] = error([predicted_w(machine, fit, one) for one in held], watts)
    if quiet:
        ours = [predicted_w(machine, fit, one) for one in quiet]
        told["power: chains in registers"] = error(ours, [one.power_w for one in quiet])
    return told


def section_of(machine: GpuMachine, fit: Fit, rows: Sequence[Sequence[Mapping[str, Any]]]) -> Section | None:
    """Of the loops of one or more records; `fit` describes them. Static power is that of the first record.

    None where the records have no loops of kernels that the fit knows.
    """
    found = [one for each in rows for one in loops(machine, fit, each)]
    if not calibrating(found):
        return None
    made = fit_energy(machine, found, active_share(machine, rows[0]))
    return Section(made, errors(machine, made, found), len(calibrating(found)))


def main(name: str, *records: str) -> None:
    """Fit a shipped machine to records in the results folder, all of them at once, and print all errors."""
    machine, fit = load_machine(name), load_fit(name)
    assert isinstance(machine, GpuMachine)
    made = section_of(machine, fit, [json.loads((RECORDS / one).read_text("utf-8"))["rows"] for one in records])
    assert made is not None, "no record has loops"
    told = "; ".join(f"{kind} {said(one)}" for kind, one in made.errors.items())
    origin = f"{', '.join(records)}, {made.fitted} loops; held out: {told}"
    whole = {kind: one for kind, one in made.errors.items() if ":" not in kind}
    add_section(FITS / f"{name}.yaml", "energy", made.fit, origin, whole)
    print(made.fit, *(f"{kind:36}{said(one)}" for kind, one in made.errors.items()), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
