"""Everything that can be wrong in a sweep file, found before the first point runs."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from accel.fault import Fault, Faults, dotted
from accel.loading import Document, check, nearest, read_text
from accel.machine import load_machine, machine_names
from analysis.axes import axis_model, axis_values, parse_constraint
from analysis.quantities import result_keys
from analysis.sweep import SweepFile
from workloads.policy import Policy
from workloads.trace import benchmark_names, workload_names


def check_sweep(document: Document) -> SweepFile:
    """The document as a `SweepFile`; raises Faults with all faults of the file at their positions."""
    found = [*_schema(document), *_machines(document), *_workload(document)]
    found += [*_axes(document), *_objectives(document), *_constraints(document), *_search(document)]
    if found:
        raise Faults(found)
    return check(document, SweepFile)


def resolve(name: str, sweep_file: Path) -> str:
    """A shipped name stays; a path is taken relative to the folder of the sweep file."""
    path = sweep_file.parent / name
    shipped = name in machine_names() or name in _workloads()
    return name if shipped else str(path.resolve())


def _workloads() -> list[str]:
    shelves = (workload_names(), benchmark_names(), workload_names("exported"), workload_names("timed"))
    return [name for shelf in shelves for name in shelf]


def _schema(document: Document) -> tuple[Fault, ...]:
    try:
        check(document, SweepFile)
    except Faults as error:
        return error.faults
    return ()


def _machines(document: Document) -> Iterator[Fault]:
    names: list[tuple[tuple[str | int, ...], Any]] = [(("machine",), document.data.get("machine"))]
    baselines = document.data.get("baselines")
    if isinstance(baselines, list):
        names += [(("baselines", i), name) for i, name in enumerate(baselines)]
    for path, name in names:
        yield from _shipped_or_file(document, path, name, machine_names())
        if _is_machine(document, name):
            yield from _faults_of(partial(load_machine, _resolved(document, name)))


def _workload(document: Document) -> Iterator[Fault]:
    yield from _shipped_or_file(document, ("workload",), document.data.get("workload"), _workloads())


def _shipped_or_file(
    document: Document, path: tuple[str | int, ...], name: Any, shipped: Collection[str]
) -> Iterator[Fault]:
    if not isinstance(name, str) or name in shipped:
        return
    if not Path(_resolved(document, name)).is_file():
        yield document.fault(path, "must be a shipped name or a file", name, nearest(name, shipped))


def _resolved(document: Document, name: str) -> str:
    return resolve(name, Path(document.file))


def _is_machine(document: Document, name: Any) -> bool:
    return isinstance(name, str) and (name in machine_names() or Path(_resolved(document, name)).is_file())


def _axes(document: Document) -> Iterator[Fault]:
    axes = document.data.get("set")
    if not isinstance(axes, Mapping):
        return
    for name, axis in axes.items():
        at = ("set", str(name))
        form = list(_axis_form(document, at, axis))
        yield from form
        if not form:
            yield from _axis_values(document, at, axis)


def _axis_form(document: Document, at: tuple[str, str], axis: Any) -> Iterator[Fault]:
    """Is it a list of different values or a whole range?"""
    model = axis_model(axis)
    if model is not None:
        try:
            check(_part(document, at), model, dotted(at))
        except Faults as error:
            yield from error.faults
    elif not isinstance(axis, list):
        yield document.fault(at, "must be a list, {from, to, steps} or {from, to, log}", axis)
    elif not axis:
        yield document.fault(at, "must have at least 1 entries", axis)
    else:
        repeated = [i for i, value in enumerate(axis) if value in axis[:i]]
        for i in repeated:
            yield document.fault((*at, i), "must not repeat a value", axis[i])


def _part(document: Document, at: tuple[str | int, ...]) -> Document:
    """The mapping at a path as a document of its own, with its positions."""
    size = len(at)
    positions = {path[size:]: position for path, position in document.positions.items() if path[:size] == at}
    data = document.data
    for step in at:
        data = data[step]  # type: ignore[index]
    return replace(document, data=data, positions=positions, ranges={}, origins={}, faults=())


def _axis_values(document: Document, at: tuple[str, str], axis: Any) -> Iterator[Fault]:
    """Would the machine or the policy take each value?"""
    part, _, path = at[1].partition(".")
    if part not in ("machine", "policy") or not path:
        yield document.fault(at, "must be machine.<path> or policy.<key>", at_key=True)
        return
    machine = _sound_machine(document)
    if part == "machine" and machine is None:
        return  # reported at the machine itself
    for i, value in enumerate(axis_values(axis)):
        place = (*at, i) if isinstance(axis, list) else at
        attempt = partial(_try_machine if part == "machine" else _try_policy, path, value, machine)
        for fault in _faults_of(attempt):
            yield _moved(document, place, fault, part, path)
            if fault.rule == "unknown path":
                return


def _sound_machine(document: Document) -> str | None:
    """The machine's name or path, if it has no fault of its own."""
    name = document.data.get("machine")
    if not isinstance(name, str) or not _is_machine(document, name):
        return None
    machine = _resolved(document, name)
    return None if _faults_of(partial(load_machine, machine)) else machine


def _try_machine(path: str, value: Any, machine: str | None) -> None:
    load_machine(machine or "", {path: value})


def _try_policy(path: str, value: Any, _machine: str | None) -> None:
    """Check one key of the policy; raises Faults."""
    if path not in Policy.model_fields:
        raise Faults([Fault("", 0, 0, path, "unknown path", None, nearest(path, Policy.model_fields))])
    check(read_text(json.dumps({path: value}).encode(), "policy"), Policy)


def _moved(document: Document, place: tuple[str | int, ...], fault: Fault, part: str, path: str) -> Fault:
    """A fault that a value causes in the machine, told at the value's place in the sweep."""
    unknown = fault.rule == "unknown path"
    here = document.fault(place[:2] if unknown else place, fault.rule, None, fault.hint, at_key=unknown)
    return replace(here, path=f"{part}.{fault.path or path}", value=fault.value)


def _faults_of(attempt: Callable[[], Any]) -> tuple[Fault, ...]:
    try:
        attempt()
    except Faults as error:
        return error.faults
    return ()


def _objectives(document: Document) -> Iterator[Fault]:
    objectives = document.data.get("objectives")
    for key in objectives if isinstance(objectives, Mapping) else ():
        yield from _known_key(document, ("objectives", key), key)


def _known_key(document: Document, path: tuple[str | int, ...], key: str) -> Iterator[Fault]:
    if key not in result_keys():
        at_key = path[0] == "objectives"
        yield document.fault(path, "must be a number of the result", key, nearest(key, result_keys()), at_key=at_key)


def _constraints(document: Document) -> Iterator[Fault]:
    constraints = document.data.get("constraints")
    for i, text in enumerate(constraints if isinstance(constraints, list) else ()):
        if not isinstance(text, str):
            continue
        try:
            yield from _known_key(document, ("constraints", i), parse_constraint(text).key)
        except ValueError as error:
            yield document.fault(("constraints", i), str(error), text)


def _search(document: Document) -> Iterable[Fault]:
    search = document.data.get("search")
    if isinstance(search, Mapping) and search.get("method") == "random" and "points" not in search:
        yield document.fault(("search",), "must say how many points", None, "for example points: 100", at_key=True)
