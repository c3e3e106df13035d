"""Documents, overrides and faults on a toy schema."""

import itertools
import math
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field

from accel.loading import Document, Faults, check, read_document
from accel.quantities import PowerOfTwo


class Memory(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    channels: PowerOfTwo
    share: float
    map: tuple[str, ...]


class Toy(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    clock_hz: Annotated[int, Field(ge=1)]
    keep: Annotated[float, Field(gt=0, le=1)] | tuple[Annotated[float, Field(gt=0, le=1)], ...]
    memory: Memory


TOY = """\
clock_hz: 1e9
keep: 0.5
memory:
  channels: 16
  share: {assumed: 0.5, low: 0.25, high: 1}
  map: [row, column]
"""


def document(folder: Path, text: str | bytes = TOY) -> Document:
    path = folder / "toy.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_document(path)


def faults(folder: Path, text: str | bytes) -> list[str]:
    with pytest.raises(Faults) as error:
        check(document(folder, text), Toy)
    return [str(fault).removeprefix(f"{folder}/") for fault in error.value.faults]


def test_whole_float_is_a_count_and_assumed_range_is_kept(tmp_path: Path) -> None:
    toy = document(tmp_path)
    machine = check(toy, Toy)
    assert machine.clock_hz == 1_000_000_000
    assert isinstance(machine.clock_hz, int)
    assert machine.memory.share == 0.5
    assert dict(toy.ranges) == {("memory", "share"): (0.25, 1)}


@pytest.mark.parametrize("value", ["1.5e-1", "1.5"])
def test_fraction_is_no_count(tmp_path: Path, value: str) -> None:
    (fault,) = faults(tmp_path, TOY.replace("1e9", value))
    assert fault.startswith("toy.yaml:1:11: clock_hz: must be a whole number, got ")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("16", "true", "toy.yaml:4:13: memory.channels: must be a whole number, got true"),
        ("16", "yes", 'toy.yaml:4:13: memory.channels: must be a whole number, got "yes"'),
        ("1e9", "1 GHz", "toy.yaml:1:11: clock_hz: must be a whole number, got \"1 GHz\" "
         "(write the plain number in hertz; the unit is in the key's name)"),
        ("16", "12", "toy.yaml:4:13: memory.channels: must be a power of two, got 12"),
        ("0.5\n", "1.5\n", "toy.yaml:2:7: keep: must be <= 1 or must be a list, got 1.5"),
        ("0.5\n", "[0.5, 1.5]\n", "toy.yaml:2:13: keep[1]: must be <= 1, got 1.5"),
        ("low: 0.25", "low: 0.75", "toy.yaml:5:10: memory.share: must have low <= assumed <= high, "
         "got [0.75, 0.5, 1]"),
        ("low: 0.25, ", "", "toy.yaml:5:3: memory.share.low: missing key (assumed, low and high)"),
        ("0.5\n", ".inf\n", 'toy.yaml:2:7: keep: must be a finite number, got ".inf"'),
    ],
)  # fmt: skip
def test_fault_text(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert faults(tmp_path, TOY.replace(old, new, 1)) == [expected]


def test_all_faults_at_once_sorted(tmp_path: Path) -> None:
    text = TOY.replace("keep", "kep").replace("16", "0").replace("row", "1") + "clock_hz: 3\n"
    assert faults(tmp_path, text) == [
        "toy.yaml:1:1: keep: missing key",
        "toy.yaml:2:1: kep: unknown key (did you mean 'keep'? allowed: clock_hz, keep, memory)",
        "toy.yaml:4:13: memory.channels: must be >= 1, got 0",
        "toy.yaml:6:9: memory.map[0]: must be text, got 1",
        "toy.yaml:7:1: clock_hz: duplicate key (first given on line 1)",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &a [*a]\n", "toy.yaml:1:4: a[0]: must not contain itself"),
        ("a: *b\n", "toy.yaml:1:4: must be YAML: found undefined alias 'b'"),
        ("a: " + "[" * 3000, "toy.yaml:1:1: must not nest deeper than 50 levels"),
        ("a: !!python/name:os.system x\n", "toy.yaml:1:4: a: must not carry a tag"),
        ("a: " + "9" * 5000, "toy.yaml:1:4: a: must be a number that fits"),
        ("? [1]\n: 2\n", "toy.yaml:1:3: a key must be text"),
        (b"a: 1\nb: \xff\n", "toy.yaml:2:4: must be UTF-8 text, got byte 0xff"),
    ],
)
def test_hostile_text(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert any(fault.startswith(expected) for fault in faults(tmp_path, text))


def test_aliases_of_aliases_end(tmp_path: Path) -> None:
    levels = "abcdefgh"
    text = "a: &a [1, 1]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in itertools.pairwise(levels)
    )
    assert "must not hold more than 100000 values" in faults(tmp_path, text)[0]


def test_missing_file_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(Faults, match=r"no\.yaml:1:1: must be a readable file \(No such file"):
        read_document(tmp_path / "no.yaml")


def test_override_is_checked_and_leaves_the_document_alone(tmp_path: Path) -> None:
    toy = document(tmp_path)
    changed = toy.override({"memory.channels": np.int64(4), "memory.map[1]": "bank", "keep": (0.5, 1.0)})
    machine = check(changed, Toy)
    assert (machine.memory.channels, machine.memory.map, machine.keep) == (4, ("row", "bank"), (0.5, 1.0))
    assert check(toy, Toy).memory.channels == 16


def test_override_of_an_assumed_number_drops_its_range(tmp_path: Path) -> None:
    changed = document(tmp_path).override({"memory.share": 7})
    assert check(changed, Toy).memory.share == 7
    assert not changed.ranges


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("memory.chanels", 1, "memory.chanels: unknown path (did you mean 'memory.channels'?"),
        ("memory.share.low", 0, "memory.share.low: unknown path"),
        ("", 0, "unknown path"),
        ("memory.channels", 3, "memory.channels: must be a power of two, got 3"),
        ("memory.share", math.nan, "memory.share: must be a finite number, text"),
        ("memory.share", object(), "memory.share: must be a finite number, text"),
        ("memory.map[1]", 4, "memory.map[1]: must be text, got 4"),
    ],
)
def test_faulty_override_names_its_origin(tmp_path: Path, path: str, value: object, expected: str) -> None:
    with pytest.raises(Faults) as error:
        check(document(tmp_path).override({path: value}, origin="sweep.yaml:12:5"), Toy)
    (fault,) = error.value.faults
    assert (fault.file, fault.line, fault.column) == ("sweep.yaml", 12, 5)
    assert expected in str(fault)


def test_override_from_python_has_no_position_and_prefix_leads_the_path(tmp_path: Path) -> None:
    with pytest.raises(Faults, match=r"^override: machine\.keep: must be > 0 or must be a list, got 0$"):
        check(document(tmp_path).override({"keep": 0}), Toy, prefix="machine")


def test_ends_of_a_range_obey_the_schema(tmp_path: Path) -> None:
    text = TOY.replace("channels: 16", "channels: {assumed: 16, low: 3, high: 64}")
    assert faults(tmp_path, text) == ["toy.yaml:4:13: memory.channels.low: must be a power of two, got 3"]


def test_fault_at_a_path_that_the_file_lacks_stands_at_the_key_above(tmp_path: Path) -> None:
    fault = document(tmp_path).fault(("memory", "ranks", "count"), "must be there")
    assert (fault.line, fault.column, fault.path) == (3, 1, "memory.ranks.count")
