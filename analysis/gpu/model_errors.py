"""Errors of whole models against recordings that were held out whole (`fit_framework.py` says which were not).

python -m analysis.gpu.model_errors h200            # tables; --write puts the errors into the fit
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from accel.gpu.fit import Error
from accel.gpu.loading import load_fit
from accel.gpu.machine import GpuMachine
from accel.machine import load_machine
from analysis.gpu.fit_framework import FITS, LAUNCHED, measured_seconds, model_of, recordings
from analysis.gpu.fits import write_fit
from analysis.gpu.held_out import error, said
from dataflow.gpu.host import EXECUTIONS
from dataflow.gpu.trace import Pass, error_class, time_pass
from workloads.trace import load_workload


@dataclass(frozen=True)
class Compared:
    """One part of one recording: seconds and joules of a pass, predicted and measured."""

    recording: str
    found: Pass
    measured_s: float
    measured_j: float | None

    @property
    def kind(self) -> str:
        """Class of the error table."""
        return error_class(self.found.execution, self.found.host_s > self.found.device_s)

    @property
    def relative(self) -> float:
        """(predicted - measured) / measured."""
        return self.found.latency_s / self.measured_s - 1

    @property
    def relative_j(self) -> float | None:
        """The same of energy."""
        return None if self.measured_j is None else sum(self.found.power.joules.values()) / self.measured_j - 1


def compared(machine: GpuMachine, names: Iterable[str]) -> list[Compared]:
    """Every part that the recordings have; not the one that gave a host time."""
    found = []
    for name in names:
        trace = load_workload(name)
        for execution in EXECUTIONS:
            timed = trace.made["timed"].get(execution)
            if timed and not (execution == "compiled" and model_of(name) == model_of(LAUNCHED)):
                made = time_pass(machine, trace, execution)
                found.append(Compared(name, made, timed["pass_us"] * 1e-6, timed.get("pass_j")))
    return found


def errors(points: Sequence[Compared]) -> dict[str, Error]:
    """By class; "model_energy" is over all executions."""
    kinds = {kind: [p for p in points if p.kind == kind] for kind in sorted({p.kind for p in points})}
    found = {
        kind: error(np.array([p.found.latency_s for p in some]), np.array([p.measured_s for p in some]))
        for kind, some in kinds.items()
    }
    joules = [(sum(p.found.power.joules.values()), p.measured_j) for p in points if p.measured_j is not None]
    return found | {"model_energy": error(*(np.array(column, float) for column in zip(*joules, strict=True)))}


def by_kind(machine: GpuMachine, name: str) -> list[tuple[str, float, float]]:
    """(kind, predicted, measured seconds) of a recording's eager operators, the largest difference first."""
    trace = load_workload(name)
    made = time_pass(machine, trace, "graph")
    predicted = made.by_kind(made.costs.estimate.seconds)
    measured = made.by_kind(measured_seconds(trace))
    rows = [(kind, predicted[kind], measured[kind]) for kind in predicted]
    return sorted(rows, key=lambda row: -abs(row[1] - row[2]))


def write(name: str, found: dict[str, Error]) -> None:
    """Put the errors into a shipped fit."""
    fit = load_fit(name)
    kept = {kind: one for kind, one in fit.error.items() if not kind.startswith("model_")}
    write_fit(FITS / f"{name}.yaml", fit.model_copy(update={"error": kept | found}))


def main() -> None:
    """Print, and write if asked to."""
    parser = argparse.ArgumentParser(prog="analysis.gpu.model_errors")
    parser.add_argument("machine")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--calibration", action="store_true", help="the models that were looked into, by operator too")
    given = parser.parse_args()
    machine = load_machine(given.machine)
    if not isinstance(machine, GpuMachine):
        raise SystemExit(f"{given.machine}: no GPU of these models")
    names = recordings(given.calibration)
    points = compared(machine, names)
    for point in points:
        joules = "" if point.relative_j is None else f"{point.relative_j:+8.1%} J"
        times = f"{point.found.latency_s * 1e3:10.3f} ms {point.measured_s * 1e3:10.3f} ms {point.relative:+7.1%}"
        print(f"{point.recording:52} {point.kind:28} {times} {joules}")
    if given.calibration:
        for name in names:
            for kind, predicted, measured in by_kind(machine, name)[:8]:
                print(f"{name:44} {kind:16} {predicted * 1e3:9.3f} {measured * 1e3:9.3f} ms")
    found = errors(points)
    for kind, one in found.items():
        print(f"{kind:28} {said(one)}")
    if given.write:
        write(given.machine, found)


if __name__ == "__main__":
    main()
