"""Sections of a fit that a calibration record gives: memory_bound, convolution, transfer.

tilewright calibrate ... ; python -m analysis.gpu.fit_moving h200 gpu_kernels/results/calibration_h200.json
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from accel.gpu.fit import Error
from accel.gpu.loading import fit_names, load_fit
from accel.gpu.machine import GpuMachine
from accel.gpu.memory_bound import MemoryBoundFit
from accel.machine import load_machine
from analysis.gpu import fit_convolution as convolutions
from analysis.gpu import fit_memory_bound as moving
from analysis.gpu.fits import add_section
from analysis.gpu.held_out import said

CARRIED = ("h100",)  # whose kernels of a serving system no record of ours has
FITS = Path(__file__).parents[2] / "accel/fits"


@dataclass(frozen=True)
class Section:
    """What goes into a file of fits: numbers, errors of held-out points by class, and how many points were fitted."""

    fit: BaseModel | Mapping[str, BaseModel]
    errors: Mapping[str, Error]
    fitted: int


def sections(machine: GpuMachine, rows: Sequence[Mapping[str, Any]]) -> dict[str, Section]:
    """By name of the section; a part that the record lacks gives none. Raises ValueError without elementwise points."""
    measured = [row for row in rows if "us" in row and "refused" not in row]
    parts = {name: [row for row in measured if row["part"] == name] for name in ("convolution", "transfers")}
    points = moving.points(measured)
    if not points:
        raise ValueError("record: no points of elementwise kernels, which convolutions and copies need too")
    memory = moving.fit_memory_bound(machine, points)
    fitted = sum(int((~one.held_out).sum()) for one in points)
    found = {"memory_bound": Section(memory, moving.errors(machine, memory, points), fitted)}
    if some := parts["convolution"]:
        dense = convolutions.fit_convolution(machine, memory, some)
        found["convolution"] = Section(
            dense, convolutions.convolution_errors(machine, dense, memory, some), _used(some)
        )
    if some := parts["transfers"]:
        copies = convolutions.fit_transfer(machine, memory, some)
        found["transfer"] = Section(copies, convolutions.transfer_errors(machine, copies, memory, some), _used(some))
    return found


def _used(rows: Sequence[Mapping[str, Any]]) -> int:
    return sum(not row["held_out"] for row in rows)


def write(machine: GpuMachine, record: Path, out: Path) -> dict[str, Section]:
    """Put the sections into a file of fits, each with its origin."""
    found = json.loads(record.read_text("utf-8"))
    made = sections(machine, found["rows"])
    for name, one in made.items():
        fit = with_carried(one.fit, CARRIED) if isinstance(one.fit, MemoryBoundFit) else one.fit
        whole = {kind: error for kind, error in one.errors.items() if ":" not in kind}
        told = "; ".join(f"{kind} {said(error)}" for kind, error in whole.items())
        origin = f"{record.name} of {found['date'][:10]}, {one.fitted} points; held out: {told}"
        add_section(out, name, fit, origin, whole, fit=out.stem, source=f"{record.name}, {found['device']}")
    return made


def with_carried(fit: MemoryBoundFit, others: Sequence[str]) -> MemoryBoundFit:
    """With kernels that only the fits of other devices know: in cycles and issue slots they carry over."""
    kernels = dict(fit.kernels)
    for other in others:
        known = load_fit(other).memory_bound if other in fit_names() else None
        kernels = (dict(known.kernels) if known else {}) | kernels
    return fit.model_copy(update={"kernels": kernels})


def main(name: str, record: str) -> None:
    """Fit a shipped machine, and print all errors."""
    machine = load_machine(name)
    if not isinstance(machine, GpuMachine):
        raise ValueError(f"machine: must be a GPU of these models, got {name!r}")
    for one in write(machine, Path(record), FITS / f"{name}.yaml").values():
        for kind, error in one.errors.items():
            print(f"{kind:36}{said(error)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
