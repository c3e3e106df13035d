"""Reading YAML files at the door: positions, overrides, and all faults at once.

    machine = check(read_document("my.yaml"), SpattenMachine)

A string is never a number, true is no count, NaN and infinities are refused.  YAML 1.2 reads `1e9` as a
float; a float without a fraction is accepted where a whole number is asked.  Anywhere
`{assumed: x, low: a, high: b}` stands for the number x and its range (`Document.ranges`).
"""

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from accel.fault import Fault, Faults, Path, dotted, nearest, shown
from accel.rules import hint, words
from accel.yaml_text import Content, Position, parse

__all__ = ["Document", "Fault", "Faults", "check", "nearest", "read_document", "read_text"]
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Document:
    """A YAML file as plain values, each with its position; treat `data` as read-only.

    ranges    (low, high) of the numbers given as {assumed, low, high}, by path
    origins   where an override came from ("sweep.yaml:12:5" or ""), by path
    faults    faults of form (duplicate keys, NaN, ...): `check` raises them together with its own
    """

    file: str
    data: dict[str, Any]
    positions: Mapping[Path, Position]
    ranges: Mapping[Path, tuple[float, float]]
    origins: Mapping[Path, str]
    faults: tuple[Fault, ...] = ()

    def override(self, values: Mapping[str, Any], origin: str | Mapping[str, str] = "") -> "Document":
        """A copy with the values at dotted paths (`units.topk.comparators`, `axes[0]`) replaced.

        `origin` says where the values come from, for all or by dotted path. An unknown path is a fault.
        """
        data, origins, faults = copy.deepcopy(self.data), dict(self.origins), list(self.faults)
        for name, value in values.items():
            came = origin if isinstance(origin, str) else origin.get(name, "")
            path = _split(name)
            if path not in self.positions or not _put(data, path, _plain(value)):
                faults.append(_unknown_path(name, came, self.positions))
            elif not _is_plain(_plain(value)):
                rule = "must be a finite number, text, true, false, a list or a mapping"
                faults.append(Fault(*_place(came), name, rule, shown(value)))
            origins[path] = came
        ranges = {path: r for path, r in self.ranges.items() if _within(path, origins) is None}
        return replace(self, data=data, ranges=ranges, origins=origins, faults=tuple(faults))

    def fault(self, path: Path, rule: str, value: Any = None, hint: str = "", *, at_key: bool = False) -> Fault:
        """A fault at the value (or key) of a path, or at the nearest key above it that the file has."""
        came = _within(path, self.origins)
        got = None if value is None else shown(value)
        if came is not None:
            return Fault(*_place(came), dotted(path), rule, got, hint)
        known = next(path[:n] for n in range(len(path), -1, -1) if path[:n] in self.positions)
        position = self.positions[known]
        line, column = position.key if at_key or known != path else position.value
        return Fault(self.file, line, column, dotted(path), rule, got, hint)


def read_document(path: str | FilePath) -> Document:
    """Parse a YAML file; Faults where it is not one YAML mapping or cannot be read. Cached by content."""
    file = str(path)
    try:
        raw = FilePath(path).read_bytes()
    except OSError as error:
        raise Faults([Fault(file, 1, 1, "", f"must be a readable file ({error.strerror})")]) from None
    return read_text(raw, file)


@lru_cache(maxsize=256)
def read_text(raw: bytes, file: str) -> Document:
    """`read_document` of bytes at hand; `file` is the name in messages."""
    content: Content = parse(raw, file)
    return Document(file, content.data, content.positions, content.ranges, {}, tuple(content.faults))


def check(document: Document, model: type[M], prefix: str = "") -> M:
    """The document as a `model`; Faults with everything that is wrong. `prefix` goes before each path."""
    instance, found = _validate(document.data, document, model)
    found = [*_not_repeated(found, document.faults), *document.faults, *_range_faults(document, model)]
    if found or instance is None:
        raise Faults(prefixed(found, prefix))
    return instance


def _validate(data: Any, document: Document, model: type[M]) -> tuple[M | None, list[Fault]]:
    try:
        return model.model_validate_json(json.dumps(_whole(data)), strict=True), []
    except ValidationError as error:
        return None, _faults(error, document, model)


def _range_faults(document: Document, model: type[BaseModel]) -> list[Fault]:
    """Both ends of an assumed range must be values that the schema allows."""
    names = {dotted(path) for path in document.ranges}
    found = []
    for index, end in enumerate(("low", "high") if names else ()):
        data = copy.deepcopy(document.data)
        for path, span in document.ranges.items():
            _put(data, path, span[index])
        wrong = [fault for fault in _validate(data, document, model)[1] if fault.path in names]
        found += [replace(fault, path=f"{fault.path}.{end}") for fault in wrong]
    return found


def _whole(value: Any) -> Any:
    """Whole floats as int: `1e9` may be a count, and every number field takes an int."""
    if isinstance(value, dict):
        return {key: _whole(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _faults(error: ValidationError, document: Document, model: type[BaseModel]) -> list[Fault]:
    """One fault a path; the rules of a union's members are joined, a deeper fault replaces its parent's."""
    by_path: dict[Path, list[Mapping[str, Any]]] = {}
    for entry in error.errors(include_url=False):
        by_path.setdefault(_document_path(entry, document.data), []).append(entry)
    deepest = [p for p in by_path if not any(q[: len(p)] == p and q != p for q in by_path)]
    return [_fault(path, by_path[path], document, model) for path in deepest]


def _document_path(entry: Mapping[str, Any], data: Any) -> Path:
    """`loc` without the names that pydantic adds for the members of a union."""
    path: list[str | int] = []
    for part in entry["loc"]:
        if (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int)):
            path.append(part)
            data = data[part]
    return (*path, entry["loc"][-1]) if entry["type"] == "missing" else tuple(path)


def _fault(path: Path, entries: list[Mapping[str, Any]], document: Document, model: type[BaseModel]) -> Fault:
    first = entries[0]
    rule = " or ".join(dict.fromkeys(words(entry) for entry in entries))
    advice = next((text for entry in entries if (text := hint(entry, model))), "")
    if first["type"] in ("missing", "extra_forbidden"):
        return document.fault(path, rule, None, advice, at_key=True)
    return replace(document.fault(path, rule, None, advice), value=shown(first["input"]))


def _not_repeated(found: list[Fault], known: tuple[Fault, ...]) -> list[Fault]:
    """Faults of form leave a hole (null) in the data: what the schema says of it is no news."""
    paths = [fault.path + "." for fault in known]
    return [f for f in found if f.value != "null" or not any(p.startswith(f.path + ".") for p in paths)]


def prefixed(faults: Iterable[Fault], prefix: str) -> list[Fault]:
    """The faults with `prefix.` before each path."""
    return [replace(f, path=".".join(filter(None, (prefix, f.path)))) for f in faults]


def _split(name: str) -> Path:
    parts: list[str | int] = []
    for piece in name.replace("[", ".[").split("."):
        index = piece[1:-1] if piece.startswith("[") and piece.endswith("]") else ""
        parts.append(int(index) if index.isdigit() else piece)
    return tuple(parts)


def _put(data: Any, path: Path, value: Any) -> bool:
    """False where another override has taken the path away."""
    try:
        for part in path[:-1]:
            data = data[part]
        data[path[-1]] = value if _is_plain(value) else None
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _plain(value: Any) -> Any:
    """NumPy scalars and tuples as a YAML file would hold them."""
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.item() if hasattr(value, "item") else value


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _within(path: Path, origins: Mapping[Path, str]) -> str | None:
    return next((origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in origins), None)


def _place(origin: str) -> tuple[str, int, int]:
    """`sweep.yaml:12:5` as file, line, column."""
    file, _, rest = origin.partition(":") if origin.count(":") == 2 else (origin, "", "")
    line, _, column = rest.partition(":")
    if line.isdigit() and column.isdigit():
        return file, int(line), int(column)
    return origin or "override", 0, 0


def _unknown_path(name: str, origin: str, positions: Mapping[Path, Position]) -> Fault:
    names = [dotted(path) for path in positions if path]
    return Fault(*_place(origin), name, "unknown path", None, nearest(name, names))
