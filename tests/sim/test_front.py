"""The way into the memory for plans: against the slow one tick by tick, closed forms, one constraint at a time.

Accepted at a, a request is served from a + 1 on: unloaded latencies are one cycle more than the sum of their parts.
"""

from dataclasses import MISSING, fields, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.machine import load_machine, load_standard
from dataflow.memory import dram_spec, peak_bytes_per_s
from sim.dram import FOREVER, NO_TRACE, DramSpec, IdealSpec, advance, finish_memory, start_memory
from tests.sim.random_plans import SMALL_HBM2, random_dram
from tests.sim.serving import collect, hand_over, random_slices, serve
from tests.sim.slow_front import Segments, SlowFront

LINEAR = (("column", 3), ("bank", 2), ("bank_group", 2), ("row", 4), ("pseudo_channel", 0), ("channel", 0))
SIZES = ("channels", "pseudo_channels", "bank_groups", "banks_per_group", "burst_bytes", "fields")
QUIET = DramSpec(
    **{f.name: 0 for f in fields(DramSpec) if f.default is MISSING}
    | dict(zip(SIZES, (1, 1, 4, 4, 32, LINEAR), strict=True))  # type: ignore[arg-type]
    | {"fifo_depth": 8, "request_lanes": 8, "memory_ps": 1000, "core_ps": 1000, "refresh_mode": "none"}
    | {"burst": 1, "read_latency": 1, "write_latency": 1}
)
HBM2_LINEAR = replace(SMALL_HBM2, channels=1, pseudo_channels=1, bank_groups=4, banks_per_group=4, fields=LINEAR)


def at(group: int = 0, bank: int = 0, row: int = 0, column: int = 0) -> Segments:
    """One burst of LINEAR."""
    return [((column | bank << 3 | group << 5 | row << 7) * 32, 32)]


@pytest.mark.parametrize(
    ("second", "cycles"),
    [
        (at(column=1), 14 + 2),  # open row: CL + burst
        (at(row=1), 14 + 14 + 14 + 2),  # conflict: RP + RCD + CL + burst
        (at(group=1), 1 + 14 + 14 + 2),  # closed bank: the second tick of ACT, then RCD + CL + burst
    ],
)
def test_unloaded_read_latency(second: Segments, cycles: int) -> None:
    """Delays count to and from the end of ACT: behind PRE its first tick is hidden, behind nothing it is not."""
    issued, returned = serve(HBM2_LINEAR, [(0, False, at()), (100, False, second)])
    assert issued == [1, 101]
    assert returned == [1 + 1 + 14 + 14 + 2, 100 + 1 + cycles]


def test_write_returns_when_its_data_are_in() -> None:
    assert serve(HBM2_LINEAR, [(0, True, at())])[1] == [1 + 1 + 12 + 5 + 2]


R, W = False, True
# constraint: requests, and the cycles of the other parts until the last of them returns: ACT of the first goes at 1 and
# its column command at 2, each further row or column command of the chain a cycle later; 2 are latency and burst
BINDING: dict[str, tuple[list[tuple[bool, Segments]], int]] = {
    "rcd_read": ([(R, at())], 1 + 2),
    "rcd_write": ([(W, at())], 1 + 2),
    "ccd_short": ([(R, at()), (R, at(group=1))], 2 + 2),
    "ccd_long": ([(R, at()), (R, at(bank=1))], 2 + 2),
    "ccd_short_write": ([(W, at()), (W, at(group=1))], 2 + 2),
    "ccd_long_write": ([(W, at()), (W, at(bank=1))], 2 + 2),
    "rrd_short": ([(R, at()), (R, at(group=1))], 1 + 1 + 2),
    "rrd_long": ([(R, at()), (R, at(bank=1))], 1 + 1 + 2),
    "faw": ([(R, at(group, bank)) for group, bank in ((0, 0), (1, 0), (2, 0), (3, 0), (0, 1))], 1 + 1 + 2),
    "row_cycle": ([(R, at()), (R, at(row=1))], 1 + 1 + 2),
    "ras": ([(R, at()), (R, at(row=1))], 1 + 1 + 1 + 2),
    "read_to_precharge": ([(R, at()), (R, at(row=1))], 2 + 1 + 1 + 2),
    "precharge": ([(R, at()), (R, at(row=1))], 2 + 1 + 2),  # PRE in the cycle of the first read
    "precharge_to_precharge": (  # the first PRE when the third request may be served, at 3
        [(R, at()), (R, at(bank=1)), (R, at(row=1)), (R, at(bank=1, row=1))],
        3 + 1 + 1 + 2,
    ),
    "write_recovery": ([(W, at()), (R, at(row=1))], 2 + 2 + 1 + 1 + 2),
    "write_to_read_short": ([(W, at()), (R, at(group=1))], 2 + 2 + 2),
    "write_to_read_long": ([(W, at()), (R, at(bank=1))], 2 + 2 + 2),
    "read_to_write": ([(R, at()), (W, at(bank=1))], 2 + 2),
    "activate_ticks": ([(R, at())], 2),  # RCD of 0 from its last tick on
    "row_ticks": ([(R, at()), (R, at(row=1))], 2 + 1 + 2),  # as a longer PRE
    "column_ticks": ([(R, at()), (R, at(group=1))], 2 + 2),
    "read_latency": ([(R, at())], 2 + 1),
    "write_latency": ([(W, at())], 2 + 1),
    "burst": ([(R, at())], 2 + 1),
}


@pytest.mark.parametrize("cycles", [20, 21])
@pytest.mark.parametrize("constraint", BINDING)
def test_constraint_that_binds_alone(constraint: str, cycles: int) -> None:
    """Not a cycle before, not a cycle after; a cycle more of it is a cycle later."""
    requests, others = BINDING[constraint]
    segments = [(0, write, where) for write, where in requests]
    lone = replace(QUIET, **{constraint: cycles})
    assert serve(lone, [*segments])[1][-1] == cycles + others


@pytest.mark.parametrize("constraint", ["ccd_long", "ccd_long_write", "rrd_long", "write_to_read_long"])
def test_long_constraints_hold_within_a_bank_group_only(constraint: str) -> None:
    requests = [(0, write, where) for write, where in BINDING[constraint.replace("long", "short")][0]]
    assert serve(replace(QUIET, **{constraint: 50}), requests) == serve(QUIET, requests)


def test_faw_lets_four_activates_go() -> None:
    requests = [(0, R, at(group)) for group in range(4)]
    assert serve(replace(QUIET, faw=50), requests) == serve(QUIET, requests)


def test_activates_hold_the_row_bus() -> None:
    """ACT of 20 ticks from 1 on, the second from 21; RCD of 0 counts from its last, 40."""
    assert serve(replace(QUIET, activate_ticks=20), [(0, R, at()), (0, R, at(group=1))])[1][-1] == 40 + 2


def test_refresh_holds_up_and_closes_rows() -> None:
    """Due at 100: a read of 98 goes at 99; one of 99 waits for PREA at 100 and REF at 101 and opens its row again."""
    spec = replace(QUIET, refresh=30, refresh_interval=100, refresh_mode="all_bank", rcd_read=7)
    first = 1 + 7 + 2
    assert serve(spec, [(0, R, at()), (98, R, at())])[1] == [first, 99 + 2]
    assert serve(spec, [(0, R, at()), (99, R, at())])[1] == [first, 101 + 30 + 7 + 2]


@pytest.mark.parametrize(("other", "later"), [([(1 << 16, 32)], 1), ([(1 << 17, 32)], 0)])
def test_one_request_a_cycle_enters_a_channel(other: Segments, later: int) -> None:
    """A row hit and a burst for a closed bank leave together: in the same channel its ACT goes a cycle later.

    They are for two pseudo-channels, whose FIFOs could both offer one at once; then for two channels.
    """
    two = tuple((name, 1 if name in ("pseudo_channel", "channel") else bits) for name, bits in LINEAR)
    spec = replace(QUIET, rcd_read=7, channels=2, pseudo_channels=2, fields=two)
    issued, returned = serve(spec, [(0, R, at()), (100, R, [*at(), *other])])
    assert (issued[1], returned[1]) == (101, 100 + later + 1 + 7 + 2)


@pytest.mark.parametrize(("lanes", "cycles"), [(1, 8), (3, 3), (8, 1)])
def test_request_lanes(lanes: int, cycles: int) -> None:
    assert serve(replace(QUIET, request_lanes=lanes), [(0, R, [(0, 8 * 32)])])[0] == [cycles]


def test_full_fifo_holds_up_everything_behind_it() -> None:
    """Channel 0 is stuck behind a queue of 1 and a FIFO of 2; a burst of channel 1 behind them waits, one before not.

    ACT of the first burst goes at 1, so that the second is queued at 1; two more fit the FIFO. The first two are read
    at 1 + RCD = 41 and at 42: then the queue takes the third, and the fifth its place; the other leaves at 43.
    """
    two = tuple((name, 1 if name == "channel" else bits) for name, bits in LINEAR)
    spec = replace(QUIET, channels=2, fields=two, fifo_depth=2, read_queue=1, request_lanes=1, rcd_read=40)
    other = (1 << 11) * 32
    behind = serve(spec, [(0, R, [(0, 5 * 32), (other, 32)])])[0]
    before = serve(spec, [(0, R, [(other, 32), (0, 4 * 32)])])[0]
    assert (before, behind) == ([5], [44])


def test_ideal_memory_has_a_rate_and_a_latency() -> None:
    slices = [(0, R, [(0, 20)]), (0, R, [(5, 1)]), (50, W, [(0, 8), (64, 8)])]
    assert serve(IdealSpec(8, 10, 32), slices) == ([3, 4, 52], [13, 14, 62])


def test_clocks_round_up_where_they_meet() -> None:
    """Core cycle 3 of 700 ps is memory cycle 3 of 1000 ps; issued at 4: 6; back at 3 + 32, which is core cycle 50."""
    spec = replace(HBM2_LINEAR, core_ps=700)
    assert serve(spec, [(3, R, at())]) == ([6], [50])
    assert serve(replace(HBM2_LINEAR, core_ps=1500), [(3, R, at())]) == ([4], [25])  # 5; 6: 4; 37: 24.7


def test_the_same_clock_twice_as_fine_changes_nothing() -> None:
    slices = random_slices(np.random.default_rng(1), 20, 1 << 14)
    assert serve(replace(SMALL_HBM2, core_ps=500, memory_ps=500), slices) == serve(SMALL_HBM2, slices)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_returns_do_not_depend_on_how_often_they_are_asked_for(seed: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    slices = random_slices(rng, 12, 1 << 14)
    spec = random_dram(rng)
    assert serve(spec, slices, limit) == serve(spec, slices)


@settings(max_examples=1000, derandomize=True, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_slices_equal_the_slow_front(seed: int) -> None:
    """All schedulers, page policies, refreshes, buses and maps, short FIFOs, few lanes, clocks that seldom meet."""
    rng = np.random.default_rng(seed)
    spec, slices = random_dram(rng), random_slices(rng, int(rng.integers(1, 10)), 1 << 13)
    assert serve(spec, slices) == SlowFront(spec, slices).run()


def test_bursts_are_counted_once() -> None:
    """40..104 touches bursts 1 to 3; 104..105 shares burst 3 and is not fetched again; 31 + 2 bytes touch two."""
    slices = [(0, R, [(40, 64), (104, 1)]), (0, R, [(31, 2)]), (0, W, [(0, 1), (64, 1), (0, 1)])]
    memory = start_memory(SMALL_HBM2, 3)
    for number, item in enumerate(slices):
        hand_over(memory, number, item)
    collect(memory, [-1] * 3, [FOREVER])
    assert memory.bursts.tolist() == [3, 2, 3]
    assert (memory.commands["reads"], memory.commands["writes"]) == (5, 3)


@cache
def hbm2(channels: int = 16) -> tuple[DramSpec, float]:
    """The memory of SpAtten and its peak in bytes a cycle."""
    machine = load_machine("spatten", {"memory.channels": channels})
    standard = load_standard("hbm2")
    peak = peak_bytes_per_s(machine.memory, standard) / machine.clock_hz
    return dram_spec(machine.memory, standard, machine.clock_hz), peak


@pytest.mark.parametrize("interval", [500, 3900])
def test_refreshes_come_at_their_interval(interval: int) -> None:
    spec = replace(hbm2(2)[0], refresh_interval=interval)
    for slices in (0, 1):
        memory = start_memory(spec, slices)
        for number in range(slices):
            hand_over(memory, number, (0, R, [(0, 1 << 18)]))
            collect(memory, [-1] * slices, [FOREVER])
        commands = finish_memory(memory, 50_000).commands
        assert abs(commands["refreshes"] / 4 - 50_000 / interval) <= 1
        advance(memory.config, memory.state, NO_TRACE, 50_000)
        assert memory.commands == commands


def test_stream_reaches_the_peak_less_refresh() -> None:
    spec, peak = hbm2()
    size = 16 << 20
    cycles = serve(spec, [(0, R, [(0, size)])])[1][0]
    assert size / cycles == pytest.approx(peak * (1 - spec.refresh / spec.refresh_interval), rel=0.02)


def test_pseudo_channels_share_the_row_bus() -> None:
    """Random bursts: ACT and PRE take 3 cycles of the bus; with a bus each, tFAW lets 4 go in 15 cycles."""
    spec = replace(hbm2(2)[0], refresh_mode="none")
    apart = tuple((name, 2 if name == "channel" else bits) for name, bits in spec.fields if name != "pseudo_channel")
    rng = np.random.default_rng(0)
    bursts = [(int(a) * 32, 32) for a in rng.integers(0, 1 << 20, 4000)]
    own = replace(spec, channels=4, pseudo_channels=1, fields=apart)
    shared, free = (serve(memory, [(0, R, bursts)])[1][0] for memory in (spec, own))
    assert shared == pytest.approx(4000 / 2 * 3, rel=0.1)
    assert 4000 / 4 * 15 / 4 <= free <= 0.75 * shared
