"""Random small memories, legal in themselves, and request streams that make them conflict."""

from typing import Any

import numpy as np

from sim.dram.spec import PAGES, REFRESHES, SCHEDULERS, DramSpec

MODES = ("asap", "timed", "chain")
BUSES: tuple[dict[str, Any], ...] = (
    {"activate_ticks": 2},
    {"edges": 2, "activate_ticks": 3, "row_ticks": 1, "column_ticks": 2},
    {"one_bus": True},
    {"one_bus": True, "activate_ticks": 2, "column_ticks": 2},
    {"one_bus": True, "activate_ticks": 4, "column_ticks": 4, "row_ticks": 2},
)


def random_spec(rng: np.random.Generator, **changes: Any) -> DramSpec:
    """Timings of a few cycles each, every scheduler, page policy and refresh mode; queues small enough to fill."""

    def among(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    channels, group_bits, bank_bits, pseudo_bits = among(1, 3), among(0, 2), among(0, 2), among(0, 1)
    burst, read_latency, write_latency = among(1, 4), among(4, 10), among(2, 6)
    ccd_short, rrd_short, ras, precharge = among(1, 5), among(1, 5), among(6, 20), among(3, 9)
    fields = [("channel", 0)] if channels == 3 else [("channel", channels - 1)]
    rest = [
        ("column", 1),
        ("pseudo_channel", pseudo_bits),
        ("bank_group", group_bits),
        ("bank", bank_bits),
        ("column", 2),
    ]
    fields += [field for field in (rest[i] for i in rng.permutation(len(rest))) if field[1]] + [("row", 4)]
    base = {
        "channels": channels,
        "pseudo_channels": 2**pseudo_bits,
        "bank_groups": 2**group_bits,
        "banks_per_group": 2**bank_bits,
        "burst_bytes": int(rng.choice([32, 64])),
        "fields": tuple(fields),
        "xor": (("bank", 0, "row", 0), ("bank_group", 0, "row", 1))[: among(0, 2)] if bank_bits and group_bits else (),
        "memory_ps": 1000,
        "core_ps": 1000,
        "burst": burst,
        "read_latency": read_latency,
        "write_latency": write_latency,
        "ccd_short": ccd_short,
        "ccd_long": ccd_short + among(0, 4),
        "ccd_short_write": among(0, 1) * (ccd_short + 1),
        "ccd_long_write": among(0, 1) * (ccd_short + 6),
        "read_to_write": max(1, read_latency + burst - write_latency) + among(0, 3),
        "write_to_read_short": among(1, 5),
        "write_to_read_long": among(5, 9),
        "rcd_read": among(3, 9),
        "rcd_write": among(2, 9),
        "precharge": precharge,
        "ras": ras,
        "row_cycle": ras + precharge + among(0, 8),
        "rrd_short": rrd_short,
        "rrd_long": rrd_short + among(0, 4),
        "faw": 4 * rrd_short + among(0, 20),
        "read_to_precharge": among(2, 8),
        "write_recovery": among(3, 12),
        "refresh": among(20, 60),
        "refresh_interval": among(600, 900),
        "precharge_to_precharge": among(0, 4),
        "refresh_bank": among(10, 25),
        "refresh_bank_gap": among(2, 8),
        "scheduler": str(rng.choice(SCHEDULERS)),
        "page": str(rng.choice(PAGES)),
        "refresh_mode": str(rng.choice(REFRESHES)),
        "row_hit_cap": int(rng.choice([0, 0, 1, 3])),
        "read_queue": among(1, 16),
        "write_queue": among(1, 8),
        "write_high": float(rng.choice([0.5, 0.8])),
        "write_low": float(rng.choice([0.2, 0.4])),
        "outstanding_reads": among(1, 16),
    }
    bus = BUSES[among(0, len(BUSES) - 1)]
    return DramSpec(**{**base, **bus, **changes})


def random_stream(rng: np.random.Generator, spec: DramSpec, count: int = 80) -> tuple[np.ndarray, ...]:
    """(cycle, address, write): runs of neighbours in a footprint of a few rows, a share of them writes."""
    bits = sum(width for _, width in spec.fields)
    blocks = spec.channels * 2**bits * spec.burst_bytes // 64
    start = rng.integers(0, blocks, count) * (rng.random(count) < 0.4)
    address = (np.cumsum(np.where(start, start, 1)) % blocks) * 64
    cycle = np.cumsum(rng.integers(0, int(rng.choice([2, 10, 40])), count))
    return cycle, address, rng.random(count) < rng.choice([0.0, 0.3, 1.0])
