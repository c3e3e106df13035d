"""The committed records: of these sources, of these addresses, consistent in themselves, and shown in the README."""

from pathlib import Path
from statistics import median
from typing import Any

import pytest

from gpu_kernels.dram_probe.__main__ import main
from gpu_kernels.dram_probe.patterns import ROW_BYTES, requests
from gpu_kernels.dram_probe.record import FOLDER, described, read, rebuilt, source_hashes, timed, with_ratios, write
from gpu_kernels.dram_probe.suite import FETCH_BYTES, KEEP_PERCENT, VARIANTS, by_name, suite
from gpu_kernels.dram_probe.tables import tables

RESULTS = FOLDER.parent / "results"
FILE = RESULTS / "dram_probe_h200.json"
SECOND = RESULTS / "dram_probe_h200_second_card.json"
READ_BY_BOTH = ("kernel.cu", "patterns.py", "compiler.py")  # the second card was measured one commit earlier
PEAK = 6144 * 2 * 3201e6 / 8  # bytes/s: bits of the bus, two a clock, at the clock that the driver reports


@pytest.fixture(scope="module", params=[FILE, SECOND], ids=lambda file: file.stem)
def record(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read(request.param)


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    return read(FILE)


def from_dram(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in record["patterns"] if not row["name"].startswith("cached")]


def test_it_was_made_by_these_sources(shown: dict[str, Any]) -> None:
    assert shown["sources"] == source_hashes()
    assert set(shown["variants"]) == {variant.name for variant in VARIANTS}


def test_the_second_card_read_the_same_by_the_same_kernel() -> None:
    second, now = read(SECOND)["sources"], source_hashes()
    assert {name: second[name] for name in READ_BY_BOTH} == {name: now[name] for name in READ_BY_BOTH}


def test_it_holds_the_whole_suite_and_the_same_addresses(record: dict[str, Any]) -> None:
    assert [row["name"] for row in record["patterns"]] == [pattern.name for pattern in suite()]
    assert record["left_out"] == []
    for row in record["patterns"]:
        pattern = rebuilt(row)
        assert pattern == by_name(row["name"])
        assert described(pattern).items() <= row.items()


def test_times_bandwidths_and_ratios_follow_from_each_other(record: dict[str, Any]) -> None:
    again = []
    for row in record["patterns"]:
        assert len(row["times_us"]) == record["rounds"]
        assert set(row["median_us"]) == set(record["variants"])
        derived = timed({row["best"]: row["times_us"]}, row["useful_bytes"])
        assert derived["useful_bytes_per_s"] == pytest.approx(row["useful_bytes_per_s"], rel=1e-4)
        assert row["median_us"][row["best"]] == min(row["median_us"].values())
        again.append({"name": row["name"], "useful_bytes_per_s": row["useful_bytes_per_s"]})
    with_ratios(again)
    assert [row["ratio"] for row in again] == [row["ratio"] for row in record["patterns"]]


def test_nothing_came_from_the_cache(record: dict[str, Any]) -> None:
    """DRAM delivered at least what was useful, and not faster than its pins allow."""
    for row in from_dram(record):
        delivered = row["counters"]["dram_bytes"]
        assert delivered >= 0.99 * row["useful_bytes"], row["name"]
        assert delivered / min(row["median_us"].values()) * 1e6 < PEAK, row["name"]
        assert row["ratio"] < 1.03, row["name"]
        assert row["local_bytes"] == 0, row["name"]


def test_the_bytes_are_those_of_64_byte_fetches(record: dict[str, Any]) -> None:
    """Rows of 32 B bring their neighbour along; the rest is the lists of tokens and the chance to meet a neighbour."""
    for row in from_dram(record):
        part = rebuilt(row).prefix(1 << 22)
        fetched = 64 * requests(part.starts(0, part.rows), part.row_bytes).size / part.useful_bytes
        assert row["counters"]["dram_bytes"] / row["useful_bytes"] == pytest.approx(fetched, rel=0.015), row["name"]


def test_the_sequential_stream_reads_what_it_uses(record: dict[str, Any]) -> None:
    row = record["patterns"][0]
    assert row["counters"]["dram_bytes"] == pytest.approx(row["useful_bytes"], rel=0.01)
    assert row["useful_bytes_per_s"] > 0.8 * PEAK


def test_the_profiler_saw_the_same_times(record: dict[str, Any]) -> None:
    """Of one launch each, after a pause: a few are slower."""
    rows = from_dram(record)
    slower = [row["counters"]["duration_ns"] / 1e3 / row["median_us"][row["best"]] for row in rows]
    assert median(slower) == pytest.approx(1, abs=0.02)
    assert 0.9 < min(slower) <= max(slower) < 1.2


def test_repeats_agree(record: dict[str, Any]) -> None:
    for row in record["patterns"]:
        times = sorted(row["times_us"])
        assert times[len(times) * 3 // 4] < 1.05 * times[len(times) // 4], row["name"]


def test_fetch_limits_were_all_tried(record: dict[str, Any]) -> None:
    assert {row["fetch_limit_bytes"] for row in record["fetch_limit"]} == set(FETCH_BYTES)
    assert all("counters" in row for row in record["fetch_limit"])


def test_the_readme_shows_this_record(shown: dict[str, Any]) -> None:
    assert tables(shown) in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_every_row_size_and_share_is_in_the_table(shown: dict[str, Any]) -> None:
    text = tables(shown)
    rows = {row["name"]: row for row in shown["patterns"]}
    for size in ROW_BYTES:
        assert all(f"{rows[f'kv_{size}_keep{keep}']['ratio']:.3f}" in text for keep in KEEP_PERCENT)


def test_show_prints_the_tables(shown: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--show", str(FILE)]) == 0
    assert capsys.readouterr().out == tables(shown) + "\n"


def test_another_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"other\.json: not a record"):
        read(file)


def test_a_record_is_written_whole(tmp_path: Path) -> None:
    write({"format": "dram_probe 1"}, tmp_path / "new" / "record.json")
    assert read(tmp_path / "new" / "record.json") == {"format": "dram_probe 1"}
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["record.json"]
