"""Specification and state of the DRAM controller as integers, and a memory at time 0."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

FOREVER = 1 << 60
COMMANDS = ("activates", "precharges", "reads", "writes", "refreshes")
COLUMN, ACTIVATE, PRECHARGE, REFRESH = range(4)  # what a pseudo-channel can do next

# The configuration is one integer array, the state another: passing dozens of arrays between jitted functions
# costs more than the work. The names below are their columns; Numba sees them as constants.
(IDEAL, TRANSFER_BYTES, TRANSFER_CYCLES, IDEAL_LATENCY, CHANNELS, PSEUDO_SHIFT, BANKS, GROUP_SHIFT,
 BURST_SHIFT, FIFO_DEPTH, QUEUE_DEPTH, LANES, MEMORY_PS, CORE_PS, BURST, CL, CWL, RCD_READ, RCD_WRITE, RP, RAS,
 CCD_S, CCD_L, RRD_S, RRD_L, FAW, RTP, WR, WTR_S, WTR_L, RTW, RFC, REFI, ACT_BUS, LOOKAHEAD, NEXT_AT,
 PSEUDO_AT, PSEUDO_SIZE, BANK_AT, GROUP_AT, QUEUE_AT, FIFO_AT, CHANNEL_AT, SLICE_AT, HEAP_AT, DECODE_AT,
 CONFIG_SIZE) = range(47)  # fmt: skip
# of the whole memory (at 0; from NEXT_AT on the time at which each pseudo-channel acts next):
# heap size, slices out, all commands before this are done, front end free, counters
HEAP_SIZE, OUT, ADVANCED, FRONT, COUNTS = range(5)
TOTAL = COUNTS + len(COMMANDS)
# of a pseudo-channel (at PSEUDO_AT, PSEUDO_SIZE apart)
(NOW, NEXT_KIND, COLUMN_TIME, COLUMN_AT, QUEUED, QUEUE_HEAD, FIFO_COUNT, FIFO_HEAD, READ_ANY, WRITE_ANY,
 ACT_ANY, ACT_TURN, REFRESH_DUE, MISSES, ROW_TIME, ROW_KIND, ROW_BANK, ROW_ROW, ROW_STALE,
 ACT_TIMES) = range(20)  # fmt: skip
PSEUDO_COLUMNS = ACT_TIMES + 4  # the last four activates, as a ring
# of a bank: row or -1, earliest time of each command, queued requests, those of them for another row
OPEN_ROW, ACT_OK, READ_OK, WRITE_OK, PRE_OK, BANK_QUEUED, BANK_MISSES, BANK_COLUMNS = range(8)
READ_GROUP, WRITE_GROUP, ACT_GROUP, GROUP_COLUMNS = range(4)  # of a bank group: earliest time
ROW_BUS, ARRIVAL, CHANNEL_COLUMNS = range(3)  # of a channel: row bus free from, next request enters from
REMAINING, RETURNED, BURSTS, SLICE_COLUMNS = range(4)  # of a slice: bursts still out, last data so far, bursts
_BANK_BITS, _ROW_BITS = 6, 18  # a request is packed as slice | row | bank | write
ROW_PLACE, SLICE_PLACE = 1 + _BANK_BITS, 1 + _BANK_BITS + _ROW_BITS
BANK_MASK, ROW_MASK = (1 << _BANK_BITS) - 1, (1 << _ROW_BITS) - 1
DECODE_SIZE = 4 * 256
QUEUE_RING = 64  # places of the queue's ring buffer: queue_depth is at most this


@dataclass(frozen=True)
class DramSpec:
    """All that the controller needs, as plain integers (cycles of the memory clock, bytes, counts).

    fields   (name, bits) from the lowest address bit above the burst; names channel, pseudo_channel,
             bank_group, bank, column, row
    memory_ps, core_ps   clock periods in picoseconds; times crossing between them round up
    """

    channels: int
    pseudo_channels: int
    bank_groups: int
    banks_per_group: int
    burst_bytes: int
    fields: tuple[tuple[str, int], ...]
    fifo_depth: int
    queue_depth: int
    request_lanes: int
    memory_ps: int
    core_ps: int
    burst: int
    read_latency: int
    write_latency: int
    rcd_read: int
    rcd_write: int
    precharge: int
    ras: int
    ccd_short: int
    ccd_long: int
    rrd_short: int
    rrd_long: int
    faw: int
    read_to_precharge: int
    write_recovery: int
    write_to_read_short: int
    write_to_read_long: int
    read_to_write: int
    refresh: int
    refresh_interval: int
    activate_bus: int


@dataclass(frozen=True)
class IdealSpec:
    """A memory without banks or bursts: `transfer_bytes` in `transfer_cycles` core cycles, after `latency_cycles`."""

    transfer_bytes: int
    latency_cycles: int
    burst_bytes: int
    transfer_cycles: int = 1


@dataclass(frozen=True)
class MemoryState:
    """A memory in mid-run: `config` and `state` are what the jitted functions take (int64 arrays)."""

    config: NDArray[np.int64]
    state: NDArray[np.int64]

    @property
    def commands(self) -> dict[str, int]:
        """Commands issued so far."""
        return {name: int(self.state[COUNTS + i]) for i, name in enumerate(COMMANDS)}

    @property
    def bursts(self) -> NDArray[np.int64]:
        """Bursts of each slice that has been handed over."""
        at, end = self.config[SLICE_AT], self.config[HEAP_AT]
        return self.state[at:end].reshape(-1, SLICE_COLUMNS)[:, BURSTS]


def _bits(count: int) -> int:
    """Bits of a power of two."""
    return count.bit_length() - 1


@lru_cache(maxsize=64)
def _decode_table(fields: tuple[tuple[str, int], ...], pseudo_channels: int, banks_per_group: int) -> NDArray[np.int64]:
    """Four tables of 256: the codes of the four bytes of a burst number, which combine by exclusive or.

    A code holds bank and row where a queued request has them, and the pseudo-channel above.  Columns are not
    needed to find hits.
    """
    place = {"channel": SLICE_PLACE + _bits(pseudo_channels), "pseudo_channel": SLICE_PLACE, "row": ROW_PLACE}
    place |= {"bank_group": 1 + _bits(banks_per_group), "bank": 1}
    table, bit = np.zeros((4, 256), np.int64), 0
    for name, bits in fields:
        for _ in range(bits):
            if name in place:
                table[bit // 8] ^= (np.arange(256) >> bit % 8 & 1) << place[name]
                place[name] += 1
            bit += 1
    return table.reshape(-1)


def _numbers(spec: DramSpec | IdealSpec) -> list[int]:
    """The configuration up to NEXT_AT."""
    if isinstance(spec, IdealSpec):
        shift = _bits(spec.burst_bytes)
        rest = [0] * (NEXT_AT - BURST_SHIFT - 1)
        return [1, spec.transfer_bytes, spec.transfer_cycles, spec.latency_cycles, 1, 0, 1, 0, shift, *rest]
    s = spec
    return [
        0, 1, 1, 0, s.channels, _bits(s.pseudo_channels), s.bank_groups * s.banks_per_group, _bits(s.banks_per_group),
        _bits(s.burst_bytes), s.fifo_depth, s.queue_depth, s.request_lanes, s.memory_ps, s.core_ps,
        s.burst, s.read_latency, s.write_latency, s.rcd_read, s.rcd_write, s.precharge, s.ras, s.ccd_short,
        s.ccd_long, s.rrd_short, s.rrd_long, s.faw, s.read_to_precharge, s.write_recovery,
        s.write_to_read_short, s.write_to_read_long, s.read_to_write, s.refresh, s.refresh_interval,
        s.activate_bus, 0,
    ]  # fmt: skip


def _lay_out(c: NDArray[np.int64], slices: int) -> int:
    """Fill the offsets of the state; returns its size."""
    c[BANK_AT] = PSEUDO_COLUMNS
    c[GROUP_AT] = c[BANK_AT] + c[BANKS] * BANK_COLUMNS
    c[QUEUE_AT] = c[GROUP_AT] + (c[BANKS] >> c[GROUP_SHIFT]) * GROUP_COLUMNS
    c[FIFO_AT] = c[QUEUE_AT] + QUEUE_RING
    c[PSEUDO_SIZE] = c[FIFO_AT] + 2 * c[FIFO_DEPTH]
    c[NEXT_AT] = TOTAL
    c[PSEUDO_AT] = c[NEXT_AT] + (c[CHANNELS] << c[PSEUDO_SHIFT])
    c[CHANNEL_AT] = c[PSEUDO_AT] + c[PSEUDO_SIZE] * (c[CHANNELS] << c[PSEUDO_SHIFT])
    c[DECODE_AT] = c[CHANNEL_AT] + c[CHANNELS] * CHANNEL_COLUMNS
    c[SLICE_AT] = c[DECODE_AT] + DECODE_SIZE
    c[HEAP_AT] = c[SLICE_AT] + slices * SLICE_COLUMNS
    return int(c[HEAP_AT]) + 2 * (slices + 1)


def start_memory(spec: DramSpec | IdealSpec, slices: int, writes: bool = True) -> MemoryState:
    """A memory at time 0 with all rows closed, ready for that many slices.

    writes   whether any slice is a write; without, returns are known further ahead
    """
    c = np.zeros(CONFIG_SIZE, np.int64)
    c[:NEXT_AT] = _numbers(spec)
    m = np.zeros(_lay_out(c, slices), np.int64)
    if isinstance(spec, DramSpec):
        c[LOOKAHEAD] = spec.burst + (min(spec.read_latency, spec.write_latency) if writes else spec.read_latency)
        table = _decode_table(spec.fields, spec.pseudo_channels, spec.banks_per_group)
        m[c[DECODE_AT] : c[DECODE_AT] + DECODE_SIZE] = table
    pseudo = m[c[PSEUDO_AT] : c[CHANNEL_AT]].reshape(-1, c[PSEUDO_SIZE])
    pseudo[:, c[BANK_AT] + OPEN_ROW : c[GROUP_AT] : BANK_COLUMNS] = -1
    pseudo[:, ACT_TIMES : ACT_TIMES + 4] = -FOREVER
    pseudo[:, REFRESH_DUE] = m[c[NEXT_AT] : c[PSEUDO_AT]] = c[REFI] if c[REFI] else FOREVER
    pseudo[:, NEXT_KIND] = REFRESH
    pseudo[:, [COLUMN_TIME, ROW_TIME]] = FOREVER
    return MemoryState(c, m)
