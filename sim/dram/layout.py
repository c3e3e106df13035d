"""Where everything lies in the controller's two integer arrays, and a memory at time 0.

The configuration `c` is one int64 array, the state `m` another: passing dozens of arrays between jitted functions
costs more than the work. The names below are their columns; Numba sees them as constants. Blocks follow each other:
the whole memory, then each channel with its pseudo-channels, bank groups, banks and request slots, then slices,
the heap of finished slices, the address tables and the FIFOs. Times are ticks.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sim.dram.spec import REFRESHES, SCHEDULERS, DramSpec, IdealSpec

FOREVER = 1 << 60
COUNTED = ("activates", "precharges", "precharge_alls", "reads", "writes", "refreshes", "refreshes_bank")
N_ACT, N_PRE, N_PREA, N_RD, N_WR, N_REF, N_REFB = range(len(COUNTED))
# why a data bus stood idle before a burst
CAUSES = ("row_conflicts", "bank_groups", "activate_window", "refresh", "turnaround", "queue_depth",
          "head_of_line", "command_bus", "no_requests")  # fmt: skip
ROW_CONFLICT, BANK_GROUP, ACT_WINDOW, REFRESHING, TURNAROUND, DEPTH, HEAD_OF_LINE, COMMAND_BUS, NO_REQUEST = range(9)
LATENCY_BINS = 1 << 16  # ticks; slower reads share the last bin

# of the configuration: the part and the controller, latencies between first ticks of commands ...
(IDEAL, TRANSFER_BYTES, TRANSFER_CYCLES, IDEAL_LATENCY, CHANNELS, DIVIDE, DIVIDE_SHIFT, PSEUDO, BANK_SHIFT,
 GROUP_SHIFT, BURST_SHIFT, EDGES, EDGE, ONE_BUS, ACT_TICKS, ROW_TICKS, COLUMN_TICKS, LANES, FIFO_DEPTH, MEMORY_PS,
 CORE_PS, READ_BACK, WRITE_BACK, LOOKAHEAD, BURST, CCD_S, CCD_S_WR, CCD_L, CCD_L_WR, RTW, WTR_S, WTR_L, RCD_RD,
 RCD_WR, RAS, ROW_CYCLE, RP, RP_REF, RRD_S, RRD_L, FAW, RTP, WTP, PPD, RC_REF, RFC, RFC_AGAIN, REFI, RFC_BANK,
 BANK_GAP, BANK_GAP_AGAIN, RRD_REF, READ_ROOM, WRITE_ROOM, WRITES_HIGH, WRITES_LOW, OUTSTANDING, CAP, CLOSED, FCFS,
 UNPROTECTED, PER_BANK,
 # ... and where the blocks of the state begin and how large they are
 NEXT_AT, CHANNEL_AT, CHANNEL_SIZE, PSEUDO_AT, PSEUDO_SIZE, GROUP_AT, BANK_AT, SLOT_AT, SLICE_AT, HEAP_AT, DECODE_AT,
 LATENCY_AT, FIFO_AT, FIFO_ROOM, CONFIG_SIZE) = range(77)  # fmt: skip
# of the whole memory, at 0 (at NEXT_AT the time before which each channel has nothing to do)
(HEAP_SIZE, OUT, ADVANCED, FRONT, STALLED, LAST_BACK, LAST_ACCEPTED, LATENCY_SUM, ACTIVE_TICKS,
 TRACED, COUNTS) = range(11)  # fmt: skip
IDLE = COUNTS + len(COUNTED)
TOTAL = IDLE + len(CAUSES)
# of a channel: the first tick at which each slot is still to come; the pseudo-channels whose choice goes next; whether
# writes are drained and when that changes; requests by queue (0 reads, 1 writes); bits by bank: rows open, requests
# whose ACT is out, row hits and row commands wanted by queue
(COLUMN_FROM, ROW_FROM, COLUMN_PICK, ROW_PICK, ADMIT_TIME, ADMIT_PSEUDO, WRITE_MODE, MODE_TICK, QUEUED,
 QUEUED_WRITES, ORDER, FREE_SLOT, OPEN_BANKS, ACTIVE_BANKS, HITS, HITS_WRITES, ROWS, ROWS_WRITES, REFRESH_DUE, PENDING,
 REFRESHED_AT, ARRIVAL, NUMBER, CHANNEL_COLUMNS) = range(24)  # fmt: skip
# of a pseudo-channel: the column and the row command it would give next and when; when its FIFO's head is accepted,
# earliest next offer, FIFO, accepted reads that have no command yet, return times of those that have (a ring);
# earliest commands, data bus, accepted requests that have no column command yet, since when rows are open,
# when the last row closes by itself, until when open rows are counted, refreshes of single banks that are due and the
# bank whose turn it is, last four activates
(COLUMN_TIME, COLUMN_BANK, COLUMN_ORDER, COLUMN_IS_ACTIVE, COLUMN_STALE, ROW_TIME, ROW_BANK, ROW_KIND, ROW_ORDER,
 ROW_STALE, ADMIT_AT, OFFER, FIFO_BASE, FIFO_HEAD, FIFO_COUNT, READS_QUEUED, RING_HEAD, RING_COUNT, READ_ANY,
 WRITE_ANY, ACT_ANY, PRE_ANY, REF_ANY, ACT_TURN, BUS_FREE, LAST_WAS_WRITE, WAITING, WAITING_SINCE, OPEN_SINCE,
 CLOSES_AT, COUNTED_TO, BANKS_DUE, REFRESH_TURN, ACT_TIMES) = range(34)  # fmt: skip
RING = ACT_TIMES + 4
READ_GROUP, WRITE_GROUP, ACT_GROUP, GROUP_COLUMNS = range(4)  # of a bank group: earliest time
# of a bank: row or -1, earliest commands, the request whose ACT is out; the two queues as chains of slots (counted from
# the channel's block, 0 is none) with the oldest row hit; column commands since ACT, what the ACT waited for, whether
# the bank was refreshed since it last moved data
(OPEN_ROW, ACT_OK, READ_OK, WRITE_OK, PRE_OK, ACTIVE_SLOT, FIRST, LAST, HIT, FIRST_WRITE, LAST_WRITE, HIT_WRITE,
 COLUMNS, ACT_CAUSE, WAS_REFRESHED, BANK_COLUMNS) = range(16)  # fmt: skip
QUEUE_COLUMNS = FIRST_WRITE - FIRST
CODE, PLACE, ACCEPTED, AVAILABLE, NEXT, SLOT_COLUMNS = range(6)  # of a slot: code, order of acceptance, times, chain
REMAINING, RETURNED, BURSTS, ACTIVATED, SLICE_COLUMNS = range(5)  # of a slice: bursts out, last data, bursts, ACTs
# a request's code: slice | behind a stalled head of line | row | bank in the channel | write
_BANK_BITS, _ROW_BITS = 6, 18
ROW_PLACE = 1 + _BANK_BITS
BEHIND_PLACE = ROW_PLACE + _ROW_BITS
SLICE_PLACE = BEHIND_PLACE + 1
BANK_MASK, ROW_MASK = (1 << _BANK_BITS) - 1, (1 << _ROW_BITS) - 1
DECODE_SIZE = 4 * 256


@dataclass(frozen=True)
class MemoryState:
    """A memory in mid-run: `config` and `state` are what the jitted functions take (int64 arrays)."""

    config: NDArray[np.int64]
    state: NDArray[np.int64]

    @property
    def commands(self) -> dict[str, int]:
        """Commands issued so far; `precharges` counts banks closed, however that was done."""
        return {name: int(self.state[COUNTS + i]) for i, name in enumerate(COUNTED)}

    @property
    def idle(self) -> dict[str, float]:
        """Memory cycles in which a data bus stood idle before a burst, by cause, summed over pseudo-channels."""
        return {name: float(self.state[IDLE + i] / self.config[EDGES]) for i, name in enumerate(CAUSES)}

    def tick_of(self, core_cycle: int) -> int:
        """The memory's tick in which that core cycle begins."""
        return core_cycle * int(self.config[CORE_PS]) // int(self.config[MEMORY_PS])

    def active_cycles(self, end: int) -> float:
        """Memory cycles up to tick `end` with a row open or a refresh under way, summed over pseudo-channels."""
        c, ticks = self.config, int(self.state[ACTIVE_TICKS])
        banks = (1 << (1 << int(c[BANK_SHIFT]))) - 1
        if not c[IDEAL]:
            opened = channels_of(c, self.state)[:, OPEN_BANKS]
            for p, part in enumerate(np.moveaxis(pseudo_channels(c, self.state), 1, 0)):
                has_open = opened >> (p << int(c[BANK_SHIFT])) & banks != 0
                since = np.maximum(part[:, OPEN_SINCE], part[:, COUNTED_TO])
                ticks += int(np.where(has_open, end - since, np.minimum(0, end - part[:, COUNTED_TO])).sum())
        return ticks / int(c[EDGES])

    def _of_slices(self, column: int) -> NDArray[np.int64]:
        at, end = self.config[SLICE_AT], self.config[HEAP_AT]
        return self.state[at:end].reshape(-1, SLICE_COLUMNS)[:, column]

    @property
    def bursts(self) -> NDArray[np.int64]:
        """Bursts of each slice that has been handed over."""
        return self._of_slices(BURSTS)

    @property
    def activates(self) -> NDArray[np.int64]:
        """Activates on behalf of each slice."""
        return self._of_slices(ACTIVATED)


def bits(count: int) -> int:
    """Bits of a power of two; of another number of channels none: they are taken out by division."""
    return count.bit_length() - 1 if count & (count - 1) == 0 else 0


def _field_places(spec: DramSpec) -> dict[str, int]:
    """Where the lowest bit of each field lies in a decoded code; columns are not needed to find hits."""
    bank = 1 + bits(spec.banks_per_group)
    pseudo = bank + bits(spec.bank_groups)
    return {"channel": SLICE_PLACE, "pseudo_channel": pseudo, "bank_group": bank, "bank": 1, "row": ROW_PLACE}


@lru_cache(maxsize=64)
def _decode_table(spec: DramSpec) -> NDArray[np.int64]:
    """Four tables of 256: the codes of the four bytes of a burst number, which combine by exclusive or.

    A code holds bank (of the channel) and row where a queued request has them, and the channel above.
    """
    places, taken = _field_places(spec), dict.fromkeys(("channel", "pseudo_channel", "bank_group", "bank", "row"), 0)
    source: dict[tuple[str, int], int] = {}  # bit of the burst number of each (field, bit)
    number, columns = 0, 0
    for name, width in spec.fields:
        for _ in range(width):
            index = columns if name == "column" else taken[name]
            source[name, index] = number
            number += 1
            if name == "column":
                columns += 1
            else:
                taken[name] += 1
    table = np.zeros((4, 256), np.int64)

    def add(bit: int, place: int) -> None:
        table[bit // 8] ^= (np.arange(256) >> bit % 8 & 1) << place

    for (name, index), bit in source.items():
        if name in places:
            add(bit, places[name] + index)
    for name, index, other, other_index in spec.xor:
        add(source[other, other_index], places[name] + index)
    return table.reshape(-1)


def _divide_shift(spec: DramSpec) -> int:
    """Bits below the channel field where the channels are taken out by division."""
    below = 0
    for name, width in spec.fields:
        if name == "channel":
            break
        below += width
    return below


def _latencies(s: DramSpec) -> dict[int, int]:
    """Ticks between the first ticks of two commands; JEDEC counts from the last (one less per further bus tick)."""
    e, act, row, column = s.edges, s.activate_ticks, s.row_ticks, s.column_ticks
    write_end = s.write_latency + s.burst
    act_to_row, row_to_act = act - row, row - act
    return {
        READ_BACK: (s.read_latency + s.burst) * e, WRITE_BACK: write_end * e, BURST: s.burst * e,
        CCD_S: max(s.ccd_short, s.burst) * e, CCD_S_WR: max(s.ccd_short_write or s.ccd_short, s.burst) * e,
        CCD_L: s.ccd_long * e, CCD_L_WR: (s.ccd_long_write or s.ccd_long) * e, RTW: s.read_to_write * e,
        WTR_S: (write_end + s.write_to_read_short) * e, WTR_L: (write_end + s.write_to_read_long) * e,
        RCD_RD: s.rcd_read * e + act - column, RCD_WR: s.rcd_write * e + act - column,
        RAS: s.ras * e + act_to_row, ROW_CYCLE: s.row_cycle * e, RP: s.precharge * e + row_to_act,
        RP_REF: s.precharge * e, RRD_S: s.rrd_short * e, RRD_L: s.rrd_long * e, FAW: s.faw * e,
        RTP: s.read_to_precharge * e + column - row, WTP: (write_end + s.write_recovery) * e + column - row,
        PPD: s.precharge_to_precharge * e, RC_REF: s.row_cycle * e + act_to_row, RFC: s.refresh * e + row_to_act,
        RFC_AGAIN: s.refresh * e, RFC_BANK: s.refresh_bank * e + row_to_act,
        BANK_GAP: s.refresh_bank_gap * e + row_to_act, BANK_GAP_AGAIN: s.refresh_bank_gap * e,
        RRD_REF: s.rrd_short * e + act_to_row,
    }  # fmt: skip


def _refresh_interval(s: DramSpec) -> int:
    """Ticks between refreshes of a pseudo-channel; of one bank after another when they go bank by bank."""
    if s.refresh_mode == REFRESHES[1]:
        return s.refresh_interval * s.edges // (s.bank_groups * s.banks_per_group)
    return s.refresh_interval * s.edges if s.refresh_mode == REFRESHES[0] else FOREVER


def _controller(s: DramSpec) -> dict[int, int]:
    room = s.write_queue * s.pseudo_channels
    return {
        CHANNELS: s.channels, DIVIDE: int(bits(s.channels) == 0 and s.channels > 1), DIVIDE_SHIFT: _divide_shift(s),
        PSEUDO: s.pseudo_channels, BANK_SHIFT: bits(s.bank_groups * s.banks_per_group),
        GROUP_SHIFT: bits(s.banks_per_group), BURST_SHIFT: bits(s.burst_bytes), EDGES: s.edges, EDGE: s.edges - 1,
        ONE_BUS: int(s.one_bus), ACT_TICKS: s.activate_ticks, ROW_TICKS: s.row_ticks, COLUMN_TICKS: s.column_ticks,
        LANES: s.request_lanes, FIFO_DEPTH: s.fifo_depth, MEMORY_PS: s.memory_ps, CORE_PS: s.core_ps * s.edges,
        REFI: _refresh_interval(s), READ_ROOM: s.read_queue * s.pseudo_channels, WRITE_ROOM: room,
        WRITES_HIGH: int(s.write_high * room), WRITES_LOW: -int(-s.write_low * room // 1),
        OUTSTANDING: s.outstanding_reads, CAP: s.row_hit_cap or FOREVER, CLOSED: int(s.page == "closed"),
        FCFS: int(s.scheduler == SCHEDULERS[2]), UNPROTECTED: int(s.scheduler == SCHEDULERS[1]),
        PER_BANK: int(s.refresh_mode == REFRESHES[1]),
    }  # fmt: skip


def _lay_out(c: NDArray[np.int64], slices: int, fifo_room: int, histogram: bool) -> int:
    """Fill the offsets of the blocks; returns the size of the state."""
    banks = c[PSEUDO] << c[BANK_SHIFT]
    slots = c[READ_ROOM] + c[WRITE_ROOM] + banks  # requests whose ACT is out have left their queue
    c[PSEUDO_AT], c[PSEUDO_SIZE] = CHANNEL_COLUMNS, RING + c[OUTSTANDING]
    c[GROUP_AT] = c[PSEUDO_AT] + c[PSEUDO] * c[PSEUDO_SIZE]
    c[BANK_AT] = c[GROUP_AT] + (banks >> c[GROUP_SHIFT]) * GROUP_COLUMNS
    c[SLOT_AT] = c[BANK_AT] + banks * BANK_COLUMNS
    c[CHANNEL_SIZE] = c[SLOT_AT] + slots * SLOT_COLUMNS
    c[NEXT_AT] = TOTAL
    c[CHANNEL_AT] = TOTAL + c[CHANNELS]
    c[SLICE_AT] = c[CHANNEL_AT] + c[CHANNELS] * c[CHANNEL_SIZE]
    c[HEAP_AT] = c[SLICE_AT] + slices * SLICE_COLUMNS
    c[DECODE_AT] = c[HEAP_AT] + 2 * (slices + 1)
    c[LATENCY_AT] = c[DECODE_AT] + DECODE_SIZE
    c[FIFO_AT] = c[LATENCY_AT] + (LATENCY_BINS if histogram else 0)
    c[FIFO_ROOM] = fifo_room
    return int(c[FIFO_AT] + 2 * fifo_room * c[CHANNELS] * c[PSEUDO])


def _ideal(spec: IdealSpec, slices: int) -> MemoryState:
    c = np.zeros(CONFIG_SIZE, np.int64)
    c[IDEAL], c[TRANSFER_BYTES], c[TRANSFER_CYCLES] = 1, spec.transfer_bytes, spec.transfer_cycles
    c[IDEAL_LATENCY], c[BURST_SHIFT], c[EDGES] = spec.latency_cycles, bits(spec.burst_bytes), 1
    return MemoryState(c, np.zeros(_lay_out(c, slices, 0, False), np.int64))


def _start_channel(c: NDArray[np.int64], channel: NDArray[np.int64]) -> None:
    """One channel at time 0: all rows closed, all slots free."""
    channel[ADMIT_TIME] = FOREVER
    channel[MODE_TICK] = 1  # no reads: writes may go
    channel[[COLUMN_FROM, ROW_FROM]] = 1
    channel[REFRESH_DUE] = c[REFI]
    channel[REFRESHED_AT] = -FOREVER
    pseudo = channel[c[PSEUDO_AT] : c[GROUP_AT]].reshape(-1, c[PSEUDO_SIZE])
    pseudo[:, ADMIT_AT] = FOREVER
    pseudo[:, [COLUMN_STALE, ROW_STALE]] = 1
    pseudo[:, ACT_TIMES:RING] = -FOREVER
    bank = channel[c[BANK_AT] : c[SLOT_AT]].reshape(-1, BANK_COLUMNS)
    bank[:, OPEN_ROW] = -1
    slots = np.arange(c[SLOT_AT], c[CHANNEL_SIZE], SLOT_COLUMNS)
    channel[slots[:-1] + NEXT] = slots[1:]
    channel[FREE_SLOT] = slots[0]


def _fifo_bases(c: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the FIFO of each pseudo-channel begins."""
    bases: NDArray[np.int64] = c[FIFO_AT] + 2 * c[FIFO_ROOM] * np.arange(c[CHANNELS] * c[PSEUDO])
    return bases.reshape(c[CHANNELS], -1)


def channels_of(c: NDArray[np.int64], m: NDArray[np.int64]) -> NDArray[np.int64]:
    """A view of the channels of a state, one a row."""
    return m[c[CHANNEL_AT] : c[SLICE_AT]].reshape(c[CHANNELS], -1)


def pseudo_channels(c: NDArray[np.int64], m: NDArray[np.int64]) -> NDArray[np.int64]:
    """A view of the pseudo-channels of a state, (channel, pseudo-channel, column)."""
    return channels_of(c, m)[:, c[PSEUDO_AT] : c[GROUP_AT]].reshape(c[CHANNELS], c[PSEUDO], -1)


def start_memory(
    spec: DramSpec | IdealSpec, slices: int, writes: bool = True, fifo_room: int = 0, histogram: bool = False
) -> MemoryState:
    """A memory at time 0 with all rows closed, ready for that many slices.

    writes      whether any slice is a write; without, returns are known further ahead
    fifo_room   places of each FIFO in memory where the FIFOs are unbounded (see `grow_fifos`)
    """
    if isinstance(spec, IdealSpec):
        return _ideal(spec, slices)
    c = np.zeros(CONFIG_SIZE, np.int64)
    for column, value in (_latencies(spec) | _controller(spec)).items():
        c[column] = value
    c[LOOKAHEAD] = min(c[READ_BACK], c[WRITE_BACK]) if writes else c[READ_BACK]
    m = np.zeros(_lay_out(c, slices, spec.fifo_depth or fifo_room, histogram), np.int64)
    m[c[DECODE_AT] : c[LATENCY_AT]] = _decode_table(replace(spec, core_ps=0))
    for number, channel in enumerate(channels_of(c, m)):
        channel[NUMBER] = number
        _start_channel(c, channel)
    m[STALLED] = -FOREVER
    pseudo_channels(c, m)[:, :, FIFO_BASE] = _fifo_bases(c)
    return MemoryState(c, m)


def grow_fifos(memory: MemoryState, room: int) -> MemoryState:
    """The same memory with that many places in each FIFO; entries keep their order."""
    old, c = memory.config, memory.config.copy()
    c[FIFO_ROOM] = room
    fifos = memory.state[old[FIFO_AT] :].reshape(-1, max(1, int(old[FIFO_ROOM])), 2)
    wide = np.zeros((len(fifos), room, 2), np.int64)
    state = np.concatenate([memory.state[: c[FIFO_AT]], wide.reshape(-1)])
    parts, wide = pseudo_channels(c, state), state[c[FIFO_AT] :].reshape(wide.shape)
    for p, (head, count) in enumerate(parts[:, :, [FIFO_HEAD, FIFO_COUNT]].reshape(-1, 2)):
        wide[p, :count] = np.roll(fifos[p], -head, axis=0)[:count]
    parts[:, :, FIFO_HEAD] = 0
    parts[:, :, FIFO_BASE] = _fifo_bases(c)
    return MemoryState(c, state)
