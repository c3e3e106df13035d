"""Machines by name or path: `load_machine("spatten")`."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from accel.a3 import A3Machine
from accel.eager import EagerMachine
from accel.fault import Fault, Faults, dotted, nearest
from accel.gpu.machine import GpuMachine, beside
from accel.loading import Document, check, prefixed, read_document
from accel.memory import Memory, Standard, address_fields, address_xor
from accel.mnnfast import MnnFastMachine
from accel.relative import RelativeMachine
from accel.schema import with_assumed_numbers
from accel.spatten import SpattenMachine

Machine: TypeAlias = SpattenMachine | EagerMachine | A3Machine | GpuMachine | MnnFastMachine | RelativeMachine
_MODELS: dict[str, type[Machine]] = {
    "a3": A3Machine,
    "eager": EagerMachine,
    "gpu": GpuMachine,
    "mnnfast": MnnFastMachine,
    "relative": RelativeMachine,
    "spatten": SpattenMachine,
}
_SPECS = Path(__file__).parent / "specs"
_STANDARDS = Path(__file__).parent / "standards"


def machine_names() -> tuple[str, ...]:
    """Names of the shipped machines, sorted."""
    return _names(_SPECS)


def standard_names() -> tuple[str, ...]:
    """Names of the shipped DRAM standards, sorted."""
    return _names(_STANDARDS)


def _names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def find_machine(name_or_path: str | Path) -> Path:
    """The file of a shipped machine, or the path itself if it looks like one (`.yaml`, `.yml`, a folder).

    Raises ValueError with the nearest shipped name.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if path.is_file():
            return path
        raise ValueError(f"machine {str(name_or_path)!r}: no such file")
    return _find(str(name_or_path), _SPECS, "machine")


def _find(name: str, folder: Path, noun: str) -> Path:
    if name not in _names(folder):
        raise ValueError(f"no {noun} {name!r} ({nearest(name, _names(folder))})")
    return folder / f"{name}.yaml"


def load_machine(
    name_or_path: str | Path,
    overrides: Mapping[str, Any] | None = None,
    origin: str | Mapping[str, str] = "",
) -> Machine:
    """A machine, after values at dotted paths are replaced (`{"memory.channels": 8}`).

    `origin` names where the overrides come from ("sweep.yaml:12:5"), for all or by path.
    Raises Faults with everything that is wrong in the file and the overrides.
    """
    document = read_document(find_machine(name_or_path))
    return check_machine(document.override(overrides, origin) if overrides else document)


def check_machine(document: Document, prefix: str = "") -> Machine:
    """The machine that a document describes, by its `planner`; raises Faults (see `accel.loading.check`)."""
    planner = document.data.get("planner")
    if planner not in list(_MODELS):
        raise Faults(_unknown_planner(document, planner, prefix))
    machine = check(document, _MODELS[planner], prefix)
    if isinstance(machine, SpattenMachine | A3Machine | MnnFastMachine):
        _check_memory(document, machine.memory, prefix)
    return beside(machine, document.file) if isinstance(machine, GpuMachine) else machine


def _check_memory(document: Document, memory: Memory, prefix: str) -> None:
    """The standard must exist, and the address map must use all its bits; raises Faults."""
    name, _, speed = memory.standard.partition(":")
    if name not in standard_names():
        fault = document.fault(("memory", "standard"), "no such standard", name, nearest(name, standard_names()))
        raise Faults(prefixed([fault], prefix))
    speeds = load_standard(name).speed_names
    if memory.standard != name and speed not in speeds:
        rule = f"no such speed of {name}"
        raise Faults(prefixed([document.fault(("memory", "standard"), rule, speed, nearest(speed, speeds))], prefix))
    faults = list(_map_faults(document, memory, load_standard(memory.standard)))
    if faults:
        raise Faults(prefixed(faults, prefix))


def _map_faults(document: Document, memory: Memory, standard: Standard) -> Iterator[Fault]:
    for key, resolve in (("address_map", address_fields), ("xor", address_xor)):
        try:
            resolve(memory, standard)
        except ValueError as error:
            yield document.fault(("memory", key), str(error))


def _unknown_planner(document: Document, planner: Any, prefix: str) -> list[Fault]:
    """The faults against the kind of machine that shares most keys with the file."""
    likely = max(_MODELS.values(), key=lambda model: len(set(model.model_fields) & set(document.data)))
    try:
        check(document, likely)
    except Faults as error:
        found = [fault for fault in error.faults if fault.path != "planner"]
    rule, value = ("no such planner", planner) if "planner" in document.data else ("missing key", None)
    fault = document.fault(("planner",), rule, value, nearest(planner, _MODELS), at_key=value is None)
    return prefixed([fault, *found], prefix)


def assumptions(name_or_path: str | Path) -> dict[str, tuple[float, float]]:
    """Ranges (low, high) of the numbers that a machine assumes, by dotted path."""
    document = read_document(find_machine(name_or_path))
    return {dotted(path): span for path, span in document.ranges.items()}


@lru_cache
def load_standard(name: str) -> Standard:
    """A shipped DRAM standard (`standards/<name>.yaml`), at its default speed or as `ddr4:3200AA` at another.

    Raises ValueError with the nearest name or speed, or Faults.
    """
    stem, colon, speed = name.partition(":")
    standard = check(read_document(_find(stem, _STANDARDS, "standard")), Standard)
    return standard.at(speed) if colon else standard


def json_schema(kind: str) -> dict[str, Any]:
    """JSON Schema of a file of `machine` or `standard`; raises ValueError for another kind."""
    if kind == "standard":
        return with_assumed_numbers([Standard])
    if kind == "machine":
        return with_assumed_numbers(list(_MODELS.values()))
    raise ValueError(f"no schema of {kind!r} (allowed: machine, standard)")
