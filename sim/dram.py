"""The DRAM controller: one jitted state machine for both engines.

A slice (many bursts) enters through `submit`, which returns when its last request has been issued; its data
come back in time order through `next_return`. Both advance the channels only as far as no later request can
interfere, so the result does not depend on how often they are called.

Front end: one slice at a time, `request_lanes` bursts a cycle in order into one FIFO per pseudo-channel, at most
one request per channel a cycle; a full FIFO holds up everything behind it (head of line).
Controller: each pseudo-channel picks from the `queue_depth` oldest requests: first the oldest row hit that can
go soonest, then row commands for the oldest request of each bank; a row is not closed while an older request
hits it (FR-FCFS, open page). ACT holds the row-command bus that the pseudo-channels of a channel share.
The row command that could go soonest is chosen before the bus is looked at.
Constraints: tRCD, tRP, tRAS, tCCD_S/L, tRRD_S/L, tFAW, tRTP, tWR, tWTR_S/L, read-to-write, all-bank refresh.
Left out: separate write queue and watermarks, the shared column-command bus, per-bank refresh, power-down.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

FOREVER = 1 << 60
COMMANDS = ("activates", "precharges", "reads", "writes", "refreshes")
_ADMIT, _COLUMN, _ACTIVATE, _PRECHARGE, _REFRESH = range(5)  # what a pseudo-channel can do next

# The configuration is one integer array, the state another: passing dozens of arrays between jitted functions
# costs more than the work. The names below are their columns; Numba sees them as constants.
(IDEAL, BYTES_PER_CYCLE, IDEAL_LATENCY, CHANNELS, PSEUDO, BANKS, BANKS_PER_GROUP, BURST_SHIFT, FIFO_DEPTH,
 QUEUE_DEPTH, LANES, MEMORY_PS, CORE_PS, BURST, CL, CWL, RCD_READ, RCD_WRITE, RP, RAS, CCD_S, CCD_L, RRD_S, RRD_L,
 FAW, RTP, WR, WTR_S, WTR_L, RTW, RFC, REFI, ACT_BUS, LOOKAHEAD, FIELDS,
 PSEUDO_AT, PSEUDO_SIZE, BANK_AT, GROUP_AT, QUEUE_AT, FIFO_AT, CHANNEL_AT, SLICE_AT, HEAP_AT, FIELD_AT,
 CONFIG_SIZE) = range(46)  # fmt: skip
# of the whole memory (at 0): heap size, slices out, all commands before this are done, front end free, counters
HEAP_SIZE, OUT, ADVANCED, FRONT, COUNTS = range(5)
_TOTAL = COUNTS + len(COMMANDS)
# of a pseudo-channel (at PSEUDO_AT, PSEUDO_SIZE apart)
(NOW, NEXT_TIME, NEXT_KIND, NEXT_PLACE, QUEUED, QUEUE_HEAD, FIFO_COUNT, FIFO_HEAD, READ_ANY, WRITE_ANY, ACT_ANY,
 ACT_TURN, REFRESH_DUE, MISSES, ROW_TIME, ROW_KIND, ROW_BANK, ROW_ROW, ROW_STALE, ACT_TIMES) = range(20)  # fmt: skip
_PSEUDO_COLUMNS = ACT_TIMES + 4  # the last four activates, as a ring
# of a bank: row or -1, earliest time of each command, queued requests for another row
OPEN_ROW, ACT_OK, READ_OK, WRITE_OK, PRE_OK, BANK_MISSES, _BANK_COLUMNS = range(7)
READ_GROUP, WRITE_GROUP, ACT_GROUP, _GROUP_COLUMNS = range(4)  # of a bank group: earliest time
ROW_BUS, ARRIVAL, _CHANNEL_COLUMNS = range(3)  # of a channel: row bus free from, next request enters from
REMAINING, RETURNED, BURSTS, _SLICE_COLUMNS = range(4)  # of a slice: bursts still out, last data so far, bursts
_BANK_BITS, _ROW_BITS = 6, 18  # a request is packed as slice | row | bank | write
_ROW_PLACE, _SLICE_PLACE = 1 + _BANK_BITS, 1 + _BANK_BITS + _ROW_BITS
_BANK_MASK, _ROW_MASK = (1 << _BANK_BITS) - 1, (1 << _ROW_BITS) - 1
_QUEUE_RING = 64  # places of the queue's ring buffer: queue_depth is at most this


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
    """A memory without banks: `bytes_per_cycle` after `latency_cycles`; both in core cycles."""

    bytes_per_cycle: int
    latency_cycles: int
    burst_bytes: int


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
        return self.state[at:end].reshape(-1, _SLICE_COLUMNS)[:, BURSTS]

    def finish(self, core_cycles: int) -> "MemoryState":
        """Let the refreshes that are due before the end of the run happen, so that they are counted."""
        if not self.config[IDEAL]:
            advance(self.config, self.state, core_cycles * self.config[CORE_PS] // self.config[MEMORY_PS])
        return self


def _fields(spec: DramSpec) -> list[int]:
    """(shift, mask, target, place) of each field of the address decoder; columns are not needed to find hits."""
    target = {"channel": 0, "pseudo_channel": 0, "bank_group": 1, "bank": 1, "row": 2}
    place = {"channel": spec.pseudo_channels.bit_length() - 1, "pseudo_channel": 0, "row": 0}
    place |= {"bank_group": spec.banks_per_group.bit_length() - 1, "bank": 0}
    table, shift = [], 0
    for name, bits in spec.fields:
        if name in target and bits:
            table += [shift, (1 << bits) - 1, target[name], place[name]]
            place[name] += bits
        shift += bits
    return table


def _numbers(spec: DramSpec | IdealSpec) -> list[int]:
    """The configuration up to FIELDS."""
    if isinstance(spec, IdealSpec):
        shift = spec.burst_bytes.bit_length() - 1
        return [1, spec.bytes_per_cycle, spec.latency_cycles, 1, 1, 1, 1, shift] + [0] * (FIELDS - BURST_SHIFT - 1)
    s = spec
    return [
        0, 1, 0, s.channels, s.pseudo_channels, s.bank_groups * s.banks_per_group, s.banks_per_group,
        s.burst_bytes.bit_length() - 1, s.fifo_depth, s.queue_depth, s.request_lanes, s.memory_ps, s.core_ps,
        s.burst, s.read_latency, s.write_latency, s.rcd_read, s.rcd_write, s.precharge, s.ras, s.ccd_short,
        s.ccd_long, s.rrd_short, s.rrd_long, s.faw, s.read_to_precharge, s.write_recovery,
        s.write_to_read_short, s.write_to_read_long, s.read_to_write, s.refresh, s.refresh_interval,
        s.activate_bus, min(s.read_latency, s.write_latency) + s.burst,
    ]  # fmt: skip


def _lay_out(c: NDArray[np.int64], slices: int, fields: int) -> int:
    """Fill the offsets of the state; returns its size."""
    c[BANK_AT] = _PSEUDO_COLUMNS
    c[GROUP_AT] = c[BANK_AT] + c[BANKS] * _BANK_COLUMNS
    c[QUEUE_AT] = c[GROUP_AT] + c[BANKS] // c[BANKS_PER_GROUP] * _GROUP_COLUMNS
    c[FIFO_AT] = c[QUEUE_AT] + _QUEUE_RING
    c[PSEUDO_SIZE] = c[FIFO_AT] + 2 * c[FIFO_DEPTH]
    c[PSEUDO_AT] = _TOTAL
    c[CHANNEL_AT] = c[PSEUDO_AT] + c[PSEUDO_SIZE] * c[CHANNELS] * c[PSEUDO]
    c[FIELD_AT] = c[CHANNEL_AT] + c[CHANNELS] * _CHANNEL_COLUMNS
    c[SLICE_AT] = c[FIELD_AT] + fields
    c[HEAP_AT] = c[SLICE_AT] + slices * _SLICE_COLUMNS
    return int(c[HEAP_AT]) + 2 * (slices + 1)


def start_memory(spec: DramSpec | IdealSpec, slices: int) -> MemoryState:
    """A memory at time 0 with all rows closed, ready for that many slices."""
    fields = _fields(spec) if isinstance(spec, DramSpec) else []
    c = np.zeros(CONFIG_SIZE, np.int64)
    c[:FIELDS] = _numbers(spec)
    c[FIELDS] = len(fields) // 4
    m = np.zeros(_lay_out(c, slices, len(fields)), np.int64)
    m[c[FIELD_AT] : c[FIELD_AT] + len(fields)] = fields
    pseudo = m[c[PSEUDO_AT] : c[CHANNEL_AT]].reshape(-1, c[PSEUDO_SIZE])
    pseudo[:, c[BANK_AT] + OPEN_ROW : c[GROUP_AT] : _BANK_COLUMNS] = -1
    pseudo[:, ACT_TIMES : ACT_TIMES + 4] = -FOREVER
    pseudo[:, [REFRESH_DUE, NEXT_TIME]] = c[REFI] if c[REFI] else FOREVER
    pseudo[:, NEXT_KIND], pseudo[:, ROW_TIME] = _REFRESH, FOREVER
    return MemoryState(c, m)


@njit(cache=True)
def _admit(c, m, pc):  # type: ignore[no-untyped-def]
    """Move what has arrived from the FIFO into the free places of the queue."""
    n, head, count = m[pc + QUEUED], m[pc + FIFO_HEAD], m[pc + FIFO_COUNT]
    depth, fifo, queue = c[QUEUE_DEPTH], pc + c[FIFO_AT], pc + c[QUEUE_AT]
    while count > 0 and n < depth and m[fifo + 2 * head + 1] <= m[pc + NOW]:
        code = m[fifo + 2 * head]
        m[queue + ((m[pc + QUEUE_HEAD] + n) & (_QUEUE_RING - 1))] = code
        bank = pc + c[BANK_AT] + ((code >> 1) & _BANK_MASK) * _BANK_COLUMNS
        if m[bank + OPEN_ROW] != (code >> _ROW_PLACE) & _ROW_MASK:
            m[pc + MISSES] += 1
            m[bank + BANK_MISSES] += 1
            m[pc + ROW_STALE] = 1
        n += 1
        count -= 1
        head += 1
        if head == c[FIFO_DEPTH]:
            head = 0
    m[pc + QUEUED], m[pc + FIFO_HEAD], m[pc + FIFO_COUNT] = n, head, count


@njit(cache=True)
def _find_column(c, m, pc):  # type: ignore[no-untyped-def]
    """(time, place) of the row hit that can go soonest, the oldest of them."""
    now, n, head = m[pc + NOW], m[pc + QUEUED], m[pc + QUEUE_HEAD]
    bound = max(now, min(m[pc + READ_ANY], m[pc + WRITE_ANY]))  # nothing can go before
    best, place = FOREVER, 0
    for i in range(n):
        code = m[pc + c[QUEUE_AT] + ((head + i) & (_QUEUE_RING - 1))]
        number = (code >> 1) & _BANK_MASK
        bank = pc + c[BANK_AT] + number * _BANK_COLUMNS
        if m[bank + OPEN_ROW] == (code >> _ROW_PLACE) & _ROW_MASK:
            group = pc + c[GROUP_AT] + number // c[BANKS_PER_GROUP] * _GROUP_COLUMNS
            if code & 1:
                t = max(m[bank + WRITE_OK], max(m[pc + WRITE_ANY], m[group + WRITE_GROUP]))
            else:
                t = max(m[bank + READ_OK], max(m[pc + READ_ANY], m[group + READ_GROUP]))
            if t < best:
                best, place = t, i
                if t <= bound:
                    break
    return max(best, now), place


@njit(cache=True)
def _find_row(c, m, pc):  # type: ignore[no-untyped-def]
    """Note the row command that can go soonest: for the oldest request of each bank, never past an older hit."""
    n, head = m[pc + QUEUED], m[pc + QUEUE_HEAD]
    window = max(m[pc + ACT_ANY], m[pc + ACT_TIMES + m[pc + ACT_TURN]] + c[FAW])
    best, claimed, left = max(FOREVER, window), 0, m[pc + MISSES]
    m[pc + ROW_STALE], m[pc + ROW_TIME] = 0, FOREVER
    for i in range(n):
        if left == 0:
            break
        code = m[pc + c[QUEUE_AT] + ((head + i) & (_QUEUE_RING - 1))]
        number, row = (code >> 1) & _BANK_MASK, (code >> _ROW_PLACE) & _ROW_MASK
        bank = pc + c[BANK_AT] + number * _BANK_COLUMNS
        hit = m[bank + OPEN_ROW] == row
        if not hit:
            left -= 1
        if (claimed >> number) & 1:
            continue
        claimed |= 1 << number
        if hit:
            continue
        if m[bank + OPEN_ROW] < 0:
            group = pc + c[GROUP_AT] + number // c[BANKS_PER_GROUP] * _GROUP_COLUMNS
            t, kind = max(window, max(m[bank + ACT_OK], m[group + ACT_GROUP])), _ACTIVATE
        else:
            t, kind = m[bank + PRE_OK], _PRECHARGE
        t = max(t, m[pc + NOW])
        if t < best:
            best = t
            m[pc + ROW_TIME], m[pc + ROW_KIND], m[pc + ROW_BANK], m[pc + ROW_ROW] = t, kind, number, row


@njit(cache=True)
def _decide(c, m, p):  # type: ignore[no-untyped-def]
    """Find what pseudo-channel p does next and when. Arrivals of a cycle come before its commands."""
    pc = c[PSEUDO_AT] + p * c[PSEUDO_SIZE]
    _admit(c, m, pc)
    now = m[pc + NOW]
    time, kind, place = max(m[pc + REFRESH_DUE], now), _REFRESH, 0
    if m[pc + QUEUED] > m[pc + MISSES]:
        t, found = _find_column(c, m, pc)
        if t < time:
            time, kind, place = t, _COLUMN, found
    if m[pc + MISSES] > 0:
        if m[pc + ROW_STALE]:
            _find_row(c, m, pc)
        bus = m[c[CHANNEL_AT] + p // c[PSEUDO] * _CHANNEL_COLUMNS + ROW_BUS]
        t = max(max(m[pc + ROW_TIME], bus), now)
        if t < time:
            time, kind = t, m[pc + ROW_KIND]
    if m[pc + FIFO_COUNT] > 0 and m[pc + QUEUED] < c[QUEUE_DEPTH]:
        arrives = m[pc + c[FIFO_AT] + 2 * m[pc + FIFO_HEAD] + 1]
        if arrives <= time:
            time, kind = arrives, _ADMIT
    m[pc + NEXT_TIME], m[pc + NEXT_KIND], m[pc + NEXT_PLACE] = time, kind, place


@njit(cache=True)
def _recount(c, m, pc, number):  # type: ignore[no-untyped-def]
    """Count the queued requests that miss in that bank, after its row has changed."""
    bank = pc + c[BANK_AT] + number * _BANK_COLUMNS
    misses, head = 0, m[pc + QUEUE_HEAD]
    for i in range(m[pc + QUEUED]):
        code = m[pc + c[QUEUE_AT] + ((head + i) & (_QUEUE_RING - 1))]
        if (code >> 1) & _BANK_MASK == number and m[bank + OPEN_ROW] != (code >> _ROW_PLACE) & _ROW_MASK:
            misses += 1
    m[pc + MISSES] += misses - m[bank + BANK_MISSES]
    m[bank + BANK_MISSES] = misses
    m[pc + ROW_STALE] = 1


@njit(cache=True)
def _activate(c, m, pc, number, row, t):  # type: ignore[no-untyped-def]
    bank = pc + c[BANK_AT] + number * _BANK_COLUMNS
    m[bank + OPEN_ROW] = row
    m[bank + READ_OK], m[bank + WRITE_OK] = t + c[RCD_READ], t + c[RCD_WRITE]
    m[bank + PRE_OK], m[bank + ACT_OK] = t + c[RAS], t + c[RAS] + c[RP]
    m[pc + ACT_ANY] = t + c[RRD_S]
    m[pc + c[GROUP_AT] + number // c[BANKS_PER_GROUP] * _GROUP_COLUMNS + ACT_GROUP] = t + c[RRD_L]
    turn = m[pc + ACT_TURN]
    m[pc + ACT_TIMES + turn] = t
    m[pc + ACT_TURN] = (turn + 1) & 3
    m[COUNTS] += 1


@njit(cache=True)
def _precharge(c, m, pc, number, t):  # type: ignore[no-untyped-def]
    bank = pc + c[BANK_AT] + number * _BANK_COLUMNS
    m[bank + OPEN_ROW] = -1
    m[bank + ACT_OK] = max(m[bank + ACT_OK], t + c[RP])
    m[COUNTS + 1] += 1


@njit(cache=True)
def _refresh(c, m, pc, t):  # type: ignore[no-untyped-def]
    """Close every row as soon as that is legal, then refresh all banks of the pseudo-channel."""
    opened, close, ready = 0, t, t
    for number in range(c[BANKS]):
        bank = pc + c[BANK_AT] + number * _BANK_COLUMNS
        if m[bank + OPEN_ROW] >= 0:
            opened += 1
            close = max(close, m[bank + PRE_OK])
        else:
            ready = max(ready, m[bank + ACT_OK])
    if opened:
        ready = max(ready, close + c[RP])
        m[COUNTS + 1] += 1
    for number in range(c[BANKS]):
        bank = pc + c[BANK_AT] + number * _BANK_COLUMNS
        m[bank + OPEN_ROW] = -1
        m[bank + ACT_OK] = ready + c[RFC]
        if m[pc + QUEUED]:
            _recount(c, m, pc, number)
    m[pc + REFRESH_DUE] += c[REFI]
    m[COUNTS + 4] += 1


@njit(cache=True)
def _before(time, number, m, at):  # type: ignore[no-untyped-def]
    return time < m[at] or (time == m[at] and number < m[at + 1])


@njit(cache=True)
def _push(c, m, time, number):  # type: ignore[no-untyped-def]
    """Put a finished slice into the heap, which is ordered by (time, slice)."""
    heap, i = c[HEAP_AT], m[HEAP_SIZE]
    m[HEAP_SIZE] = i + 1
    while i > 0:
        up = (i - 1) >> 1
        if not _before(time, number, m, heap + 2 * up):
            break
        m[heap + 2 * i], m[heap + 2 * i + 1] = m[heap + 2 * up], m[heap + 2 * up + 1]
        i = up
    m[heap + 2 * i], m[heap + 2 * i + 1] = time, number


@njit(cache=True)
def _pop(c, m):  # type: ignore[no-untyped-def]
    """Take the earliest finished slice out of the heap: (time, slice)."""
    heap, n = c[HEAP_AT], m[HEAP_SIZE] - 1
    time, number = m[heap], m[heap + 1]
    last_time, last = m[heap + 2 * n], m[heap + 2 * n + 1]
    m[HEAP_SIZE] = n
    i = 0
    while 2 * i + 1 < n:
        k = 2 * i + 1
        if k + 1 < n and _before(m[heap + 2 * k + 2], m[heap + 2 * k + 3], m, heap + 2 * k):
            k += 1
        if not _before(m[heap + 2 * k], m[heap + 2 * k + 1], m, heap + 2 * n):
            break
        m[heap + 2 * i], m[heap + 2 * i + 1] = m[heap + 2 * k], m[heap + 2 * k + 1]
        i = k
    m[heap + 2 * i], m[heap + 2 * i + 1] = last_time, last
    return time, number


@njit(cache=True)
def _remove(c, m, pc, place):  # type: ignore[no-untyped-def]
    """Take the request at that place out of the queue; the older ones move up."""
    queue, head = pc + c[QUEUE_AT], m[pc + QUEUE_HEAD]
    code = m[queue + ((head + place) & (_QUEUE_RING - 1))]
    for i in range(place, 0, -1):
        m[queue + ((head + i) & (_QUEUE_RING - 1))] = m[queue + ((head + i - 1) & (_QUEUE_RING - 1))]
    m[pc + QUEUE_HEAD] = (head + 1) & (_QUEUE_RING - 1)
    m[pc + QUEUED] -= 1
    return code


@njit(cache=True)
def _column(c, m, pc, place, t):  # type: ignore[no-untyped-def]
    """Issue the read or write at that place of the queue and account for its return."""
    code = _remove(c, m, pc, place)
    number = (code >> 1) & _BANK_MASK
    bank = pc + c[BANK_AT] + number * _BANK_COLUMNS
    group = pc + c[GROUP_AT] + number // c[BANKS_PER_GROUP] * _GROUP_COLUMNS
    if code & 1:
        back = t + c[CWL] + c[BURST]
        m[bank + PRE_OK] = max(m[bank + PRE_OK], back + c[WR])
        m[pc + WRITE_ANY], m[group + WRITE_GROUP] = t + c[CCD_S], t + c[CCD_L]
        m[pc + READ_ANY] = max(m[pc + READ_ANY], back + c[WTR_S])
        m[group + READ_GROUP] = max(m[group + READ_GROUP], back + c[WTR_L])
        m[COUNTS + 3] += 1
    else:
        back = t + c[CL] + c[BURST]
        m[bank + PRE_OK] = max(m[bank + PRE_OK], t + c[RTP])
        m[pc + READ_ANY] = max(m[pc + READ_ANY], t + c[CCD_S])
        m[group + READ_GROUP] = max(m[group + READ_GROUP], t + c[CCD_L])
        m[pc + WRITE_ANY] = max(m[pc + WRITE_ANY], t + c[RTW])
        m[COUNTS + 2] += 1
    if m[bank + BANK_MISSES]:
        m[pc + ROW_STALE] = 1  # its row may now be closed, or not yet
    number = code >> _SLICE_PLACE
    done = c[SLICE_AT] + number * _SLICE_COLUMNS
    m[done + RETURNED] = max(m[done + RETURNED], back)
    m[done + REMAINING] -= 1
    if m[done + REMAINING] == 0:
        _push(c, m, m[done + RETURNED], number)


@njit(cache=True)
def _row_command(c, m, p, pc, kind, t):  # type: ignore[no-untyped-def]
    """Issue the ACT or PRE that `_find_row` noted; the pseudo-channels of the channel share its bus."""
    number = m[pc + ROW_BANK]
    if kind == _ACTIVATE:
        _activate(c, m, pc, number, m[pc + ROW_ROW], t)
    else:
        _precharge(c, m, pc, number, t)
    _recount(c, m, pc, number)
    bus = c[CHANNEL_AT] + p // c[PSEUDO] * _CHANNEL_COLUMNS + ROW_BUS
    m[bus] = t + (c[ACT_BUS] if kind == _ACTIVATE else 1)
    first = p - p % c[PSEUDO]
    for other in range(first, first + c[PSEUDO]):
        kind = m[c[PSEUDO_AT] + other * c[PSEUDO_SIZE] + NEXT_KIND]
        if other != p and (kind == _ACTIVATE or kind == _PRECHARGE):
            _decide(c, m, other)


@njit(cache=True)
def _act(c, m, p):  # type: ignore[no-untyped-def]
    """Do what `_decide` chose for pseudo-channel p, then decide again."""
    pc = c[PSEUDO_AT] + p * c[PSEUDO_SIZE]
    kind, t = m[pc + NEXT_KIND], m[pc + NEXT_TIME]
    m[pc + NOW] = t
    if kind == _COLUMN:
        _column(c, m, pc, m[pc + NEXT_PLACE], t)
    elif kind == _REFRESH:
        _refresh(c, m, pc, t)
    elif kind != _ADMIT:
        _row_command(c, m, p, pc, kind, t)
    _decide(c, m, p)


@njit(cache=True)
def _next_of(c, m, channel):  # type: ignore[no-untyped-def]
    """The pseudo-channel of that channel which acts first, and when."""
    p = channel * c[PSEUDO]
    time = m[c[PSEUDO_AT] + p * c[PSEUDO_SIZE] + NEXT_TIME]
    for other in range(p + 1, (channel + 1) * c[PSEUDO]):
        t = m[c[PSEUDO_AT] + other * c[PSEUDO_SIZE] + NEXT_TIME]
        if t < time:
            p, time = other, t
    return p, time


@njit(cache=True)
def _advance_channel(c, m, channel, until):  # type: ignore[no-untyped-def]
    p, time = _next_of(c, m, channel)
    while time < until:
        _act(c, m, p)
        p, time = _next_of(c, m, channel)


@njit(cache=True)
def advance(c, m, until):  # type: ignore[no-untyped-def]
    """Run all channels through everything that happens before `until` (memory cycles)."""
    for channel in range(c[CHANNELS]):
        _advance_channel(c, m, channel, until)
    m[ADVANCED] = max(m[ADVANCED], until)


@njit(cache=True)
def _make_room(c, m, p, g):  # type: ignore[no-untyped-def]
    """Run p's channel until its full FIFO has a place; returns when, at the earliest g (memory cycles)."""
    pc, channel = c[PSEUDO_AT] + p * c[PSEUDO_SIZE], p // c[PSEUDO]
    _advance_channel(c, m, channel, g)
    while m[pc + FIFO_COUNT] >= c[FIFO_DEPTH]:
        other, time = _next_of(c, m, channel)
        _act(c, m, other)
        g = max(g, time)
    return g


@njit(cache=True)
def _decode(c, m, burst):  # type: ignore[no-untyped-def]
    """(pseudo-channel, bank, row) of a burst number."""
    p, bank, row = 0, 0, 0
    for f in range(c[FIELD_AT], c[FIELD_AT] + 4 * c[FIELDS], 4):
        value = ((burst >> m[f]) & m[f + 1]) << m[f + 3]
        if m[f + 2] == 0:
            p |= value
        elif m[f + 2] == 1:
            bank |= value
        else:
            row |= value
    return p, bank, row


@njit(cache=True)
def _enter(c, m, burst, low, g):  # type: ignore[no-untyped-def]
    """Put one burst into its FIFO at time g or as soon as there is room; returns the time it went in."""
    p, bank, row = _decode(c, m, burst)
    pc = c[PSEUDO_AT] + p * c[PSEUDO_SIZE]
    if m[pc + FIFO_COUNT] >= c[FIFO_DEPTH]:
        g = _make_room(c, m, p, g)
    port = c[CHANNEL_AT] + p // c[PSEUDO] * _CHANNEL_COLUMNS + ARRIVAL
    arrives = max(g, m[port])
    m[port] = arrives + 1
    place = m[pc + FIFO_HEAD] + m[pc + FIFO_COUNT]
    if place >= c[FIFO_DEPTH]:
        place -= c[FIFO_DEPTH]
    m[pc + c[FIFO_AT] + 2 * place] = low | (bank << 1) | (row << _ROW_PLACE)
    m[pc + c[FIFO_AT] + 2 * place + 1] = arrives
    m[pc + FIFO_COUNT] += 1
    if m[pc + FIFO_COUNT] == 1 and m[pc + QUEUED] < c[QUEUE_DEPTH] and arrives <= m[pc + NEXT_TIME]:
        m[pc + NEXT_TIME], m[pc + NEXT_KIND] = arrives, _ADMIT
    return g


@njit(cache=True)
def _count_bursts(c, address, size):  # type: ignore[no-untyped-def]
    """Bursts that a slice touches; two neighbouring segments that share one fetch it once."""
    bursts, last = 0, np.int64(-1)
    for i in range(len(address)):
        first, end = address[i] >> c[BURST_SHIFT], (address[i] + size[i] - 1) >> c[BURST_SHIFT]
        bursts += end - first + 1 - (1 if first == last else 0)
        last = end
    return bursts


@njit(cache=True)
def _issue(c, m, low, address, size, g):  # type: ignore[no-untyped-def]
    """Send the bursts of a slice from memory cycle g on; returns the cycle of the last."""
    lane, last = 0, np.int64(-1)
    for i in range(len(address)):
        burst, end = address[i] >> c[BURST_SHIFT], (address[i] + size[i] - 1) >> c[BURST_SHIFT]
        if burst == last:
            burst += 1
        last = end
        while burst <= end:
            if lane == c[LANES]:
                g, lane = g + 1, 0
            entered = _enter(c, m, burst, low, g)
            if entered > g:
                g, lane = entered, 0
            lane += 1
            burst += 1
    return g


@njit(cache=True)
def submit(c, m, number, write, address, size, start):  # type: ignore[no-untyped-def]
    """Hand over slice `number` at core cycle `start`; returns the core cycle in which its last request has left.

    address, size   int64 arrays: the segments of the slice in bytes
    """
    bursts = _count_bursts(c, address, size)  # counted first: a slice must not look complete while it is issued
    done = c[SLICE_AT] + number * _SLICE_COLUMNS
    m[done + BURSTS], m[done + REMAINING] = bursts, bursts
    m[OUT] += 1
    if c[IDEAL]:
        issued = start + max(1, -(-size.sum() // c[BYTES_PER_CYCLE]))
        _push(c, m, issued + c[IDEAL_LATENCY], number)
        return issued
    g = max(-(-start * c[CORE_PS] // c[MEMORY_PS]), m[FRONT])
    if m[OUT] == 1:
        advance(c, m, g)  # only refreshes can be due
    g = _issue(c, m, (number << _SLICE_PLACE) | write, address, size, g) + 1
    m[FRONT] = g
    return -(-g * c[MEMORY_PS] // c[CORE_PS])


@njit(cache=True)
def next_return(c, m, limit):  # type: ignore[no-untyped-def]
    """The earliest slice that is back by core cycle `limit`, as (core cycle, slice), or (limit, -1).

    Correct as long as no later slice is handed over before the cycle that is returned.
    """
    if m[OUT] == 0:
        return limit, np.int64(-1)
    if c[IDEAL]:
        if m[c[HEAP_AT]] > limit:
            return limit, np.int64(-1)
        m[OUT] -= 1
        return _pop(c, m)
    bound = np.int64(FOREVER) if limit >= FOREVER else limit * c[CORE_PS] // c[MEMORY_PS]
    while True:
        # a command at ADVANCED or later cannot return before ADVANCED + LOOKAHEAD
        known = m[ADVANCED] + c[LOOKAHEAD] - 1
        if m[HEAP_SIZE] > 0 and m[c[HEAP_AT]] <= min(known, bound):
            time, number = _pop(c, m)
            m[OUT] -= 1
            return -(-time * c[MEMORY_PS] // c[CORE_PS]), number
        if known >= bound:
            return limit, np.int64(-1)
        advance(c, m, min(m[ADVANCED] + c[LOOKAHEAD], bound - c[LOOKAHEAD] + 1))
