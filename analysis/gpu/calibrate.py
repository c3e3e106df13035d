"""From a calibration record to a machine file and its fit: `tilewright calibrate`.

Sections are fitted one after another; one that fails or has no points leaves the others alone and says why.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accel.gpu.fit import Error, Fit
from accel.gpu.machine import GpuMachine
from accel.machine import check_machine
from analysis.gpu import fit_moving
from analysis.gpu.device_file import Record, device_text
from analysis.gpu.fit_moving import Section
from analysis.gpu.fits import add_section
from analysis.gpu.held_out import said
from analysis.writing import replacing

Told = Callable[[str], None]


@dataclass
class Fitted:
    """What a calibration came to: held-out errors by class, and why a section is missing, by section."""

    errors: dict[str, Error] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def calibrate(record: Record, file: str, sheet: Path, out: Path, told: Told = lambda text: None) -> Fitted:
    """Write `out` (a machine) and its fit beside it (`out` with the suffix .fit.yaml) from a record.

    record  what `run_calibration` gave; `file` is its name, for the origin of each number
    sheet   the machine file whose data sheet the measured numbers go into
    Raises ValueError where record and sheet do not go together, ImportError without the extra `fit`.
    """
    import scipy.optimize  # noqa: F401  # its absence is told before anything is written

    fit_path = out.with_suffix(".fit.yaml")
    source = f"{file}, {record['device']}, {record['date'][:10]}, commit {record.get('commit') or 'unknown'}"
    with replacing(out) as scratch:
        scratch.write_text(device_text(sheet, record, out.stem, f"./{fit_path.name}", source), "utf-8")
    fit_path.unlink(missing_ok=True)
    return fit_sections(record, _machine(out), fit_path, out.stem, source, told)


def _machine(path: Path) -> GpuMachine:
    from accel.loading import read_document

    machine = check_machine(read_document(path))
    assert isinstance(machine, GpuMachine), "device_text starts from a GPU"
    return machine


def fit_sections(
    record: Record, machine: GpuMachine, path: Path, name: str, source: str, told: Told = lambda text: None
) -> Fitted:
    """Fit every section that the record has points for, and put each into the file at once."""
    found, fit = Fitted(), Fit(name=name, source=source)
    for group, sections in SECTIONS.items():
        told(group)
        try:
            made = sections(machine, record, fit)
        except (ValueError, KeyError) as reason:
            found.missing[group] = str(reason)
            continue
        for section, one in made.items():
            whole = {kind: error for kind, error in one.errors.items() if ":" not in kind}
            fit = add_section(path, section, one.fit, _origin(source, one, whole), whole, fit=name, source=source)
            found.errors |= whole
    return found


def _origin(source: str, one: Section, errors: Mapping[str, Error]) -> str:
    judged = "; ".join(f"{kind} {said(error)}" for kind, error in errors.items())
    return f"{source}; {one.fitted} points; held out: {judged}"


def _moving(machine: GpuMachine, record: Record, made: Fit) -> dict[str, Section]:
    return fit_moving.sections(machine, record["rows"])


def _w4(machine: GpuMachine, record: Record, made: Fit) -> dict[str, Section]:
    from analysis.gpu.fit_w4 import fit_w4

    fit, errors = fit_w4(record, machine)
    used = sum(row["part"].startswith("ours_") and not row["held_out"] for row in record["rows"])
    return {"w4": Section(fit, errors, used)}


def _attention(machine: GpuMachine, record: Record, made: Fit) -> dict[str, Section]:
    from analysis.gpu.fit_attention import sections

    return sections(machine, record, made.memory_bound)


def _library(machine: GpuMachine, record: Record, made: Fit) -> dict[str, Section]:
    from analysis.gpu.fit_library import fit_library

    return {"gemm": Section(*fit_library(machine, record["rows"]))}


def _energy(machine: GpuMachine, record: Record, made: Fit) -> dict[str, Section]:
    """Last: what loops do is told by the sections before. A record without loops gives none."""
    from analysis.gpu.fit_energy import section_of

    found = section_of(machine, made, [record["rows"]])
    return {} if found is None else {"energy": found}


SECTIONS: dict[str, Callable[[GpuMachine, Record, Fit], dict[str, Section]]] = {
    "kernels that move bytes": _moving,
    "products of libraries": _library,
    "W4 products": _w4,
    "attention": _attention,
    "energy of loops": _energy,
}


def read_calibration(path: Path) -> dict[str, Any]:
    """A record of `python -m gpu_kernels calibrate`; ValueError for anything else."""
    from gpu_kernels import record
    from gpu_kernels.bench.calibration.suite import FORMAT

    return record.read(path, FORMAT)
