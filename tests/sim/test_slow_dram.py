"""The slow controller against hand-counted toys, and its traces against the legality checker."""

from dataclasses import replace

import numpy as np
import pytest

from sim.dram.checker import check_commands
from sim.dram.spec import ACT, COMMAND_NAMES, PRE, PREA, RD, RDA, REF, REFB, WR, WRA, DramSpec
from tests.sim.random_memories import MODES, random_spec, random_stream
from tests.sim.slow_dram import SlowResult, run_slow
from tests.sim.slow_requests import decode

# one channel; a row of 4 bursts, then 2 banks of 2 groups each: an address of 64 bytes is one burst
TOY = DramSpec(
    channels=1,
    pseudo_channels=1,
    bank_groups=2,
    banks_per_group=2,
    burst_bytes=64,
    fields=(("column", 2), ("bank_group", 1), ("bank", 1), ("row", 8)),
    memory_ps=1000,
    core_ps=1000,
    burst=2,
    read_latency=6,
    write_latency=4,
    ccd_short=2,
    ccd_long=4,
    read_to_write=6,
    write_to_read_short=3,
    write_to_read_long=5,
    rcd_read=5,
    rcd_write=4,
    precharge=5,
    ras=12,
    row_cycle=17,
    rrd_short=3,
    rrd_long=4,
    faw=20,
    read_to_precharge=4,
    write_recovery=6,
    refresh=30,
    refresh_interval=1000,
    one_bus=True,
    refresh_mode="none",
)
SAME_ROW, OTHER_GROUP, OTHER_ROW = 64, 4 * 64, 16 * 64
READ, WRITE = False, True


def run(spec: DramSpec, *requests: tuple[int, bool], mode: str = "asap", cycle: int = 0) -> SlowResult:
    address, write = zip(*requests, strict=True)
    return run_slow(spec, mode, [cycle] * len(address), address, write)


def log(result: SlowResult) -> list[tuple[int, str, int]]:
    """(tick, command, bank)"""
    return [(tick, COMMAND_NAMES[command], bank) for tick, _, _, command, bank, _ in result.trace.tolist()]


def rows_read(spec: DramSpec, *requests: tuple[int, bool]) -> list[int]:
    trace = run(spec, *requests).trace
    return trace[trace[:, 3] == RD, 5].tolist()


# ---- toys with an exact log ----


def test_a_row_is_opened_hit_closed_and_another_one_opened() -> None:
    result = run(TOY, (0, READ), (SAME_ROW, READ), (OTHER_ROW, READ))
    assert log(result) == [
        (1, "ACT", 0),
        (6, "RD", 0),  # tRCD
        (10, "RD", 0),  # tCCD_L
        (14, "PRE", 0),  # tRTP, tRAS
        (19, "ACT", 0),  # tRP
        (24, "RD", 0),
    ]
    assert result.cycles == 32  # the last data, 8 after their command
    assert result.latencies == [14, 17, 30]  # accepted at 0, 1 and 2
    assert result.commands == {
        "activates": 2,
        "precharges": 1,
        "precharge_alls": 0,
        "reads": 3,
        "writes": 0,
        "refreshes": 0,
        "refreshes_bank": 0,
    }


def test_an_older_hit_is_protected_or_not() -> None:
    """Bank 0 holds row 0; while its second read waits for tCCD_L the third, of another row, wants it closed."""
    spec = replace(TOY, ras=5, read_to_precharge=2)
    requests = (0, READ), (SAME_ROW, READ), (OTHER_ROW, READ)
    assert [name for _, name, _ in log(run(spec, *requests))] == ["ACT", "RD", "RD", "PRE", "ACT", "RD"]
    hasty = replace(spec, scheduler="fr_fcfs_unprotected")
    assert [name for _, name, _ in log(run(hasty, *requests))][:3] == ["ACT", "RD", "PRE"]


@pytest.mark.parametrize(("scheduler", "rows"), [("fr_fcfs", [0, 0, 1]), ("fcfs", [0, 1, 0])])
def test_hits_overtake_conflicts_unless_first_come_first_served(scheduler: str, rows: list[int]) -> None:
    assert rows_read(replace(TOY, scheduler=scheduler), (0, READ), (OTHER_ROW, READ), (SAME_ROW, READ)) == rows


@pytest.mark.parametrize(("cap", "rows"), [(0, [0, 0, 0, 0, 1]), (2, [0, 0, 1, 0, 0]), (3, [0, 0, 0, 1, 0])])
def test_a_cap_on_hits_lets_the_other_row_in(cap: int, rows: list[int]) -> None:
    requests = (0, READ), (OTHER_ROW, READ), *((SAME_ROW * i, READ) for i in (1, 2, 3))
    assert rows_read(replace(TOY, row_hit_cap=cap, read_to_precharge=6), *requests) == rows


def test_a_closed_page_closes_with_the_last_hit_in_the_queues() -> None:
    result = run(replace(TOY, page="closed"), (0, READ), (SAME_ROW, READ), (OTHER_ROW, READ))
    assert log(result) == [
        (1, "ACT", 0),
        (6, "RD", 0),
        (10, "RDA", 0),
        (19, "ACT", 0),  # closes by itself at 14
        (24, "RDA", 0),
    ]
    assert result.commands["precharges"] == 2


@pytest.mark.parametrize(("writes", "columns"), [(3, "RRRRRRRR"), (4, "RWWWWRRRRRRR")])
def test_writes_wait_until_there_are_no_reads_or_too_many_of_them(writes: int, columns: str) -> None:
    """Four fill their queue over three quarters: drained at once, to the last."""
    spec = replace(TOY, write_queue=4, write_high=0.75)
    posted = [(OTHER_GROUP + SAME_ROW * i, WRITE) for i in range(writes)]
    result = run(spec, (0, READ), (SAME_ROW, READ), *posted, *[(2 * SAME_ROW, READ)] * 6)
    found = "".join(name[0] for _, name, _ in log(result) if name in ("RD", "WR"))
    assert found[: len(columns)] == columns


def test_writes_drain_without_a_pause_while_there_are_no_reads() -> None:
    result = run_slow(TOY, "timed", [0, 0, 0, 60], [0, SAME_ROW, 2 * SAME_ROW, 0], [WRITE, WRITE, WRITE, READ])
    assert [tick for tick, name, _ in log(result) if name == "WR"] == [5, 9, 13]


def test_two_buses_take_a_row_and_a_column_command_in_one_tick() -> None:
    result = run(replace(TOY, one_bus=False, activate_ticks=2), *((OTHER_GROUP * bank, READ) for bank in range(4)))
    assert [tick for tick, name, _ in log(result) if name == "ACT"] == [1, 4, 7, 10]
    assert [tick for tick, name, _ in log(result) if name == "RD"] == [7, 10, 13, 16]  # an ACT ends a tick later


def test_falling_edges_are_used_for_precharges_alone() -> None:
    spec = replace(TOY, one_bus=False, edges=2, activate_ticks=3, row_ticks=1, column_ticks=2, read_to_precharge=9)
    result = run(spec, (0, READ), (OTHER_ROW, READ))
    assert log(result) == [
        (1, "ACT", 0),
        (13, "RD", 0),  # 1 + 2 * 5 + 3 - 2 = 12 is a falling edge
        (32, "PRE", 0),  # tRTP: 13 + 2 * 9 + 2 - 1; tRAS: 1 + 2 * 12 + 3 - 1 = 27
        (41, "ACT", 0),  # 32 + 2 * 5 + 1 - 3 = 40 is one too
        (53, "RD", 0),
    ]
    assert result.cycles == (53 + 16) / 2


def test_refresh_closes_all_banks_and_nothing_else_happens() -> None:
    spec = replace(TOY, refresh_mode="all_bank", refresh_interval=100)
    result = run_slow(spec, "timed", [0, 99], [0, SAME_ROW], [READ, READ])
    assert log(result)[2:] == [(100, "PREA", -1), (105, "REF", -1), (135, "ACT", 0), (140, "RD", 0)]
    result = run_slow(spec, "timed", [0, 97], [0, OTHER_ROW], [READ, READ])
    assert log(result)[2:] == [(98, "PRE", 0), (103, "REF", -1), (133, "ACT", 0), (138, "RD", 0)]


def test_refresh_of_single_banks_goes_round() -> None:
    spec = replace(TOY, refresh_mode="per_bank", refresh_interval=103, refresh_bank=10, refresh_bank_gap=3)
    result = run_slow(spec, "timed", [0, 120], [0, OTHER_GROUP], [READ, READ])
    assert log(result)[2:] == [
        (25, "PRE", 0),
        (30, "REFB", 0),
        (50, "REFB", 1),
        (75, "REFB", 2),
        (100, "REFB", 3),
        (121, "ACT", 2),
        (125, "REFB", 0),
        (126, "RD", 2),
    ]


def test_a_chain_waits_for_the_data_of_its_last_burst() -> None:
    result = run(replace(TOY, burst_bytes=32), (0, READ), (OTHER_GROUP, READ), mode="chain")
    assert [tick for tick, name, _ in log(result) if name == "ACT"] == [
        1,
        19,
    ]  # data of the second RD, at 10, ends at 18


def test_timed_requests_wait_for_their_cycle() -> None:
    spec = replace(TOY, one_bus=False, edges=2)
    assert run_slow(spec, "timed", [50], [0], [READ]).trace[0, 0] == 101


def test_outstanding_reads_are_limited() -> None:
    spec = replace(TOY, outstanding_reads=1)
    result = run(spec, (0, READ), (OTHER_GROUP, READ))
    assert [tick for tick, name, _ in log(result) if name == "ACT"] == [1, 15]  # data at 14, accepted at 14


# ---- addresses ----


def test_fields_of_several_parts_are_filled_from_their_low_end() -> None:
    spec = replace(TOY, fields=(("column", 1), ("bank", 1), ("column", 2), ("row", 8)))
    found = decode(spec, 0b101_10_1_1)
    assert (found["row"], found["column"], found["bank"]) == (0b101, 0b101, 1)


def test_channels_by_division_and_inverted_bits() -> None:
    fields = ("column", 1), ("channel", 0), ("bank", 1), ("row", 8)
    spec = replace(TOY, channels=3, fields=fields, xor=(("bank", 0, "row", 1),))
    found = decode(spec, 1 + 2 * (2 + 3 * (1 + 2 * 0b10)))
    assert [found[name] for name in ("column", "channel", "bank", "row")] == [1, 2, 0, 0b10]


# ---- legality ----


@pytest.mark.parametrize("seed", range(60))
def test_random_memories_are_driven_legally(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spec = random_spec(rng)
    cycle, address, write = random_stream(rng, spec)
    result = run_slow(spec, MODES[seed % 3], cycle, address, write)
    assert check_commands(spec, result.trace, int(result.cycles * spec.edges)) == []
    bursts = 64 // spec.burst_bytes
    reads, writes = np.count_nonzero(~write) * bursts, np.count_nonzero(write) * bursts
    assert (result.commands["reads"], len(result.latencies)) == (reads, reads)
    room = spec.write_queue * spec.pseudo_channels * spec.channels
    assert writes - room - 64 <= result.commands["writes"] <= writes


WEAKER = {  # a timing of the memory -> the rule that a controller breaks who believes it shorter
    "row_cycle": "tRC", "rcd_read": "tRCD of reads", "rcd_write": "tRCD of writes", "ras": "tRAS",
    "read_to_precharge": "tRTP", "write_recovery": "tWR", "precharge": "tRP", "refresh": "tRFC",
    "ccd_long": "tCCD_L of reads", "ccd_long_write": "tCCD_L of writes", "write_to_read_long": "tWTR_L",
    "rrd_long": "tRRD_L", "ccd_short": "tCCD_S of reads", "ccd_short_write": "tCCD_S of writes",
    "read_to_write": "tRTW", "write_to_read_short": "tWTR_S", "rrd_short": "tRRD_S",
    "precharge_to_precharge": "tPPD", "refresh_bank_gap": "tRREFD", "refresh_bank": "tRFC of a bank", "faw": "tFAW",
    "activate_ticks": "command bus",
}  # fmt: skip


BUSY = {  # what makes every rule bind
    "burst": 1, "ccd_short": 3, "ccd_long": 6, "ccd_short_write": 7, "ccd_long_write": 9, "ras": 22, "row_cycle": 40,
    "read_queue": 16, "write_queue": 8, "outstanding_reads": 16, "activate_ticks": 4, "scheduler": "fr_fcfs",
}  # fmt: skip


@pytest.mark.parametrize("timing", WEAKER)
def test_a_controller_that_errs_by_one_is_found(timing: str) -> None:
    """Driven with one timing a cycle short, the memory is found to be abused, in one of a few random worlds."""
    assert any(WEAKER[timing] in broken_when_short(timing, seed) for seed in range(12))


def broken_when_short(timing: str, seed: int) -> set[str]:
    rng = np.random.default_rng(seed)
    spec = random_spec(rng, **BUSY, refresh_mode="per_bank" if "refresh_bank" in timing else "all_bank")
    short = replace(spec, **{timing: getattr(spec, timing) - 1})
    trace = run_slow(short, "asap", *random_stream(rng, spec)).trace
    return {violation.rule for violation in check_commands(spec, trace)}


def test_every_command_is_met_in_the_random_worlds() -> None:
    met: set[int] = set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        spec = random_spec(rng)
        met |= set(run_slow(spec, "timed", *random_stream(rng, spec)).trace[:, 3].tolist())
    assert met == {ACT, PRE, PREA, RD, WR, RDA, WRA, REF, REFB}
