"""What each pseudo-channel does next, and what that changes."""

from numba import njit

from sim.dram.layout import (
    ACT_ANY,
    ACT_BUS,
    ACT_GROUP,
    ACT_OK,
    ACT_TIMES,
    ACT_TURN,
    ACTIVATE,
    ADVANCED,
    BANK_AT,
    BANK_COLUMNS,
    BANK_MASK,
    BANK_MISSES,
    BANK_QUEUED,
    BANKS,
    BURST,
    CCD_L,
    CCD_S,
    CHANNEL_AT,
    CHANNEL_COLUMNS,
    CHANNELS,
    CL,
    COLUMN,
    COLUMN_AT,
    COLUMN_TIME,
    COUNTS,
    CWL,
    FAW,
    FIFO_AT,
    FIFO_COUNT,
    FIFO_DEPTH,
    FIFO_HEAD,
    FOREVER,
    GROUP_AT,
    GROUP_COLUMNS,
    GROUP_SHIFT,
    MISSES,
    NEXT_AT,
    NEXT_KIND,
    NOW,
    OPEN_ROW,
    PRE_OK,
    PRECHARGE,
    PSEUDO_AT,
    PSEUDO_SHIFT,
    PSEUDO_SIZE,
    QUEUE_AT,
    QUEUE_DEPTH,
    QUEUE_HEAD,
    QUEUE_RING,
    QUEUED,
    RAS,
    RCD_READ,
    RCD_WRITE,
    READ_ANY,
    READ_GROUP,
    READ_OK,
    REFI,
    REFRESH,
    REFRESH_DUE,
    REMAINING,
    RETURNED,
    RFC,
    ROW_BANK,
    ROW_BUS,
    ROW_KIND,
    ROW_MASK,
    ROW_PLACE,
    ROW_ROW,
    ROW_STALE,
    ROW_TIME,
    RP,
    RRD_L,
    RRD_S,
    RTP,
    RTW,
    SLICE_AT,
    SLICE_COLUMNS,
    SLICE_PLACE,
    WR,
    WRITE_ANY,
    WRITE_GROUP,
    WRITE_OK,
    WTR_L,
    WTR_S,
)
from sim.dram.returns import push


@njit(cache=True)
def _admit(c, m, pc, arrived):  # type: ignore[no-untyped-def]
    """Move the head of the FIFO, which came at `arrived`, into the queue; it may be what goes next."""
    head, n = m[pc + FIFO_HEAD], m[pc + QUEUED]
    code, since = m[pc + c[FIFO_AT] + 2 * head], max(arrived, m[pc + NOW])
    m[pc + c[FIFO_AT] + 2 * head + 1] = since  # the place is free from now on
    m[pc + FIFO_HEAD] = head + 1 if head + 1 < c[FIFO_DEPTH] else 0
    m[pc + FIFO_COUNT] -= 1
    m[pc + c[QUEUE_AT] + ((m[pc + QUEUE_HEAD] + n) & (QUEUE_RING - 1))] = code
    m[pc + QUEUED] = n + 1
    number, row = (code >> 1) & BANK_MASK, (code >> ROW_PLACE) & ROW_MASK
    bank = pc + c[BANK_AT] + number * BANK_COLUMNS
    m[bank + BANK_QUEUED] += 1
    if m[bank + OPEN_ROW] == row:
        t = max(since, _column_time(c, m, pc, code))
        if t < m[pc + COLUMN_TIME]:
            m[pc + COLUMN_TIME], m[pc + COLUMN_AT] = t, n
        return
    m[pc + MISSES] += 1
    m[bank + BANK_MISSES] += 1
    if m[bank + BANK_QUEUED] == 1:  # no older request claims the bank
        t, kind = _row_time(c, m, pc, number)
        t = max(since, t)
        if t < m[pc + ROW_TIME]:
            m[pc + ROW_TIME], m[pc + ROW_KIND], m[pc + ROW_BANK], m[pc + ROW_ROW] = t, kind, number, row


@njit(cache=True)
def _column_time(c, m, pc, code):  # type: ignore[no-untyped-def]
    """When the read or write of a row hit may go."""
    number = (code >> 1) & BANK_MASK
    bank = pc + c[BANK_AT] + number * BANK_COLUMNS
    group = pc + c[GROUP_AT] + (number >> c[GROUP_SHIFT]) * GROUP_COLUMNS
    if code & 1:
        return max(m[bank + WRITE_OK], max(m[pc + WRITE_ANY], m[group + WRITE_GROUP]))
    return max(m[bank + READ_OK], max(m[pc + READ_ANY], m[group + READ_GROUP]))


@njit(cache=True)
def _row_time(c, m, pc, number):  # type: ignore[no-untyped-def]
    """When the ACT or PRE that a miss needs in that bank may go, and which it is."""
    bank = pc + c[BANK_AT] + number * BANK_COLUMNS
    if m[bank + OPEN_ROW] >= 0:
        return m[bank + PRE_OK], PRECHARGE
    group = pc + c[GROUP_AT] + (number >> c[GROUP_SHIFT]) * GROUP_COLUMNS
    window = max(m[pc + ACT_ANY], m[pc + ACT_TIMES + m[pc + ACT_TURN]] + c[FAW])
    return max(window, max(m[bank + ACT_OK], m[group + ACT_GROUP])), ACTIVATE


@njit(cache=True)
def _find_column(c, m, pc):  # type: ignore[no-untyped-def]
    """Note the row hit that can go soonest, the oldest of them."""
    now, head = m[pc + NOW], m[pc + QUEUE_HEAD]
    bound = max(now, min(m[pc + READ_ANY], m[pc + WRITE_ANY]))  # nothing can go before
    m[pc + COLUMN_TIME] = FOREVER
    for i in range(m[pc + QUEUED]):
        code = m[pc + c[QUEUE_AT] + ((head + i) & (QUEUE_RING - 1))]
        bank = pc + c[BANK_AT] + ((code >> 1) & BANK_MASK) * BANK_COLUMNS
        if m[bank + OPEN_ROW] == (code >> ROW_PLACE) & ROW_MASK:
            t = max(now, _column_time(c, m, pc, code))
            if t < m[pc + COLUMN_TIME]:
                m[pc + COLUMN_TIME], m[pc + COLUMN_AT] = t, i
                if t <= bound:
                    return


@njit(cache=True)
def _find_row(c, m, pc):  # type: ignore[no-untyped-def]
    """Note the row command that can go soonest: for the oldest request of each bank, never past an older hit."""
    head, claimed, left = m[pc + QUEUE_HEAD], 0, m[pc + MISSES]
    m[pc + ROW_STALE], m[pc + ROW_TIME] = 0, FOREVER
    i = 0
    while left > 0:
        code = m[pc + c[QUEUE_AT] + ((head + i) & (QUEUE_RING - 1))]
        i += 1
        number, row = (code >> 1) & BANK_MASK, (code >> ROW_PLACE) & ROW_MASK
        miss = m[pc + c[BANK_AT] + number * BANK_COLUMNS + OPEN_ROW] != row
        left -= miss
        if miss and not (claimed >> number) & 1:
            t, kind = _row_time(c, m, pc, number)
            t = max(t, m[pc + NOW])
            if t < m[pc + ROW_TIME]:
                m[pc + ROW_TIME], m[pc + ROW_KIND], m[pc + ROW_BANK], m[pc + ROW_ROW] = t, kind, number, row
        claimed |= 1 << number


@njit(cache=True)
def settle(c, m, p):  # type: ignore[no-untyped-def]
    """Note what pseudo-channel p does next and when, with all that arrives until then in its queue."""
    pc = c[PSEUDO_AT] + p * c[PSEUDO_SIZE]
    bus = m[c[CHANNEL_AT] + (p >> c[PSEUDO_SHIFT]) * CHANNEL_COLUMNS + ROW_BUS]
    while True:
        time, kind = max(m[pc + REFRESH_DUE], m[pc + NOW]), REFRESH
        if m[pc + COLUMN_TIME] < time:
            time, kind = m[pc + COLUMN_TIME], COLUMN
        if max(m[pc + ROW_TIME], bus) < time:
            time, kind = max(m[pc + ROW_TIME], bus), m[pc + ROW_KIND]
        if m[pc + FIFO_COUNT] == 0 or m[pc + QUEUED] == c[QUEUE_DEPTH]:
            break
        arrives = m[pc + c[FIFO_AT] + 2 * m[pc + FIFO_HEAD] + 1]
        if arrives > time:
            break
        _admit(c, m, pc, arrives)
    m[c[NEXT_AT] + p], m[pc + NEXT_KIND] = time, kind


@njit(cache=True)
def _decide(c, m, p):  # type: ignore[no-untyped-def]
    """After pseudo-channel p has done something: find what it does next."""
    pc = c[PSEUDO_AT] + p * c[PSEUDO_SIZE]
    if m[pc + QUEUED] > m[pc + MISSES]:
        _find_column(c, m, pc)
    else:
        m[pc + COLUMN_TIME] = FOREVER
    if m[pc + ROW_STALE]:
        _find_row(c, m, pc)
    settle(c, m, p)


@njit(cache=True)
def _recount(c, m, pc, number):  # type: ignore[no-untyped-def]
    """Count the queued requests that miss in that bank, after its row has changed."""
    bank = pc + c[BANK_AT] + number * BANK_COLUMNS
    row, misses, left, i = m[bank + OPEN_ROW], m[bank + BANK_QUEUED], m[bank + BANK_QUEUED], m[pc + QUEUE_HEAD]
    while left > 0 and row >= 0:
        code = m[pc + c[QUEUE_AT] + (i & (QUEUE_RING - 1))]
        i += 1
        if (code >> 1) & BANK_MASK == number:
            left -= 1
            misses -= row == (code >> ROW_PLACE) & ROW_MASK
    m[pc + MISSES] += misses - m[bank + BANK_MISSES]
    m[bank + BANK_MISSES] = misses
    m[pc + ROW_STALE] = 1


@njit(cache=True)
def _activate(c, m, pc, number, row, t):  # type: ignore[no-untyped-def]
    bank = pc + c[BANK_AT] + number * BANK_COLUMNS
    m[bank + OPEN_ROW] = row
    m[bank + READ_OK], m[bank + WRITE_OK] = t + c[RCD_READ], t + c[RCD_WRITE]
    m[bank + PRE_OK], m[bank + ACT_OK] = t + c[RAS], t + c[RAS] + c[RP]
    m[pc + ACT_ANY] = t + c[RRD_S]
    m[pc + c[GROUP_AT] + (number >> c[GROUP_SHIFT]) * GROUP_COLUMNS + ACT_GROUP] = t + c[RRD_L]
    turn = m[pc + ACT_TURN]
    m[pc + ACT_TIMES + turn] = t
    m[pc + ACT_TURN] = (turn + 1) & 3
    m[COUNTS] += 1


@njit(cache=True)
def _precharge(c, m, pc, number, t):  # type: ignore[no-untyped-def]
    bank = pc + c[BANK_AT] + number * BANK_COLUMNS
    m[bank + OPEN_ROW] = -1
    m[bank + ACT_OK] = max(m[bank + ACT_OK], t + c[RP])
    m[COUNTS + 1] += 1


@njit(cache=True)
def _refresh(c, m, pc, t):  # type: ignore[no-untyped-def]
    """Close every row as soon as that is legal, then refresh all banks of the pseudo-channel."""
    opened, close, ready = 0, t, t
    for number in range(c[BANKS]):
        bank = pc + c[BANK_AT] + number * BANK_COLUMNS
        if m[bank + OPEN_ROW] >= 0:
            opened += 1
            close = max(close, m[bank + PRE_OK])
        else:
            ready = max(ready, m[bank + ACT_OK])
    if opened:
        ready = max(ready, close + c[RP])
        m[COUNTS + 1] += 1
    for number in range(c[BANKS]):
        bank = pc + c[BANK_AT] + number * BANK_COLUMNS
        m[bank + OPEN_ROW] = -1
        m[bank + ACT_OK] = ready + c[RFC]
        if m[pc + QUEUED]:
            _recount(c, m, pc, number)
    m[pc + REFRESH_DUE] += c[REFI]
    m[COUNTS + 4] += 1


@njit(cache=True)
def _remove(c, m, pc, place):  # type: ignore[no-untyped-def]
    """Take the request at that place out of the queue; the older ones move up."""
    queue, head = pc + c[QUEUE_AT], m[pc + QUEUE_HEAD]
    code = m[queue + ((head + place) & (QUEUE_RING - 1))]
    for i in range(place, 0, -1):
        m[queue + ((head + i) & (QUEUE_RING - 1))] = m[queue + ((head + i - 1) & (QUEUE_RING - 1))]
    m[pc + QUEUE_HEAD] = (head + 1) & (QUEUE_RING - 1)
    m[pc + QUEUED] -= 1
    return code


@njit(cache=True)
def _column(c, m, pc, place, t):  # type: ignore[no-untyped-def]
    """Issue the read or write at that place of the queue and account for its return."""
    code = _remove(c, m, pc, place)
    number = (code >> 1) & BANK_MASK
    bank = pc + c[BANK_AT] + number * BANK_COLUMNS
    group = pc + c[GROUP_AT] + (number >> c[GROUP_SHIFT]) * GROUP_COLUMNS
    m[bank + BANK_QUEUED] -= 1
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
    number = code >> SLICE_PLACE
    done = c[SLICE_AT] + number * SLICE_COLUMNS
    m[done + RETURNED] = max(m[done + RETURNED], back)
    m[done + REMAINING] -= 1
    if m[done + REMAINING] == 0:
        push(c, m, m[done + RETURNED], number)


@njit(cache=True)
def _row_command(c, m, p, pc, kind, t):  # type: ignore[no-untyped-def]
    """Issue the ACT or PRE that `_find_row` noted; the pseudo-channels of the channel share its bus."""
    number = m[pc + ROW_BANK]
    if kind == ACTIVATE:
        _activate(c, m, pc, number, m[pc + ROW_ROW], t)
    else:
        _precharge(c, m, pc, number, t)
    _recount(c, m, pc, number)
    bus = c[CHANNEL_AT] + (p >> c[PSEUDO_SHIFT]) * CHANNEL_COLUMNS + ROW_BUS
    m[bus] = t + (c[ACT_BUS] if kind == ACTIVATE else 1)
    first = (p >> c[PSEUDO_SHIFT]) << c[PSEUDO_SHIFT]
    for other in range(first, first + (1 << c[PSEUDO_SHIFT])):
        if other != p and m[c[PSEUDO_AT] + other * c[PSEUDO_SIZE] + ROW_TIME] < FOREVER:
            settle(c, m, other)


@njit(cache=True)
def act(c, m, p):  # type: ignore[no-untyped-def]
    """Do what `_decide` chose for pseudo-channel p, then decide again."""
    pc = c[PSEUDO_AT] + p * c[PSEUDO_SIZE]
    kind, t = m[pc + NEXT_KIND], m[c[NEXT_AT] + p]
    m[pc + NOW] = t
    if kind == COLUMN:
        _column(c, m, pc, m[pc + COLUMN_AT], t)
    elif kind == REFRESH:
        _refresh(c, m, pc, t)
    else:
        _row_command(c, m, p, pc, kind, t)
    _decide(c, m, p)


@njit(cache=True)
def next_of(c, m, channel):  # type: ignore[no-untyped-def]
    """The pseudo-channel of that channel which acts first, and when."""
    p = channel << c[PSEUDO_SHIFT]
    time = m[c[NEXT_AT] + p]
    for other in range(p + 1, (channel + 1) << c[PSEUDO_SHIFT]):
        t = m[c[NEXT_AT] + other]
        if t < time:
            p, time = other, t
    return p, time


@njit(cache=True)
def advance_channel(c, m, channel, until):  # type: ignore[no-untyped-def]
    p, time = next_of(c, m, channel)
    while time < until:
        act(c, m, p)
        p, time = next_of(c, m, channel)


@njit(cache=True)
def advance(c, m, until):  # type: ignore[no-untyped-def]
    """Run all channels through everything that happens before `until` (memory cycles)."""
    for channel in range(c[CHANNELS]):
        advance_channel(c, m, channel, until)
    m[ADVANCED] = max(m[ADVANCED], until)
