"""YAML text to plain values with the position of every key and value.

YAML 1.2: `1e9` is a number (a float; whole floats serve as counts, see `accel.loading`), `yes` is text.
The file is composed to nodes only, so no tag can build an object. Left out: merge keys, custom tags.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from accel.fault import Fault, Faults, Path, dotted, nearest, shown

_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = {"int", "float", "bool", "null", "str", "timestamp", "merge", "value"}
_MOST_VALUES = 100_000  # more than any honest file; aliases of aliases reach it in a few lines
_DEEPEST = 50
_ASSUMED = ("assumed", "low", "high")


@dataclass(frozen=True)
class Position:
    """Line and column, from 1, of a value and of its key (of an item: twice the item's)."""

    key: tuple[int, int]
    value: tuple[int, int]


@dataclass
class Content:
    """What a text holds: plain values, positions, ranges of assumed numbers, faults of form."""

    file: str
    data: Any = None
    positions: dict[Path, Position] = field(default_factory=dict)
    ranges: dict[Path, tuple[float, float]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    values: int = 0


def parse(raw: bytes, file: str) -> Content:
    """Raise Faults where the bytes are no single YAML mapping; faults inside it come with the result."""
    root = _compose(_decode(raw, file), file)
    if not isinstance(root, MappingNode):
        raise Faults([Fault(file, *_start(root), "", "must be a mapping of keys to values")])
    content = Content(file)
    content.positions[()] = Position(_start(root), _start(root))
    content.data = _build(root, (), content, ())
    return content


def _decode(raw: bytes, file: str) -> str:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _locate(raw[: error.start].decode("utf-8", "replace"))
        rule = "must be UTF-8 text"
        raise Faults([Fault(file, line, column, "", rule, f"byte 0x{raw[error.start]:02x}")]) from None
    if not text.strip():
        raise Faults([Fault(file, 1, 1, "", "must be a mapping of keys to values", "an empty file")])
    return text


def _locate(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _compose(text: str, file: str) -> Node:
    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except ReaderError as error:
        at = _locate(text[: error.position])
        raise Faults([Fault(file, *at, "", "must be text", f"character {error.character!r}")]) from None
    except MarkedYAMLError as error:
        raise Faults([_syntax_fault(error, file)]) from None
    except RecursionError:
        raise Faults([Fault(file, 1, 1, "", f"must not nest deeper than {_DEEPEST} levels")]) from None
    except (YAMLError, ValueError, AttributeError, KeyError, IndexError) as error:  # scanner bugs on junk
        raise Faults([Fault(file, 1, 1, "", "must be YAML", str(error)[:60])]) from None
    if root is None:
        raise Faults([Fault(file, 1, 1, "", "must be a mapping of keys to values", "no content")])
    return root


def _syntax_fault(error: MarkedYAMLError, file: str) -> Fault:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    rule = " ".join(str(part).strip() for part in (error.context, error.problem) if part)
    hint = "YAML indents with spaces, never with a tab" if "\\t" in rule or "tab" in rule else ""
    return Fault(file, line, column, "", f"must be YAML: {rule}", None, hint)


def _start(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _build(node: Node, path: Path, content: Content, above: tuple[Node, ...]) -> Any:
    content.values += 1
    if any(node is parent for parent in above):
        raise Faults([Fault(content.file, *_start(node), dotted(path), "must not contain itself")])
    if content.values > _MOST_VALUES or len(above) > _DEEPEST:
        rule = f"must not hold more than {_MOST_VALUES} values or nest deeper than {_DEEPEST} levels"
        raise Faults([Fault(content.file, *_start(node), dotted(path[:1]), rule)])
    if isinstance(node, ScalarNode):
        return _scalar(node, path, content)
    if isinstance(node, SequenceNode):
        return [_item(item, (*path, i), content, (*above, node)) for i, item in enumerate(node.value)]
    return _mapping(node, path, content, above)


def _item(node: Node, path: Path, content: Content, above: tuple[Node, ...]) -> Any:
    content.positions[path] = Position(_start(node), _start(node))
    return _build(node, path, content, above)


def _mapping(node: Node, path: Path, content: Content, above: tuple[Node, ...]) -> Any:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, ScalarNode):
            content.faults.append(Fault(content.file, *_start(key_node), dotted(path), "a key must be text"))
            continue
        key, at = key_node.value, _start(key_node)
        here = (*path, key)
        if key in result:
            first = content.positions[here].key
            hint = f"first given on line {first[0]}"
            content.faults.append(Fault(content.file, *at, dotted(here), "duplicate key", None, hint))
            continue
        content.positions[here] = Position(at, _start(value_node))
        result[key] = _build(value_node, here, content, (*above, node))
    return _assumed(result, path, content) if _is_assumed(result) else result


def _scalar(node: ScalarNode, path: Path, content: Content) -> Any:
    kind = str(node.tag).removeprefix(_TAG)
    try:
        if kind not in _PLAIN_TAGS:
            raise ValueError("must not carry a tag")
        return _SCALARS.get(kind, str)(node.value)
    except ValueError as error:
        rule = str(error) if str(error).startswith("must") else "must be a number that fits"
        value = str(node.tag) if kind not in _PLAIN_TAGS else shown(node.value)
        content.faults.append(Fault(content.file, *_start(node), dotted(path), rule, value))
        return None


def _integer(text: str) -> int:
    bare = text.replace("_", "").lower()
    return int(bare, 0) if bare.lstrip("+-")[:2] in ("0x", "0o", "0b") else int(bare, 10)


def _number(text: str) -> float:
    bare = text.replace("_", "").lower()
    value = float(bare.replace(".inf", "inf").replace(".nan", "nan"))
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


_SCALARS: dict[str, Any] = {
    "int": _integer,
    "float": _number,
    "bool": lambda text: text.lower() == "true",
    "null": lambda text: None,
}


def _is_assumed(value: dict[str, Any]) -> bool:
    """Two of the three keys are enough: the third may be misspelt."""
    return "assumed" in value or len(value.keys() & set(_ASSUMED)) == 2


def _assumed(value: dict[str, Any], path: Path, content: Content) -> Any:
    """`{assumed: x, low: a, high: b}` stands for x; the range is kept aside."""
    faults = list(_assumed_faults(value, path, content))
    content.faults += faults
    if not faults:
        content.ranges[path] = (value["low"], value["high"])
        for key in _ASSUMED:  # one number now: nothing below it can be overridden
            del content.positions[(*path, key)]
    return value.get("assumed")


def _assumed_faults(value: dict[str, Any], path: Path, content: Content) -> list[Fault]:
    found = []
    for key in sorted({*value, *_ASSUMED}):
        at = content.positions.get((*path, key), content.positions[path])
        name = dotted((*path, key))
        if key not in value:
            found.append(Fault(content.file, *at.key, name, "missing key", None, "assumed, low and high"))
        elif key not in _ASSUMED:
            found.append(Fault(content.file, *at.key, name, "unknown key", None, nearest(key, _ASSUMED)))
        elif isinstance(value[key], bool) or not isinstance(value[key], int | float):
            found.append(Fault(content.file, *at.value, name, "must be a number", shown(value[key])))
    if not found and not value["low"] <= value["assumed"] <= value["high"]:
        order = shown([value["low"], value["assumed"], value["high"]])
        at = content.positions[path]
        found.append(Fault(content.file, *at.value, dotted(path), "must have low <= assumed <= high", order))
    return found
