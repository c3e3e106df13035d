"""Faulty copies of a YAML file, each with the place and the words that its refusal must hold.

    for mutation in mutations(path.read_bytes()):
        assert_refused(mutation, tmp_path / path.name, load)

The tree is composed here, not by the loader under test.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from accel.loading import Faults

POWERS_OF_TWO = frozenset({"pseudo_channels", "bank_groups", "banks_per_group", "rows", "row_bytes", "burst_bytes"})
KIND = "method"  # the key that tells the members of a union apart
CHOICES = frozenset({"scheduler", "page", "refresh", KIND})  # one of a few words


@dataclass(frozen=True)
class Mutation:
    """A faulty text; `expected` lists (line, words) of faults that must be reported; line 0: anywhere."""

    name: str
    raw: bytes
    expected: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Entry:
    """A key of the file with its value; `parent_line` is where the key of its mapping stands."""

    path: tuple[str, ...]
    key: ScalarNode
    value: Node
    mapping: MappingNode
    parent_line: int

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def line(self) -> int:
        return self.key.start_mark.line + 1

    @property
    def kind(self) -> str:
        return str(self.value.tag).rpartition(":")[2]

    @property
    def is_number(self) -> bool:
        return isinstance(self.value, ScalarNode) and self.kind in ("int", "float")

    @property
    def is_flow(self) -> bool:
        return bool(self.mapping.flow_style)


def entries(text: str) -> list[Entry]:
    """All keys of a YAML text, in order."""
    return list(_entries(YAML(typ="safe", pure=True).compose(text), (), 1))


def _entries(node: Node, path: tuple[str, ...], parent_line: int) -> Iterator[Entry]:
    if isinstance(node, SequenceNode):
        for item in node.value:
            yield from _entries(item, path, item.start_mark.line + 1)
    if not isinstance(node, MappingNode):
        return
    parent_line = parent_line if path else node.start_mark.line + 1
    for key, value in node.value:
        entry = Entry((*path, key.value), key, value, node, parent_line)
        yield entry
        yield from _entries(value, entry.path, entry.line)


def mutations(raw: bytes, optional: Collection[str] = (), free: Collection[str] = ()) -> Iterator[Mutation]:
    """Every mutator on every key that it suits.

    optional   dotted paths that may be absent
    free       dotted paths of mappings whose keys are the user's own (not misspelt, no extra key)
    """
    text = raw.decode()
    found = entries(text)
    for entry in found:
        own = ".".join(entry.path[:-1]) in free
        yield from () if own else misspelt(text, entry)
        yield from duplicated(text, entry)
        yield from () if own or entry.name in optional else missing(text, entry)
        yield from wrong_values(text, entry)
    yield from () if "" in free else extra(text, found)
    yield from two_faults(text, found)
    yield from damaged(text, found)


def misspelt(text: str, entry: Entry) -> Iterator[Mutation]:
    """The last letter twice."""
    key = entry.key.value
    changed = _replace(text, entry.key, key + key[-1])
    if key == KIND:
        yield Mutation(f"misspelt {entry.name}", changed.encode(), ((0, "must name its kind"),))
        return
    yield _mutation("misspelt", entry, changed, f"did you mean '{key}'?" if len(key) > 2 else "unknown key")


def duplicated(text: str, entry: Entry) -> Iterator[Mutation]:
    """The same pair once more before the entry: the entry itself is the duplicate."""
    if not isinstance(entry.value, ScalarNode) or "\n" in _source(text, entry.value):
        return
    pair = f"{entry.key.value}: {_source(text, entry.value)}"
    separator = ", " if entry.is_flow else "\n" + " " * entry.key.start_mark.column
    at = entry.key.start_mark.index
    changed = text[:at] + pair + separator + text[at:]
    line = entry.line if entry.is_flow else entry.line + 1
    yield Mutation(f"duplicate {entry.name}", changed.encode(), ((line, "duplicate key"),))


def missing(text: str, entry: Entry) -> Iterator[Mutation]:
    """The pair removed; reported where the key of its mapping stands."""
    pairs = entry.mapping.value
    at = next(i for i, (key, _) in enumerate(pairs) if key is entry.key)
    if len(pairs) == 1 or (at == len(pairs) - 1 and entry.is_flow):
        return
    start, end = entry.key.start_mark.index, entry.value.end_mark.index
    if at + 1 < len(pairs):
        end = pairs[at + 1][0].start_mark.index
    elif "\n" in text[start:end] and not entry.value.flow_style:  # a block ends where the next key starts: whole lines
        start, end = start - entry.key.start_mark.column, end - entry.value.end_mark.column
    changed = text[:start] + text[end:]
    line = 0 if at == 0 and len(entry.path) == 1 else entry.parent_line
    expected = (line, f"{entry.key.value}: missing key") if entry.key.value != KIND else (0, "must name its kind")
    yield Mutation(f"missing {entry.name}", changed.encode(), (expected,))


def wrong_values(text: str, entry: Entry) -> Iterator[Mutation]:
    """Values of another type or outside every range."""
    for name, value, words in _wrong(entry):
        yield _mutation(name, entry, _replace_value(text, entry, value), words)


def _is_choice(entry: Entry) -> bool:
    return entry.key.value in CHOICES or entry.path[0] == "fallback" or entry.name == "memory.kind"


def _wrong(entry: Entry) -> Iterator[tuple[str, str, str]]:
    if entry.is_number:
        yield "wrong type", "plenty", "must be "
        yield "unit", "1 GHz", "write the plain number" if "assumed" not in _siblings(entry) else "number"
        yield "quoted", '"16"', "without quotes" if "assumed" not in _siblings(entry) else "number"
        yield "negative", "-1", "got"
        yield "not finite", ".nan", "must be a finite number"
    if entry.kind == "bool":
        yield "wrong type", "perhaps", "must be true or false"
    if entry.kind == "str" and entry.key.value != "planner":
        yield "wrong type", "[1]", "must be " if _is_choice(entry) else "must be text"
    if _is_choice(entry):
        yield "unknown choice", "sometimes", "must be "
    if entry.key.value in ("planner", "standard"):
        yield "unknown name", "spaten", "no such"
    if entry.key.value in POWERS_OF_TWO:
        yield "not a power of two", "3", "must be a power of two, got 3"
        yield "zero", "0", "must be >= 1, got 0"
    if isinstance(entry.value, SequenceNode):
        yield "empty list", "[]", "must have at least 1 entries"


def _siblings(entry: Entry) -> set[str]:
    return {key.value for key, _ in entry.mapping.value}


def extra(text: str, found: list[Entry]) -> Iterator[Mutation]:
    """A key that no schema has, at the top of the file's mapping."""
    first = found[0]
    at = first.key.start_mark.index
    changed = text[:at] + "unexpected_key: 1\n" + text[at:]
    yield Mutation("extra key", changed.encode(), ((first.line, "unexpected_key: unknown key"),))


def two_faults(text: str, found: list[Entry]) -> Iterator[Mutation]:
    """The last number negative and the first key given twice: both must be reported."""
    numbers = [entry for entry in found if entry.is_number and "assumed" not in _siblings(entry)]
    scalars = [entry for entry in found if isinstance(entry.value, ScalarNode) and not entry.is_flow]
    if not numbers or numbers[-1].line <= scalars[0].line:
        return
    changed = _replace(text, numbers[-1].value, "-1")
    (twice,) = duplicated(changed, scalars[0])
    expected = (*twice.expected, (numbers[-1].line + 1, "got -1"))
    yield Mutation(f"two faults {numbers[-1].name}", twice.raw, expected)


def damaged(text: str, found: list[Entry]) -> Iterator[Mutation]:
    """Files that are no YAML mapping at all."""
    nested = next((e for e in found if len(e.path) > 1 and not e.is_flow), None)
    if nested:
        at = nested.key.start_mark.index - nested.key.start_mark.column
        changed = text[:at] + "\t" + text[nested.key.start_mark.index :]
        yield Mutation("tab", changed.encode(), ((nested.line, "tab"),))
    raw = text.encode()
    yield Mutation("empty", b"", ((1, "must be a mapping"),))
    yield Mutation("comment only", b"# nothing\n", ((1, "must be a mapping"),))
    yield Mutation("list", b"- 1\n- 2\n", ((1, "must be a mapping"),))
    yield Mutation("binary", bytes(range(256)), ((0, "must be UTF-8 text"),))
    yield Mutation("zero byte", raw + b"\x00", ((text.count("\n") + 1, "must be text"),))
    yield Mutation("latin 1", raw + b"# \xe9", ((text.count("\n") + 1, "must be UTF-8 text"),))
    yield Mutation("two documents", raw + b"\n---\na: 1\n", ((0, "single document"),))
    yield Mutation("open bracket", raw + b"\nlast: [1, 2\n", ((0, "must be YAML"),))


def _mutation(name: str, entry: Entry, text: str, words: str) -> Mutation:
    return Mutation(f"{name} {entry.name}", text.encode(), ((entry.line, words),))


def _source(text: str, node: Node) -> str:
    return text[node.start_mark.index : node.end_mark.index]


def _replace(text: str, node: Node, value: str) -> str:
    return text[: node.start_mark.index] + value + text[node.end_mark.index :]


def _replace_value(text: str, entry: Entry, value: str) -> str:
    """A block value starts and ends on lines of its own: its successor comes to the line of the key."""
    if isinstance(entry.value, ScalarNode) or entry.value.flow_style:
        return _replace(text, entry.value, value)
    end = entry.value.end_mark.index - entry.value.end_mark.column
    return f"{text[: entry.key.end_mark.index]}: {value}\n{text[end:]}"


def assert_refused(mutation: Mutation, path: Path, load: Callable[[Path], Any]) -> None:
    """`load` answers with Faults: each with file, line and column, the expected ones among them, in order."""
    path.write_bytes(mutation.raw)
    try:
        load(path)
    except Faults as error:
        faults = error.faults
    else:
        raise AssertionError(f"{mutation.name}: accepted")
    for fault in faults:
        assert fault.file == str(path), fault
        assert min(fault.line, fault.column) >= 1, fault
        assert str(fault).startswith(f"{path}:{fault.line}:{fault.column}: "), fault
    positions = [(fault.line, fault.column) for fault in faults]
    assert positions == sorted(positions), f"{mutation.name}: not sorted:\n{error_text(faults)}"
    for line, words in mutation.expected:
        found = [f for f in faults if words in str(f) and line in (0, f.line)]
        assert found, f"{mutation.name}: no fault {words!r} on line {line} among\n{error_text(faults)}"


def error_text(faults: Collection[Any]) -> str:
    """Faults one a line."""
    return "\n".join(map(str, faults))
