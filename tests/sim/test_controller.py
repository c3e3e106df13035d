"""The controller against the slow one, tick by tick; its command traces against the legality checker."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.memory import default_spec
from sim.dram import stream as stream_module
from sim.dram.checker import check_commands
from sim.dram.spec import ACT, PRE, PREA, RD, RDA, REF, WR, WRA, CommandTrace, DramSpec
from sim.dram.stream import RequestStream, StreamResult
from tests.sim.random_memories import MODES, random_spec, random_stream
from tests.sim.slow_dram import run_slow

Requests = tuple[np.ndarray, ...]


def run_fast(spec: DramSpec, mode: str, requests: Requests, chunk: int = 0) -> StreamResult:
    stream, count = RequestStream(spec, mode, trace=True), len(requests[0])
    for start in range(0, count, chunk or count):
        stream.feed(*(part[start : start + (chunk or count)] for part in requests))
    return stream.finish()


# what shows refresh against rows that close by themselves: seldom met otherwise
OFTEN = {"page": "closed", "refresh_mode": "all_bank", "refresh_interval": 200}


def percentile(spec: DramSpec, latencies: list[int], percent: float) -> int:
    """The smallest whole number of cycles (rounded down) that this share of the reads does not exceed."""
    cycles = sorted((ticks - 1) // spec.edges for ticks in latencies)
    return cycles[max(0, -int(-len(cycles) * percent // 100) - 1)] if cycles else 0


def in_order(trace: CommandTrace) -> list[list[int]]:
    return sorted(trace.tolist())


@pytest.mark.parametrize("seed", range(120))
def test_every_command_goes_at_the_same_tick_as_in_the_slow_controller(seed: int) -> None:
    """All schedulers, page policies, refreshes, buses, maps and modes; the stream whole and in pieces of seven."""
    rng = np.random.default_rng(seed)
    spec, mode = random_spec(rng, **(OFTEN if seed % 2 else {})), str(rng.choice(MODES))
    requests = random_stream(rng, spec, 60)
    slow = run_slow(spec, mode, *requests)
    for chunk in (0, 7):
        fast = run_fast(spec, mode, requests, chunk)
        assert in_order(fast.trace) == in_order(slow.trace), (seed, chunk)
        assert fast.cycles == slow.cycles
        assert sum(fast.latency_histogram) == len(slow.latencies)
        assert fast.commands == slow.commands
        for percent in (1, 50, 99):
            assert fast.latency_percentile(percent) == percentile(spec, slow.latencies, percent)
        if slow.latencies:
            mean = sum(slow.latencies) / len(slow.latencies) - 1  # from the tick after acceptance
            assert fast.mean_read_latency_cycles * spec.edges == pytest.approx(mean)


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_command_breaks_a_rule(seed: int) -> None:
    rng = np.random.default_rng(seed)
    finite = {"fifo_depth": int(rng.choice([0, 1, 4])), "request_lanes": int(rng.integers(0, 3))}
    spec = random_spec(rng, **finite, **(OFTEN if seed % 2 else {}))
    mode = str(rng.choice(MODES))
    result = run_fast(spec, mode, random_stream(rng, spec, 150))
    found = check_commands(spec, result.trace, int(result.cycles * spec.edges))
    assert not found, "\n".join(map(str, found[:5]))


@pytest.mark.parametrize("seed", range(8))
def test_counts_are_those_of_the_trace(seed: int) -> None:
    rng = np.random.default_rng(1000 + seed)
    spec = random_spec(rng)
    result = run_fast(spec, "asap", random_stream(rng, spec, 400))
    issued = np.bincount(result.trace[:, 3], minlength=9)
    act, _, prea, rd, wr, rda, wra, ref, refb = issued.tolist()
    assert result.commands["activates"] == act
    assert result.commands["precharge_alls"] == prea
    assert (result.commands["reads"], result.commands["writes"]) == (rd + rda, wr + wra)
    assert (result.commands["refreshes"], result.commands["refreshes_bank"]) == (ref, refb)
    assert result.commands["reads"] == result.read_bursts


@pytest.mark.parametrize("seed", range(8))
def test_bus_time_is_bursts_and_causes(seed: int) -> None:
    """Per pseudo-channel: time up to the end = bursts on the bus + idle time by cause, nothing twice."""
    rng = np.random.default_rng(2000 + seed)
    spec = random_spec(rng, edges=1, activate_ticks=1, row_ticks=1, column_ticks=1)
    result = run_fast(spec, "asap", random_stream(rng, spec, 300))
    buses = spec.channels * spec.pseudo_channels
    busy = (result.commands["reads"] + result.commands["writes"]) * spec.burst
    overshoot = buses * spec.burst  # a burst may still be on the bus when the last write is accepted
    assert 0 <= busy + sum(result.idle.values()) - result.cycles * buses <= overshoot


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("mode", ["asap", "timed"])
def test_a_fifo_that_never_fills_is_as_good_as_none(mode: str, seed: int) -> None:
    """But for the door of a channel, which takes a burst a cycle: two pseudo-channels would need two doors."""
    rng = np.random.default_rng(3000 + seed)
    spec = random_spec(rng, pseudo_channels=1, fields=(("channel", 0), ("column", 3), ("bank", 2), ("row", 4)),
                       channels=1, bank_groups=1, banks_per_group=4, xor=(), edges=1, activate_ticks=1,
                       row_ticks=1, column_ticks=1)  # fmt: skip
    requests = random_stream(rng, spec, 100)
    free = run_fast(spec, mode, requests)
    deep = run_fast(replace(spec, fifo_depth=4096), mode, requests, chunk=13)
    assert in_order(deep.trace) == in_order(free.trace)


def test_a_full_fifo_holds_up_the_other_channels() -> None:
    """A run of one channel, then one request of another: with a finite FIFO it comes late, and that is told."""
    spec = default_spec("hbm2")
    one = np.arange(3000) * 2048
    address = np.append(one, 64)
    requests = np.zeros(len(address), np.int64), address, np.zeros(len(address), bool)
    free, finite = (run_fast(replace(spec, fifo_depth=depth), "asap", requests) for depth in (0, 64))
    last = [max(r.trace[(r.trace[:, 1] == 1) & (r.trace[:, 3] == RD), 0]) for r in (free, finite)]
    assert last[0] < 100 < 5000 < last[1]
    assert finite.idle["head_of_line"] > free.idle["head_of_line"] == 0


def open_cycles(spec: DramSpec, result: StreamResult) -> float:
    """Memory cycles with a row open or a refresh under way, from the commands alone, summed over pseudo-channels."""
    e, column_row = spec.edges, spec.column_ticks - spec.row_ticks
    written = (spec.write_latency + spec.burst + spec.write_recovery) * e + column_row
    end, total = int(result.cycles * e), 0
    for channel in range(spec.channels):
        for pseudo in range(spec.pseudo_channels):
            spans, opened, legal = [], {}, {}
            mine = np.all(result.trace[:, 1:3] == (channel, pseudo), axis=1)
            for tick, command, bank in result.trace[mine][:, [0, 3, 4]]:
                if command == ACT:
                    opened[bank], legal[bank] = tick, tick + spec.ras * e + spec.activate_ticks - spec.row_ticks
                elif command in (RD, RDA):
                    legal[bank] = max(legal[bank], tick + spec.read_to_precharge * e + column_row)
                elif command in (WR, WRA):
                    legal[bank] = max(legal[bank], tick + written)
                if command in (RDA, WRA, PRE):
                    spans.append((opened.pop(bank), tick if command == PRE else legal[bank]))
                elif command == PREA:
                    spans += [(since, tick) for since in opened.values()]
                    opened = {}
                elif command == REF:
                    total += spec.refresh * e
            edges = np.zeros(end + 1, bool)
            for since, until in spans + [(since, end) for since in opened.values()]:
                edges[since : min(until, end)] = True
            total += int(edges.sum())
    return total / e


@pytest.mark.parametrize("seed", range(24))
def test_time_with_open_rows_is_that_of_the_trace(seed: int) -> None:
    """Background energy is priced by it; rows that close by themselves overlap with those opened meanwhile."""
    rng = np.random.default_rng(4000 + seed)
    spec = random_spec(rng, **(OFTEN if seed % 2 else {}))
    result = run_fast(spec, str(rng.choice(MODES)), random_stream(rng, spec, 150))
    assert result.active_cycles == pytest.approx(open_cycles(spec, result))


def test_a_full_buffer_of_commands_is_emptied_in_every_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle channels catch up on many refreshes at once, of single banks above all."""
    monkeypatch.setattr(stream_module, "TRACE_ROOM", 0)
    for mode in MODES:
        spec = default_spec("hbm2", refresh="per_bank", fifo_depth=8)
        requests = np.arange(300) * 4000, np.arange(300) * 64 * 997, np.arange(300) % 3 == 0
        result = run_fast(spec, mode, requests)
        assert len(result.trace) == sum(n for name, n in result.commands.items() if name != "precharges") + int(
            np.isin(result.trace[:, 3], PRE).sum()
        )
        assert not check_commands(spec, result.trace, int(result.cycles))


@pytest.mark.parametrize("refresh", ["all_bank", "per_bank"])
def test_idle_years_are_not_stepped_through(refresh: str) -> None:
    """Refreshes in a long gap are counted at once: as many as step by step, and the last request none the wiser."""
    spec = default_spec("hbm2", channels=2, refresh=refresh)
    gap = 1_000_003
    requests = np.array([0, 7, gap, gap + 3]), np.array([0, 64, 128, 1 << 20]), np.zeros(4, bool)
    stepped = run_fast(spec, "timed", requests)  # a trace is kept: nothing is skipped
    stream = RequestStream(spec, "timed")
    stream.feed(*requests)
    skipped = stream.finish()
    assert (skipped.commands, skipped.cycles) == (stepped.commands, stepped.cycles)
    assert skipped.active_cycles == stepped.active_cycles
    later = RequestStream(spec, "timed")
    later.feed(np.array([0, 1 << 49]), np.array([0, 64]), np.zeros(2, bool))
    every = spec.refresh_interval * 1 // (16 if refresh == "per_bank" else 1)
    done = later.finish().commands["refreshes_bank" if refresh == "per_bank" else "refreshes"]
    assert abs(done - 4 * ((1 << 49) // every)) <= 4
