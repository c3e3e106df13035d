"""The trace file: same bytes, and nothing altered, truncated or newer gets in."""

import json
import zipfile

import numpy as np
import pytest

from workloads import trace as trace_module
from workloads import trace_file
from workloads.trace import COLUMNS, SHELVES, TABLES, TEXT_COLUMNS, Trace, describe, load_workload, workload_names
from workloads.trace_file import read_trace, trace_bytes, write_trace


@pytest.fixture
def small() -> Trace:
    operators = {name: np.array(["bmm", "view"]) if name in TEXT_COLUMNS else np.array([3, 4]) for name in COLUMNS}
    facts = {"b.half": np.array([[0.5, 1.25]], np.float16), "a": np.arange(5, dtype=np.uint16)}
    return Trace("small", {"layers": 2}, {"kind": "dense"}, operators, facts)


@pytest.fixture
def whole(small) -> Trace:
    """A trace with every table."""
    tables = {
        table: {name: np.array(["linear", "1x2"]) if name in TEXT_COLUMNS else np.array([3, 4]) for name in columns}
        for table, columns in TABLES.items()
    }
    return Trace("whole", {}, {"kind": "exported"}, **tables)


def test_a_trace_comes_back_as_it_was_and_gives_the_same_bytes(small, tmp_path):
    path = tmp_path / "small.trace.zip"
    write_trace(small, path)
    back = read_trace(path)
    assert (back.name, back.model, back.made) == (small.name, small.model, small.made)
    for mine, other in ((small.operators, back.operators), (small.facts, back.facts)):
        assert set(mine) == set(other)
        for name, values in mine.items():
            assert other[name].dtype == values.dtype
            np.testing.assert_array_equal(other[name], values)
    assert trace_bytes(back) == path.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_every_table_comes_back(whole, tmp_path):
    path = tmp_path / "whole.trace.zip"
    write_trace(whole, path)
    back = read_trace(path)
    for table, columns in TABLES.items():
        assert set(getattr(back, table)) == set(columns)
        for name in columns:
            np.testing.assert_array_equal(getattr(back, table)[name], getattr(whole, table)[name])
    assert trace_bytes(back) == path.read_bytes()


@pytest.mark.parametrize("table", TABLES)
def test_a_table_without_a_column_is_refused(whole, table):
    columns = dict(list(getattr(whole, table).items())[1:])
    with pytest.raises(ValueError, match=f"whole: {table}: columns must be"):
        Trace("whole", {}, {}, **{**{name: getattr(whole, name) for name in TABLES}, table: columns})


def test_bytes_depend_neither_on_time_nor_on_the_order_of_facts(small, monkeypatch):
    before = trace_bytes(small)
    monkeypatch.setattr("time.time", lambda: 2e9)
    turned = dict(reversed(small.facts.items()))
    assert trace_bytes(Trace(small.name, small.model, small.made, small.operators, turned)) == before


def test_every_altered_byte_is_noticed(small, tmp_path):
    data = trace_bytes(small)
    path = tmp_path / "x.trace.zip"
    for position in range(0, len(data), 7):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(ValueError, match=r"x\.trace\.zip"):
            read_trace(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(small, tmp_path, share):
    data = trace_bytes(small)
    path = tmp_path / "x.trace.zip"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"x\.trace\.zip: (must be a whole trace file|altered or truncated)"):
        read_trace(path)


def _rewrite(data_path, member, change):
    """The zip with one member changed, as an editor would leave it."""
    with zipfile.ZipFile(data_path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[member] = change(members[member])
    with zipfile.ZipFile(data_path, "w") as archive:
        for name, data in members.items():
            if data is not None:
                archive.writestr(name, data)


def test_a_newer_format_is_named(small, tmp_path):
    path = tmp_path / "x.trace.zip"
    write_trace(small, path)
    _rewrite(path, "trace.json", lambda text: json.dumps({**json.loads(text), "format": 3}).encode())
    with pytest.raises(ValueError, match=r"x.trace.zip: trace.json: format must be <= 2, got 3"):
        read_trace(path)


def test_an_altered_member_is_named(small, tmp_path):
    path = tmp_path / "x.trace.zip"
    write_trace(small, path)
    _rewrite(path, "facts/a.npy", lambda data: data[:-1] + b"\x09")
    with pytest.raises(ValueError, match=r"facts/a.npy: altered: SHA-256 must be"):
        read_trace(path)


def test_a_missing_member_is_named(small, tmp_path):
    path = tmp_path / "x.trace.zip"
    write_trace(small, path)
    _rewrite(path, "facts/a.npy", lambda data: None)
    with pytest.raises(ValueError, match="members must be"):
        read_trace(path)


def test_another_zip_is_no_trace(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(ValueError, match=r"x.zip: member trace.json must be there"):
        read_trace(tmp_path / "x.zip")


def test_a_writer_that_fails_leaves_the_old_file(small, tmp_path, monkeypatch):
    path = tmp_path / "x.trace.zip"
    write_trace(small, path)
    before = path.read_bytes()
    monkeypatch.setattr(trace_file, "trace_bytes", lambda trace: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_trace(small, path)
    assert path.read_bytes() == before


def test_operators_of_unequal_length_are_refused(small):
    with pytest.raises(ValueError, match="must have one length"):
        Trace("x", {}, {}, {**small.operators, "flops": np.arange(3)})


def test_operators_without_a_column_are_refused(small):
    with pytest.raises(ValueError, match="columns must be"):
        Trace("x", {}, {}, {name: v for name, v in small.operators.items() if name != "flops"})


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"workload: must be one of .*minilm.*, got 'minilmm'; did you mean 'minilm'"):
        load_workload("minilmm")


def test_a_path_is_read_again_once_it_changes(small, tmp_path):
    path = tmp_path / "x.trace.zip"
    write_trace(small, path)
    first = load_workload(path)
    assert load_workload(path) is first
    write_trace(Trace("other", {}, {"kind": "dense"}, {}), path)
    assert load_workload(path).name == "other"


def test_describe_counts_operators_by_part(small):
    rows = dict(describe(small))
    assert rows["operators.bmm"] == "3 operators, 9 launches, 9 flops, 18 bytes"
    assert rows["facts.b.half"] == "float16 [1, 2]"


def test_every_shipped_trace_loads_and_is_small():
    assert "minilm" in workload_names()
    for shelf in SHELVES:
        for name in workload_names(shelf):
            assert load_workload(name).name == name
    files = trace_module.DATA.rglob("*.trace.zip")
    assert sum(file.stat().st_size for file in files) <= 10_000_000
