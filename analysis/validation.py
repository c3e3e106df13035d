"""`tilewright validate`: what kind of file is it, and what is wrong in it?"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from accel.fault import Fault, Faults
from accel.loading import Document, check, read_document

TRACES = (".zip", ".csv")


@dataclass(frozen=True)
class Report:
    """One file: its kind, what it holds in a few words, its faults."""

    file: str
    kind: str
    holds: str
    faults: tuple[Fault, ...] = ()

    def __str__(self) -> str:
        if self.faults:
            return "\n".join(map(str, self.faults))
        return f"{self.file}: {self.kind}, {self.holds}: no faults"

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        faults = [{**asdict(fault), "message": str(fault)} for fault in self.faults]
        return {"file": self.file, "kind": self.kind, "holds": self.holds, "faults": faults}


def validate_file(path: Path) -> Report:
    """Check a file by its content; a missing or unreadable file is a fault like any other."""
    kind = "trace" if path.suffix in TRACES else "unknown"
    try:
        if kind == "trace":
            return Report(str(path), kind, _trace(path))
        document = read_document(path)
        kind = kind_of(document)
        return Report(str(path), kind, _CHECKS[kind](document))
    except Faults as error:
        return Report(str(path), kind, "", error.faults)
    except (OSError, ValueError) as error:
        return Report(str(path), kind, "", (Fault(str(path), 0, 0, "", str(error)),))


def kind_of(document: Document) -> str:
    """The kind of file whose schema shares most keys with it; a sweep where none does."""
    from accel.machine import Machine
    from accel.memory import Standard
    from analysis.sweep import SweepFile
    from workloads.benchmarks.file import Benchmark
    from workloads.schemes import Scheme

    keys = {"sweep": _keys(SweepFile), "standard": _keys(Standard), "benchmark": _keys(Benchmark)}
    keys["scheme"] = _keys(Scheme)
    keys["machine"] = set().union(*map(_keys, get_args(Machine)))
    return max(keys, key=lambda kind: len(keys[kind] & set(document.data)))


def _keys(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def _sweep(document: Document) -> str:
    from analysis.sweep import read_sweep, selected

    sweep = read_sweep(document.file)
    return f"{len(selected(sweep))} points of {sweep.machine} on {sweep.workload}"


def _machine(document: Document) -> str:
    from accel.machine import check_machine

    machine = check_machine(document)
    return f"{machine.name}, planner {machine.planner}"


def _standard(document: Document) -> str:
    from accel.memory import Standard

    return check(document, Standard).name


def _benchmark(document: Document) -> str:
    from workloads.benchmarks.file import read_benchmark

    benchmark = read_benchmark(document.file)
    return f"{benchmark.name}, {benchmark.kind}"


def _scheme(document: Document) -> str:
    from workloads.schemes import read_scheme

    scheme = read_scheme(document.file)
    return f"{scheme.name}, {len(scheme.rules)} rules"


def _trace(path: Path) -> str:
    from workloads.trace import load_workload

    return load_workload(path).name


_CHECKS: dict[str, Callable[[Document], str]] = {
    "sweep": _sweep,
    "machine": _machine,
    "standard": _standard,
    "benchmark": _benchmark,
    "scheme": _scheme,
}
