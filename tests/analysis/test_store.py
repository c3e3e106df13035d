"""The result store: exact values, all or nothing, keys that miss nothing."""

import math
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import sources
from analysis.cache import use_kernel_cache
from analysis.sources import source_hash
from analysis.store import Store, point_key

NUMBERS = st.floats(allow_nan=False) | st.integers(-(2**60), 2**60)


@given(st.dictionaries(st.text(max_size=5), NUMBERS, max_size=5))
def test_values_return_exactly(tmp_path_factory: pytest.TempPathFactory, row: dict[str, Any]) -> None:
    store = Store(tmp_path_factory.getbasetemp() / "exact.sqlite")
    store.put({"key": row})
    found = store.get("key")
    store.close()
    assert found == row
    assert [math.copysign(1, x) for x in row.values()] == [math.copysign(1, x) for x in found.values()]


def test_rows_come_in_the_order_of_the_keys(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    store.put({f"{i:04}": {"i": i} for i in range(1200)})
    keys = [f"{i:04}" for i in (1199, 3, 700, 5000)]
    assert [row["i"] for _, row in store.rows(keys)] == [1199, 3, 700]
    assert store.known(keys) == {"1199", "0003", "0700"}
    assert store.get("5000") is None


def test_a_row_that_cannot_be_written_takes_the_chunk_with_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    with pytest.raises(TypeError):
        store.put({"a": {"x": 1}, "b": {"x": object()}})
    assert store.known(["a", "b"]) == set()


def test_a_chunk_that_breaks_half_way_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    with pytest.raises(sqlite3.Error):
        store.put({"a": {"x": 1}, object(): {"x": 2}})  # type: ignore[dict-item]
    assert store.known(["a"]) == set()
    store.put({"a": {"x": 3}})
    assert store.get("a") == {"x": 3}


def test_a_killed_writer_leaves_whole_chunks(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from analysis.store import Store\n"
        "s = Store(Path(sys.argv[1]))\n"
        "s.put({'a': {'x': 1}, 'b': {'x': 2}})\n"
        "s._connection.execute('BEGIN'); s._connection.execute(\"INSERT INTO points VALUES ('c', '{}')\")\n"
        "os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "s.sqlite"
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -9
    assert Store(path).known(["a", "b", "c"]) == {"a", "b"}


def test_every_part_changes_the_key() -> None:
    parts: tuple[Any, ...] = ({"m": 1}, {"p": 1}, "workload", "sources")
    changed = [({"m": 2}, *parts[1:]), (parts[0], {"p": 1.5}, *parts[2:]), (*parts[:2], "other", "sources")]
    keys = {point_key(*some) for some in (parts, *changed, (*parts[:3], "newer"))}
    assert len(keys) == 5
    assert point_key({"a": 1, "b": 2}, *parts[1:]) == point_key({"b": 2, "a": 1}, *parts[1:])


def test_source_hash_covers_the_packages_that_decide_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    before = source_hash()
    for package in ("sim", "accel", "dataflow", "workloads"):
        kept = tuple(name for name in sources.SOURCES if name != package)
        monkeypatch.setattr(sources, "SOURCES", kept)
        assert source_hash.__wrapped__() != before
        monkeypatch.undo()


def test_other_sources_have_other_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    first = use_kernel_cache()
    assert use_kernel_cache() == first
    assert first.parent == tmp_path
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("analysis.cache.source_hash", lambda: "0" * 64)
    assert use_kernel_cache() != first
    assert use_kernel_cache().parent == tmp_path
