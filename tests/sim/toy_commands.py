"""Traces of a few commands, written by hand, in which one timing rule alone decides when the last one may come."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sim.dram.checker import check_commands
from sim.dram.spec import ACT, PRE, PREA, RD, RDA, REF, REFB, WR, WRA, CommandTrace, DramSpec

# no part of any maker: values far enough apart that in each toy one rule alone decides
TOY = DramSpec(
    channels=2,
    pseudo_channels=2,
    bank_groups=4,
    banks_per_group=2,
    burst_bytes=32,
    fields=(("channel", 1), ("pseudo_channel", 1), ("bank_group", 2), ("column", 4), ("bank", 1), ("row", 10)),
    memory_ps=1000,
    core_ps=1000,
    burst=2,
    read_latency=14,
    write_latency=5,
    ccd_short=5,
    ccd_long=7,
    ccd_short_write=6,
    ccd_long_write=9,
    read_to_write=17,
    write_to_read_short=6,
    write_to_read_long=8,
    rcd_read=14,
    rcd_write=12,
    precharge=15,
    ras=34,
    row_cycle=80,
    rrd_short=8,
    rrd_long=10,
    faw=60,
    read_to_precharge=7,
    write_recovery=16,
    refresh=100,
    refresh_interval=100_000,
    precharge_to_precharge=5,
    refresh_bank=50,
    refresh_bank_gap=11,
    refresh_mode="none",
)
SPECS = {
    "hbm2": replace(TOY, activate_ticks=2),
    "hbm3": replace(TOY, edges=2, activate_ticks=3, row_ticks=1, column_ticks=2),
    "ddr5": replace(
        TOY, pseudo_channels=1, one_bus=True, activate_ticks=2, column_ticks=2, burst=8, ccd_short=9, ccd_long=12,
        ccd_short_write=10, ccd_long_write=20, read_to_write=30,
    ),
    "lpddr4": replace(TOY, pseudo_channels=1, one_bus=True, activate_ticks=4, column_ticks=4, row_ticks=2),
}  # fmt: skip

Step = tuple[int, int, int]  # cycle, command, bank; banks 0 and 1 are of group 0, banks 2 and 3 of group 1
ALL = -1


@dataclass(frozen=True)
class Toy:
    """`last` may come `cycles` after the last of `steps`, or after the one at place `since`."""

    rule: str
    steps: tuple[Step, ...]
    last: tuple[int, int]
    cycles: Callable[[DramSpec], int]
    changes: dict[str, Any] = field(default_factory=dict)
    since: int = -1
    name: str = ""


def written(spec: DramSpec) -> int:
    return spec.write_latency + spec.burst


ALL_BANK, PER_BANK = {"refresh_mode": "all_bank"}, {"refresh_mode": "per_bank"}
OPEN = (0, ACT, 0)
TOYS = (
    Toy("tRC", (OPEN, (50, PRE, 0)), (ACT, 0), lambda s: s.row_cycle, since=0, name="ACT ACT"),
    Toy("tRC", (OPEN, (50, PRE, 0)), (REFB, 0), lambda s: s.row_cycle, PER_BANK, 0, "ACT REFB"),
    Toy("tRC", (OPEN, (50, PREA, ALL)), (REF, ALL), lambda s: s.row_cycle, ALL_BANK, 0, "ACT REF"),
    Toy("tRCD of reads", (OPEN,), (RD, 0), lambda s: s.rcd_read),
    Toy("tRCD of writes", (OPEN,), (WR, 0), lambda s: s.rcd_write),
    Toy("tRAS", (OPEN,), (PRE, 0), lambda s: s.ras, name="PRE"),
    Toy("tRAS", (OPEN, (20, ACT, 3)), (PREA, ALL), lambda s: s.ras, name="PREA"),
    Toy("tRTP", (OPEN, (200, RD, 0)), (PRE, 0), lambda s: s.read_to_precharge, name="PRE"),
    Toy("tRTP", (OPEN, (200, RD, 0)), (PREA, ALL), lambda s: s.read_to_precharge, name="PREA"),
    Toy("tWR", (OPEN, (200, WR, 0)), (PRE, 0), lambda s: written(s) + s.write_recovery, name="PRE"),
    Toy("tWR", (OPEN, (200, WR, 0)), (PREA, ALL), lambda s: written(s) + s.write_recovery, name="PREA"),
    Toy("tRP", (OPEN, (200, PRE, 0)), (ACT, 0), lambda s: s.precharge, name="PRE ACT"),
    Toy("tRP", (OPEN, (200, PREA, ALL)), (ACT, 0), lambda s: s.precharge, name="PREA ACT"),
    Toy("tRP", (OPEN, (200, PRE, 0)), (REF, ALL), lambda s: s.precharge, ALL_BANK, name="PRE REF"),
    Toy("tRP", (OPEN, (200, PREA, ALL)), (REF, ALL), lambda s: s.precharge, ALL_BANK, name="PREA REF"),
    Toy("tRP", (OPEN, (200, PRE, 0)), (REFB, 0), lambda s: s.precharge, PER_BANK, name="PRE REFB"),
    Toy("tRFC", ((0, REF, ALL),), (ACT, 3), lambda s: s.refresh, ALL_BANK, name="ACT"),
    Toy("tRFC", ((0, REF, ALL),), (REF, ALL), lambda s: s.refresh, {**ALL_BANK, "refresh_interval": 60}, name="REF"),
    Toy("tRFC of a bank", ((0, REFB, 1),), (ACT, 1), lambda s: s.refresh_bank, PER_BANK, name="ACT"),
    Toy("tRFC of a bank", ((0, REFB, 1),), (REFB, 1), lambda s: s.refresh_bank, {**PER_BANK, "refresh_interval": 48},
        name="REFB"),
    Toy("tCCD_L of reads", (OPEN, (100, ACT, 1), (200, RD, 0)), (RD, 1), lambda s: s.ccd_long),
    Toy("tCCD_L of writes", (OPEN, (100, ACT, 1), (200, WR, 0)), (WR, 1), lambda s: s.ccd_long_write),
    Toy("tCCD_L of writes", (OPEN, (100, ACT, 1), (200, WR, 0)), (WR, 1), lambda s: s.ccd_long,
        {"ccd_long_write": 0}, name="as reads"),
    Toy("tWTR_L", (OPEN, (100, ACT, 1), (200, WR, 0)), (RD, 1), lambda s: written(s) + s.write_to_read_long),
    Toy("tRRD_L", (OPEN,), (ACT, 1), lambda s: s.rrd_long),
    Toy("tCCD_S of reads", (OPEN, (100, ACT, 2), (200, RD, 0)), (RD, 2), lambda s: s.ccd_short),
    Toy("tCCD_S of writes", (OPEN, (100, ACT, 2), (200, WR, 0)), (WR, 2), lambda s: s.ccd_short_write),
    Toy("tCCD_S of writes", (OPEN, (100, ACT, 2), (200, WR, 0)), (WR, 2), lambda s: s.ccd_short,
        {"ccd_short_write": 0}, name="as reads"),
    Toy("tRTW", (OPEN, (100, ACT, 2), (200, RD, 0)), (WR, 2), lambda s: s.read_to_write),
    Toy("tWTR_S", (OPEN, (100, ACT, 2), (200, WR, 0)), (RD, 2), lambda s: written(s) + s.write_to_read_short),
    Toy("tRRD_S", (OPEN,), (ACT, 2), lambda s: s.rrd_short, name="ACT"),
    Toy("tRRD_S", (OPEN,), (REFB, 2), lambda s: s.rrd_short, PER_BANK, name="REFB"),
    Toy("tPPD", (OPEN, (100, ACT, 2), (200, PRE, 0)), (PRE, 2), lambda s: s.precharge_to_precharge, name="PRE"),
    Toy("tPPD", (OPEN, (100, ACT, 2), (200, PRE, 0)), (PREA, ALL), lambda s: s.precharge_to_precharge, name="PREA"),
    Toy("tRREFD", ((0, REFB, 0),), (ACT, 2), lambda s: s.refresh_bank_gap, PER_BANK, name="ACT"),
    Toy("tRREFD", ((0, REFB, 0),), (REFB, 1), lambda s: s.refresh_bank_gap, PER_BANK, name="REFB"),
    Toy("tFAW", (OPEN, (12, ACT, 2), (24, ACT, 4), (36, ACT, 6)), (ACT, 1), lambda s: s.faw, since=0),
    Toy("data bus", (OPEN, (100, ACT, 2), (200, RD, 0)), (RD, 2), lambda s: s.burst, {"burst": 12}, name="RD RD"),
    Toy("data bus", (OPEN, (100, ACT, 2), (200, WR, 0)), (WR, 2), lambda s: s.burst, {"burst": 12}, name="WR WR"),
    Toy("data bus", (OPEN, (100, ACT, 2), (200, RD, 0)), (WR, 2),
        lambda s: s.read_latency + s.burst - s.write_latency, {"read_to_write": 0}, name="RD WR"),
)  # fmt: skip


def ticks(spec: DramSpec, command: int) -> int:
    if command == ACT:
        return spec.activate_ticks
    return spec.column_ticks if command in (RD, WR, RDA, WRA) else spec.row_ticks


def commands(spec: DramSpec, *steps: tuple[int, int, int]) -> CommandTrace:
    """(tick, command, bank) of channel 1, its last pseudo-channel, row 5"""
    rows = [
        (tick, 1, spec.pseudo_channels - 1, command, bank, 5 if command in (ACT, RD, WR, RDA, WRA) else -1)
        for tick, command, bank in steps
    ]
    return np.array(rows, np.int64).reshape(-1, 6)


def play(spec: DramSpec, toy: Toy, early: int = 0) -> tuple[CommandTrace, int]:
    """The toy's trace and the tick of its last command: at the limit, less `early`."""
    steps = [(1 + cycle * spec.edges, command, bank) for cycle, command, bank in toy.steps]
    tick, before, _ = steps[toy.since]
    limit = tick + toy.cycles(spec) * spec.edges + ticks(spec, before) - ticks(spec, toy.last[0]) - early
    return commands(spec, *steps, (limit, *toy.last)), limit


def broken(spec: DramSpec, trace: CommandTrace, until_tick: int | None = None) -> set[str]:
    return {violation.rule for violation in check_commands(spec, trace, until_tick)}
