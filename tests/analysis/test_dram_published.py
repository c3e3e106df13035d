"""Facts in `analysis/published`: reference runs whose streams are closed forms, and the silicon's table."""

import csv
from pathlib import Path

import numpy as np
import pytest

from analysis.dram.silicon import RECORDS, RESULTS, compare
from dataflow.memory import default_spec
from gpu_kernels.dram_probe.record import read
from sim.dram.stream import RequestStream

PUBLISHED = Path(__file__).resolve().parents[2] / "analysis" / "published"


def facts(name: str) -> list[dict[str, str]]:
    with (PUBLISHED / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def stream_of(trace: str) -> tuple[np.ndarray, np.ndarray]:
    """(address, write): a sequential stream, a stride in 4 GiB, or by turns two streams read and one written."""
    if trace == "seq":
        return np.arange(100_000) * 64, np.zeros(100_000, bool)
    if trace.startswith("stride"):
        return np.arange(20_000) * int(trace.removeprefix("stride")) % (4 << 30), np.zeros(20_000, bool)
    number = np.arange(100_000)
    return number // 3 * 64 + number % 3 * (1 << 30), number % 3 == 2


CLOSED = [row for row in facts("dram_agreement.csv") if row["trace"] in ("seq", "stride256", "stride2048", "mixs")]


@pytest.mark.parametrize("row", CLOSED, ids=lambda row: "-".join(list(row.values())[:6]))
def test_streams_in_closed_form_take_ramulators_cycles(row: dict[str, str]) -> None:
    """Every timing, the map, the scheduler and the refresh of a part play into these."""
    address, write = stream_of(row["trace"])
    refresh = "all_bank" if row["refresh"] == "1" else "none"
    spec = default_spec(row["config"], map=row["mapping"], refresh=refresh, scheduler=row["scheduler"])
    stream = RequestStream(spec)
    stream.feed(np.zeros(len(address), np.int64), address, write)
    result = stream.finish()
    assert result.cycles == float(row["ramulator2_cycles"])
    assert result.row_hit_rate == pytest.approx(float(row["ramulator2_row_hit_rate"]), abs=1e-5)


def test_the_silicon_table_is_what_the_model_says_today() -> None:
    """Three patterns of the record, simulated again; a change of the model must renew table and page."""
    wanted = ("sequential", "random_64_in_16GiB", "kv_64_keep25")
    records = [read(RESULTS / name) for name in RECORDS]
    short = [{"patterns": [row for row in record["patterns"] if row["name"] in wanted]} for record in records]
    found = {row.pattern: row.cells() for row in compare(default_spec("hbm3e"), short, 32 << 20)}
    published = {row["pattern"]: tuple(row.values()) for row in facts("dram_silicon.csv")}
    assert found == {name: published[name] for name in wanted}


def test_the_prediction_was_not_tuned() -> None:
    """The model's ratios are those of the first run, unless a later change says why."""
    first, today = facts("first_contact/dram_silicon.csv"), facts("dram_silicon.csv")
    assert [(row["pattern"], row["model"]) for row in today] == [(row["pattern"], row["model"]) for row in first]
