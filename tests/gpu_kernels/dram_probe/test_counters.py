"""What is read from the profiler's output."""

import os
from pathlib import Path

import pytest

from gpu_kernels.dram_probe.counters import METRICS, count, parse

HEADER = ["ID", "Kernel Name", *METRICS.values()]
UNITS = ["", "", *("byte" for _ in METRICS)]


def page(*rows: list[str]) -> str:
    table = [HEADER, UNITS, *rows]
    return "==PROF== Connected\n" + "\n".join(",".join(f'"{cell}"' for cell in row) for row in table)


def row(first: str) -> list[str]:
    return ["0", "dram_probe", first, *("7.5" for _ in list(METRICS)[1:])]


def test_counters_are_read_by_name_without_the_units() -> None:
    found = parse(page(row("2,147,504,896"), row("64")))
    assert [counters["dram_bytes"] for counters in found] == [2147504896.0, 64.0]
    assert found[0]["duration_ns"] == 7.5


def test_a_page_without_a_table_holds_nothing() -> None:
    assert parse("==WARNING== No kernels were profiled.") == []


def fake_profiler(folder: Path, script: str) -> str:
    file = folder / "ncu"
    file.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    os.chmod(file, 0o755)
    return str(file)


def test_a_failure_of_the_profiler_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"status 9:\nERR_NVGPUCTRPERM"):
        count([], 1, fake_profiler(tmp_path, "echo ERR_NVGPUCTRPERM; exit 9"))


def test_a_missing_launch_is_told(tmp_path: Path) -> None:
    (tmp_path / "page.csv").write_text(page(row("64")), encoding="utf-8")
    with pytest.raises(RuntimeError, match="counted 1 launches, expected 2"):
        count([{}, {}], 1, fake_profiler(tmp_path, f"cat {tmp_path / 'page.csv'}"))
