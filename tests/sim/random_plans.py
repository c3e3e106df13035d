"""Random plans and memories for the equality of engines (hypothesis draws the seed)."""

import numpy as np

from sim.dram import DramSpec, IdealSpec
from sim.plan import IN_ORDER, OLDEST_READY, Plan, Slices, Unit
from tests.sim.random_memories import random_spec

SMALL_HBM2 = DramSpec(
    channels=2, pseudo_channels=2, bank_groups=2, banks_per_group=2, burst_bytes=32,
    fields=(("channel", 1), ("pseudo_channel", 1), ("bank_group", 1), ("column", 3), ("bank", 1), ("row", 6)),
    fifo_depth=4, read_queue=4, write_queue=4, outstanding_reads=16, request_lanes=4, memory_ps=1000, core_ps=1000,
    burst=2, read_latency=14, write_latency=5, rcd_read=14, rcd_write=12, precharge=14, ras=34, row_cycle=48,
    ccd_short=2, ccd_long=4, rrd_short=4, rrd_long=4, faw=15, read_to_precharge=5, write_recovery=16,
    write_to_read_short=6, write_to_read_long=8, read_to_write=13, refresh=350, refresh_interval=3900,
    activate_ticks=2,
)  # fmt: skip


def random_dram(rng: np.random.Generator) -> DramSpec:
    """Any kind of memory, behind short FIFOs and with clocks that seldom meet."""
    return random_spec(
        rng,
        fifo_depth=int(rng.integers(1, 9)),
        request_lanes=int(rng.integers(1, 9)),
        memory_ps=int(rng.choice([625, 1000])),
        core_ps=int(rng.choice([700, 1000, 1350, 2000])),
    )


def random_memory(rng: np.random.Generator) -> DramSpec | IdealSpec:
    """A small DRAM, or now and then the ideal memory."""
    if rng.random() < 0.2:
        return IdealSpec(int(rng.integers(1, 64)), int(rng.integers(0, 40)), 32)
    return random_dram(rng)


def random_units(rng: np.random.Generator) -> tuple[Unit, ...]:
    """A memory unit and one to five others of both orders."""
    others = [
        Unit(f"u{i}", int(rng.integers(1, 4)), int(rng.choice([IN_ORDER, OLDEST_READY])), int(rng.choice([0, 0, 1, 5])))
        for i in range(int(rng.integers(1, 6)))
    ]
    return (Unit("memory", 1, OLDEST_READY, int(rng.choice([0, 0, 1, 3]))), *others)


def random_slices(rng: np.random.Generator, count: int) -> Slices:
    """Each slice one to four segments of 1 to 200 bytes; every fifth a write."""
    segments = rng.integers(1, 5, count)
    total = int(segments.sum())
    return Slices(
        np.concatenate([[0], np.cumsum(segments)]).astype(np.int64),
        rng.integers(0, 1 << 16, total).astype(np.int64),
        rng.integers(1, 201, total).astype(np.int64),
        (rng.random(count) < 0.2).astype(np.uint8),
        rng.integers(0, 2, count).astype(np.int64),
        ("a", "b"),
    )


def random_plan(rng: np.random.Generator, tasks: int) -> Plan:
    """Up to three dependencies a task on recent tasks, of both kinds; short times so that ties are common."""
    units, longest = random_units(rng), int(rng.choice([2, 3, 8]))
    unit = rng.integers(0, len(units), tasks).astype(np.int32)
    arbitrated = np.array([u.order == OLDEST_READY for u in units])[unit]
    amount = np.maximum(rng.integers(0, longest, tasks), arbitrated).astype(np.int32)
    amount[unit == 0] = np.arange((unit == 0).sum())
    deps, ptr = [], [0]
    for task in range(tasks):
        for source in rng.integers(max(0, task - 12), max(task, 1), rng.integers(0, 4)) if task else ():
            deps.append(int(source) if rng.random() < 0.7 else ~int(source))
        ptr.append(len(deps))
    return Plan(
        units, unit, amount, np.array(ptr, np.int32), np.array(deps, np.int32), 0,
        random_slices(rng, int((unit == 0).sum())),
    )  # fmt: skip
