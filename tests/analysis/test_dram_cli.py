"""`tilewright dram`: what is reported follows from the run, files say what happened, mistakes are told with place."""

import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from accel.machine import load_standard, standard_names
from analysis.cli import app
from analysis.dram.agreement import Row, compare, kind_of, mean_errors, summary
from analysis.dram.report import CAUSES, DramRun, capacity_bytes, limit, notes
from analysis.dram.views import markdown, write_table
from analysis.writing import put_on_page
from dataflow.memory import default_memory, default_spec, peak_bytes_per_s
from sim.dram.layout import CAUSES as COUNTED
from sim.dram.stream import StreamResult
from workloads.request_streams import make
from workloads.request_trace import Requests, read_requests, write_requests

PAGE = Path(__file__).resolve().parents[2] / "docs" / "dram.md"


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small request trace; the kernels of this process stay."""
    monkeypatch.setattr("analysis.cache.use_kernel_cache", lambda: tmp_path)
    monkeypatch.setattr("analysis.running.kernels_compiled", lambda: True)
    path = tmp_path / "trace.csv"
    write_requests(path, make("mixed_random", 3000, seed=4))
    return path


def tilewright(*words: object, status: int = 0) -> dict[str, Any]:
    """The JSON object of a command that ends with that status."""
    done = CliRunner().invoke(app, ["dram", *map(str, words), "--json"])
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize("standard", standard_names())
def test_the_figures_of_a_run_belong_together(standard: str, trace: Path) -> None:
    told = tilewright("run", "--standard", standard, trace)
    spec = default_spec(standard)
    seconds = told["cycles"] * spec.memory_ps * 1e-12
    assert told["latency_s"] == pytest.approx(seconds)
    unserved = told["undrained_write_bursts"]  # writes that wait in their queue at the end
    assert told["bandwidth_bytes_per_s"] == pytest.approx((3000 * 64 - unserved * spec.burst_bytes) / seconds)
    assert told["peak_bytes_per_s"] == pytest.approx(
        peak_bytes_per_s(default_memory(load_standard(standard)), load_standard(standard))
    )
    counts = told["commands"]
    hits = 1 - counts["activates"] / (counts["reads"] + counts["writes"])  # an activate may be ahead of its command
    assert told["row_hit_rate"] == pytest.approx(max(0.0, hits))
    assert told["energy_j"] == pytest.approx(sum(told["energy_j_by_component"].values()))
    assert told["energy_j"] > 0
    assert unserved == told["write_bursts"] - counts["writes"]
    assert sum(told["limited_by"].values()) + told["share_of_peak"] == pytest.approx(1, abs=0.02)
    latency = told["read_latency_cycles"]
    assert spec.rcd_read + spec.read_latency <= latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    assert told["source"] == load_standard(standard).source


OPTIONS = [
    ("--mapping", "rbc"),
    ("--mapping", "column:1,channel,pseudo_channel,row:2,bank_group,column,bank,row"),
    ("--scheduler", "fcfs"),
    ("--page", "closed"),
    ("--refresh", "none"),
    ("--channels", "4"),
    ("--read-queue", "2"),
    ("--write-queue", "2"),
    ("--outstanding", "3"),
    ("--row-hit-cap", "1"),
    ("--mode", "chain"),
]


@pytest.mark.parametrize("option", OPTIONS, ids="=".join)
def test_every_option_reaches_the_controller(option: tuple[str, str], trace: Path) -> None:
    write_requests(trace, chain(make("mixed", 4000, write_share=0), make("mixed_random", 4000, seed=2)))
    plain = tilewright("run", "--standard", "hbm2", "--channels", 2, trace)
    other = tilewright("run", "--standard", "hbm2", "--channels", 2, *option, trace)
    assert other["configuration"] != plain["configuration"]
    assert (other["cycles"], other["commands"]) != (plain["cycles"], plain["commands"])


def test_timed_requests_wait_for_their_cycle(trace: Path) -> None:
    write_requests(trace, make("random", 500, rate=0.01))
    *_, last = (int(block.cycle[-1]) for block in read_requests(trace))
    told = tilewright("run", "--standard", "ddr4", "--mode", "timed", trace)
    assert last < told["cycles"] < last + 1000
    assert tilewright("run", "--standard", "ddr4", trace)["cycles"] < last / 10


def test_a_slow_run_costs_standby(trace: Path) -> None:
    """Background power of DDR4 lies between all banks closed (34 mA) and a bank open (43 mA): 8 devices at 1.2 V."""
    for mode in ("asap", "chain"):
        told = tilewright("run", "--standard", "ddr4", "--mode", mode, trace)
        watts = told["energy_j_by_component"]["background"] / told["latency_s"]
        assert 4 * 8 * 1.2 * 0.034 <= watts <= 4 * 8 * 1.2 * 0.043


@pytest.mark.parametrize("standard", ["hbm3", "ddr4"])
def test_the_commands_are_those_that_were_counted(standard: str, trace: Path) -> None:
    out = trace.with_name("commands.csv")
    told = tilewright("run", "--standard", standard, "--commands", out, "--check", trace)
    assert told["violations"] == []
    head, *lines = out.read_text().splitlines()
    assert head == "cycle,channel,pseudo_channel,command,bank_group,bank,row"
    rows = [line.split(",") for line in lines]
    names = [row[3] for row in rows]
    assert names.count("ACT") == told["commands"]["activates"]
    assert names.count("REF") == told["commands"]["refreshes"]
    reads = names.count("RD") + names.count("RDA")
    assert reads == told["commands"]["reads"] == told["read_bursts"]
    cycles = [float(row[0]) for row in rows]
    assert cycles == sorted(cycles)
    assert cycles[0] >= 0.5
    assert cycles[-1] <= told["cycles"]
    assert any(cycle % 1 for cycle in cycles) == (standard == "hbm3")  # the falling edge
    assert len({(row[4], row[5]) for row in rows if row[3] == "ACT"}) == 16
    assert {row[4] for row in rows if row[3] == "ACT"} == {"0", "1", "2", "3"}
    assert {row[4:] == ["", "", ""] for row in rows if row[3] in ("REF", "PREA")} <= {True}


def test_violations_end_with_another_status(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.dram.checker.check_commands", lambda spec, commands, end: ["tick 7: too early"])
    assert tilewright("run", "--standard", "ddr4", "--check", trace, status=1)["violations"] == ["tick 7: too early"]


def test_requests_can_be_taken_to_ramulator(trace: Path) -> None:
    out = trace.with_name("out.trace")
    write_requests(trace, [Requests(np.zeros(2, np.int64), np.array([64, 0x400]), np.array([False, True]))])
    tilewright("run", "--standard", "hbm2", "--export-ramulator", out, trace)
    assert out.read_text() == "LD 0x40\nLD 0x60\nST 0x400\nST 0x420\n"
    tilewright("run", "--standard", "ddr4", "--export-ramulator", out, trace)
    assert out.read_text() == "LD 0x40\nST 0x400\n"


def test_a_machine_s_requests_are_all_that_it_moves(trace: Path) -> None:
    """Every burst that SpAtten reads from DRAM is a line, in either format."""
    from analysis.api import run

    given = ("--machine", "spatten", "--workload", "minilm", "--policy", "token_keep=0.3", "--out")
    moved = run("spatten", "minilm", token_keep=0.3).to_dict()["dram_read_bytes"]
    bursts = tilewright("export", *given, trace.with_name("s.trace"))["bursts"]
    assert bursts * 32 == moved
    requests = tilewright("export", *given, trace.with_name("s.csv"))["requests"]
    assert requests * 64 >= moved
    told = tilewright("run", "--standard", "hbm2", trace.with_name("s.csv"))
    assert told["requests"] == requests


def test_made_requests_are_those_of_the_generator(trace: Path) -> None:
    out = trace.with_name("made.csv")
    words = ("--requests", 500, "--seed", 3, "--keep", 0.5, "--row-bytes", 128, "--heads", 2, "--tokens", 64)
    assert tilewright("make", "gather", *words, "--out", out) == {"path": str(out), "requests": 500}
    write_requests(trace, make("gather", 500, 3, keep=0.5, row_bytes=128, heads=2, tokens=64))
    assert out.read_bytes() == trace.read_bytes()


BAD = [
    (("run", "--standard", "hbm7", "T"), "no standard 'hbm7' (did you mean 'hbm"),
    (("run", "--standard", "hbm2:2400", "T"), "no speed '2400' of hbm2 (did you mean '2400Mbps'?"),
    (("run", "--standard", "hbm2", "absent.csv"), "absent.csv: no such file"),
    (("run", "--standard", "hbm2", "--mapping", "bgx", "T"), "no address map 'bgx' (did you mean 'bgi'?"),
    (("run", "--standard", "hbm2", "--mapping", "row,chanel", "T"), "did you mean 'channel'?"),
    (("run", "--standard", "hbm2", "--mapping", "row,column", "T"), "must use every address bit"),
    (("run", "--standard", "hbm2", "--read-queue", 0, "T"), "read_queue: must be >= 1, got 0"),
    (("run", "--standard", "hbm2", "--commands", "no/such.csv", "T"), "--commands: must name a file in a folder"),
    (("make", "gather", "--keep", 2, "--out", "x.csv"), "keep: must be a share 0..1, got 2.0"),
    (("make", "gather", "--out", "no/x.csv"), "--out: must name a file in a folder that exists"),
    (("export", "--machine", "titan_xp", "--workload", "minilm", "--out", "x"), "titan_xp is a closed form"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=lambda x: x if isinstance(x, str) else "")
def test_a_mistake_is_told(words: tuple[object, ...], message: str, trace: Path) -> None:
    told = tilewright(*(trace if word == "T" else word for word in words), status=2)
    assert message in told["error"]


def test_an_address_beyond_the_memory_is_refused_with_its_place(trace: Path) -> None:
    size = capacity_bytes(default_spec("ddr4", channels=3))
    assert size == 3 << 33
    trace.write_text(f"cycle,address,rw\n0,{size - 64},R\n0,{size},R\n")
    told = tilewright("run", "--standard", "ddr4", "--channels", 3, trace, status=2)
    assert told["error"].startswith(f"{trace}:3:3: address: must be <= {size - 64:#x}: the memory holds {size} bytes")
    assert told["faults"][0]["line"] == 3


def run_with(idle: dict[str, float], mode: str = "asap") -> DramRun:
    """A run of 100 cycles on one data bus that stood idle so."""
    result = StreamResult(
        100, 1, 1, 0, {}, 0, dict.fromkeys(COUNTED, 0.0) | idle, np.zeros(1, np.int64), 0, np.zeros(0)
    )
    return DramRun(load_standard("ddr4"), default_spec("ddr4", channels=1), mode, result)


def test_the_limit_is_the_largest_cause() -> None:
    assert set(CAUSES) == set(COUNTED)
    for cause in COUNTED:
        told = limit(run_with({cause: 30.0, "refresh": 29.0 if cause != "refresh" else 30.0}))
        assert told.startswith(("uneven channels" if cause == "no_requests" else cause.replace("_", " ")) + ": ")
        assert "30%" in told
        assert ("almost as much" in told) == (cause != "refresh")
    assert limit(run_with({"refresh": 9.0})).startswith("the data bus: it moved data 91% of the time")
    assert "came more slowly" in limit(run_with({"no_requests": 60.0}, "timed"))
    assert "waited for the one before" in limit(run_with({"no_requests": 60.0}, "chain"))


def test_no_output_replaces_the_trace_or_another_output(tmp_path: Path) -> None:
    trace = tmp_path / "few.csv"
    tilewright("make", "sequential", "--requests", 10, "--out", trace)
    before = trace.read_bytes()
    for option in ("--commands", "--export-ramulator"):
        told = tilewright("run", "--standard", "hbm2", option, trace, trace, status=2)
        assert "must not be the file" in told["error"]
    both = ("--commands", tmp_path / "x", "--export-ramulator", tmp_path / "x")
    assert "must not be the file" in tilewright("run", "--standard", "hbm2", *both, trace, status=2)["error"]
    assert trace.read_bytes() == before


def test_writes_that_wait_at_the_end_are_no_bandwidth(tmp_path: Path) -> None:
    """A hundred writes fit into the queues: accepted in no time, mostly not sent."""
    trace = tmp_path / "writes.csv"
    trace.write_text("cycle,address,rw\n" + "".join(f"0,{64 * i},W\n" for i in range(100)))
    told = tilewright("run", "--standard", "ddr4", trace)
    assert told["share_of_peak"] <= 1
    assert told["row_hit_rate"] >= 0
    assert told["undrained_write_bursts"] > 50
    assert "still in the controller" in told["notes"][0]


def test_slow_arrivals_are_told_as_such(tmp_path: Path) -> None:
    """16 GB/s asked of 512: whatever a lone request waits for, the memory was not the limit."""
    trace = tmp_path / "slow.csv"
    tilewright("make", "random", "--rate", 0.25, "--requests", 2000, "--out", trace)
    told = tilewright("run", "--standard", "hbm2", "--mode", "timed", trace)
    assert told["limit"].startswith("arrivals: ")
    assert next(iter(told["limited_by"])) == "no_requests"
    assert told["notes"] == []
    assert "ignored" in tilewright("run", "--standard", "hbm2", trace)["notes"][0]


def test_a_part_without_refresh_of_single_banks_refuses_it(tmp_path: Path) -> None:
    trace = tmp_path / "few.csv"
    tilewright("make", "sequential", "--requests", 10, "--out", trace)
    told = tilewright("run", "--standard", "ddr4", "--refresh", "per_bank", trace, status=2)
    assert told["error"] == "refresh: ddr4 has no refresh of single banks (allowed: all_bank, none), got per_bank"


def test_a_map_that_keeps_neighbours_in_one_bank_group_is_noted() -> None:
    assert [bool(notes(default_spec("ddr4", map=name))) for name in ("bgi", "rbc", "robaracoch")] == [False, True, True]


def test_the_page_s_parts_are_those_of_the_list() -> None:
    standards = tilewright("list")["standards"]
    lines = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| (\d+) x (\d) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert [(name, float(peak), int(channels)) for name, peak, channels, _ in lines] == [
        (name, round(about["peak_bytes_per_s"] / 1e9, 1), about["channels"]) for name, about in standards.items()
    ]


def test_people_get_tables(trace: Path) -> None:
    done = CliRunner().invoke(app, ["dram", "run", "--standard", "hbm2e", str(trace)])
    assert done.exit_code == 0
    assert "Limited by: " in done.stdout
    assert "nearest preset" in done.stdout
    assert all(name in CliRunner().invoke(app, ["dram", "list"]).stdout for name in standard_names())


def reference(cycles: float, trace: str = "kv64_k50", **other: Any) -> dict[str, Any]:
    row = {"config": "ddr4", "trace": trace, "mapping": "bgi", "mode": "asap", "refresh": True}
    row |= {"scheduler": "FRFCFSRowHit", "cycles_nck": cycles, "row_hit_rate_by_acts": 0.5}
    return row | {"burst_read_latency_nck": {"avg": 100.0}} | other


def ours(cycles: float, hits: float = 0.5, latency: float = 100.0) -> dict[str, float]:
    return {"cycles": cycles, "row_hit_rate": hits, "mean_read_latency_cycles": latency}


@pytest.mark.parametrize(
    ("trace", "other", "cycles", "within"),
    [
        ("kv64_k50", {}, 970, True),  # 3 % below the faster
        ("kv64_k50", {}, 969, False),
        ("kv64_k50", {}, 1133, True),  # 3 % above the slower
        ("seq", {}, 979, False),
        ("mixr", {}, 921, True),
        ("rand", {"config": "hbm2"}, 1051, False),  # Ramulator alone
        ("rand", {"config": "hbm2"}, 951, True),
        ("kv64_k50", {"mapping": "rbc"}, 1100, False),
        ("kv64_k50", {"scheduler": "FRFCFS"}, 1100, False),
    ],
)
def test_a_bar_is_the_interval_of_both_widened(trace: str, other: dict[str, Any], cycles: float, within: bool) -> None:
    row = compare(reference(1000, trace, **other), reference(1100, trace, **other), ours(cycles))
    assert row.within is within


def test_hits_and_latency_have_bars_too() -> None:
    def row(trace: str, mode: str = "asap", **given: float) -> Row:
        return compare(reference(1000, trace, mode=mode), reference(1000, trace, mode=mode), ours(1000, **given))

    assert [row("kv64_k50", hits=x).row_hits_within for x in (0.509, 0.511)] == [True, False]
    assert [row("kv64_k10", hits=x).row_hits_within for x in (0.519, 0.521)] == [True, False]
    assert [row("kv64_k50", latency=x).latency_within for x in (91, 109, 111)] == [True, True, False]
    assert [row("rand_r2", "timed", latency=x).latency_within for x in (96, 104, 106)] == [True, True, False]
    assert row("mixs", latency=500).latency_within


def test_the_mean_error_counts_what_both_ran() -> None:
    rows = [
        compare(reference(1000), reference(1100), ours(1029)),
        compare(reference(1000, "plane_l06"), reference(1000, "plane_l06"), ours(1040)),
        compare(reference(1000, "plane_l06", refresh=False), reference(1000, "plane_l06"), ours(1010)),
        compare(reference(1000, scheduler="FRFCFS"), reference(1000), ours(5000)),
        compare(reference(1000, "seq"), reference(1000, "seq"), ours(5000)),
        compare(reference(1000, mode="timed"), reference(1000), ours(5000)),
    ]
    assert mean_errors(rows)["ddr4"] == pytest.approx((0.02 + 0.04 + 0.01) / 3)
    assert mean_errors(rows, default_only=True)["ddr4"] == pytest.approx(0.03)
    assert summary(rows)["time_within"] == 2


def test_kinds_are_told_from_names() -> None:
    assert kind_of("kv128_k10", "asap") == "gather"
    assert kind_of("kv64_k25_r4", "timed") == "timed"
    assert kind_of("stride2048", "asap") == "stride"


def test_the_comparison_lands_on_page_and_file(tmp_path: Path) -> None:
    rows = [compare(reference(1000), None, ours(1000)), compare(reference(1000, "mixs"), reference(900), ours(900))]
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- agreement: begin -->\nold\n<!-- agreement: end -->\nafter\n")
    put_on_page(page, markdown(rows))
    text = page.read_text()
    assert text.startswith("before\n<!-- agreement: begin -->\n| part |")
    assert text.endswith("<!-- agreement: end -->\nafter\n")
    assert "old" not in text
    assert "| ddr4 | mixed | 1 | 1 | 5.26% | -5.26% | 5.26% | 10.00% | 0.00 | 0.00% |" in text
    assert "In 1 of 2 runs the time is Ramulator's to the cycle." in text
    simulators = [{"name": name, "version": "2", "commit": "c0"} for name in ("R", "D")]
    write_table(rows, simulators, tmp_path / "facts.csv", facts_only=True)
    head, first, _ = (tmp_path / "facts.csv").read_text().splitlines()
    assert "within" not in head
    assert first.endswith("gather,1000,,0.5,,100,,R 2 (commit c0); D 2 (commit c0)")


def test_a_page_without_a_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("nothing")
    with pytest.raises(ValueError, match="must hold the lines"):
        put_on_page(tmp_path / "page.md", "")
