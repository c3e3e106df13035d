"""What a pseudo-channel would do next: the column and the row command that can go soonest, the oldest of those.

A choice holds until something makes it stale or its tick has passed; a newcomer is only compared with it.
"""

import sim.dram.layout as L
from sim.dram.bitset import lowest_bit
from sim.dram.jit import index, inlined, jitted
from sim.dram.queues import bank_at, classify, first_miss, group_of, pseudo_at, pseudo_of, row_of
from sim.dram.spec import ACT, PRE, PREA, REF, REFB


@inlined
def stale_columns(c, m, ch):  # type: ignore[no-untyped-def]
    """All column choices of the channel have to be made again."""
    for p in range(c[L.PSEUDO]):
        m[pseudo_at(c, ch, p) + L.COLUMN_STALE] = 1


@inlined
def stale_rows(c, m, ch):  # type: ignore[no-untyped-def]
    """All row choices of the channel have to be made again."""
    for p in range(c[L.PSEUDO]):
        m[pseudo_at(c, ch, p) + L.ROW_STALE] = 1


@inlined
def banks_of(c, p):  # type: ignore[no-untyped-def]
    """Bits of the banks of pseudo-channel p."""
    return ((1 << (1 << c[L.BANK_SHIFT])) - 1) << (p << c[L.BANK_SHIFT])


@inlined
def withheld(c, m, ch):  # type: ignore[no-untyped-def]
    """Bits of the banks that serve nothing now: all while a refresh of all is pending, else those whose turn it is."""
    if not c[L.PER_BANK]:
        return -1 if m[ch + L.PENDING] else 0
    banks, pending = 0, m[ch + L.PENDING]
    while pending:
        p = lowest_bit(pending)
        pending &= pending - 1
        banks |= 1 << ((p << c[L.BANK_SHIFT]) + m[pseudo_at(c, ch, p) + L.REFRESH_TURN])
    return banks


@inlined
def column_start(c, m, ch, ps, w):  # type: ignore[no-untyped-def]
    """The first tick at which any read (0) or write (1) of the pseudo-channel may go."""
    return max(m[ch + L.COLUMN_FROM], m[ps + L.READ_ANY + w])


@inlined
def act_start(c, m, ch, ps):  # type: ignore[no-untyped-def]
    """The first tick at which any row of the pseudo-channel may be opened."""
    window = max(m[ps + L.ACT_ANY], m[ps + L.ACT_TIMES + index(m[ps + L.ACT_TURN])] + c[L.FAW])
    return max(m[ch + L.ROW_FROM], window)


@inlined
def pre_start(m, ch, ps):  # type: ignore[no-untyped-def]
    """The first tick at which any row of the pseudo-channel may be closed."""
    return max(m[ch + L.ROW_FROM], m[ps + L.PRE_ANY])


@inlined
def offer_column(c, m, ch, ps, number, w, slot, active, start):  # type: ignore[no-untyped-def]
    """Compare a request's column command with the present choice; active requests win ties, then the older one."""
    t = max(m[bank_at(c, ch, number) + L.READ_OK + w], m[group_of(c, ch, number) + L.READ_GROUP + w])
    t = max(t, start) | c[L.EDGE]
    if t > m[ps + L.COLUMN_TIME]:
        return
    order = m[ch + slot + L.PLACE]
    if t == m[ps + L.COLUMN_TIME]:
        rival = m[ps + L.COLUMN_IS_ACTIVE]
        if rival > active or (rival == active and m[ps + L.COLUMN_ORDER] < order):
            return
    m[ps + L.COLUMN_TIME], m[ps + L.COLUMN_BANK] = t, number
    m[ps + L.COLUMN_ORDER], m[ps + L.COLUMN_IS_ACTIVE] = order, active


@inlined
def offer_row(c, m, ch, ps, number, w, start_act, start_pre):  # type: ignore[no-untyped-def]
    """Compare the row command that queue w wants of that bank with the present choice; the older request wins ties."""
    bank = bank_at(c, ch, number)
    slot, row = index(m[bank + w * L.QUEUE_COLUMNS + L.FIRST]), m[bank + L.OPEN_ROW]
    if row >= 0:
        t, kind = max(m[bank + L.PRE_OK], start_pre), PRE
        if c[L.UNPROTECTED]:
            slot = first_miss(m, ch, slot, row)
    else:
        t = max(m[bank + L.ACT_OK], m[group_of(c, ch, number) + L.ACT_GROUP])
        t, kind = max(t, start_act) | c[L.EDGE], ACT
    if t > m[ps + L.ROW_TIME]:
        return
    order = m[ch + slot + L.PLACE]
    if t < m[ps + L.ROW_TIME] or order < m[ps + L.ROW_ORDER]:
        m[ps + L.ROW_TIME], m[ps + L.ROW_BANK], m[ps + L.ROW_KIND], m[ps + L.ROW_ORDER] = t, number, kind, order


@jitted
def _oldest_active(c, m, ch):  # type: ignore[no-untyped-def]
    """First come, first served: the bit of the bank whose active request is the oldest."""
    ch = index(ch)
    best, bit, mask = L.FOREVER, 0, m[ch + L.ACTIVE_BANKS]
    while mask:
        number = lowest_bit(mask)
        mask &= mask - 1
        order = m[ch + index(m[bank_at(c, ch, number) + L.ACTIVE_SLOT]) + L.PLACE]
        if order < best:
            best, bit = order, 1 << number
    return bit


@jitted
def _oldest_queued(c, m, ch, w):  # type: ignore[no-untyped-def]
    """First come, first served: the bit of the bank that holds the oldest request; none while one is active."""
    ch = index(ch)
    best, bit, mask = L.FOREVER, 0, m[ch + L.HITS + w] | m[ch + L.ROWS + w]
    while mask and not m[ch + L.ACTIVE_BANKS]:
        number = lowest_bit(mask)
        mask &= mask - 1
        order = m[ch + index(m[bank_at(c, ch, number) + w * L.QUEUE_COLUMNS + L.FIRST]) + L.PLACE]
        if order < best:
            best, bit = order, 1 << number
    return bit


@jitted
def choose_column(c, m, ch, p, ps):  # type: ignore[no-untyped-def]
    """Among active requests, and among the row hits of the queue in mode unless a refresh withholds them."""
    ch, ps = index(ch), index(ps)
    m[ps + L.COLUMN_STALE], m[ps + L.COLUMN_TIME], m[ps + L.COLUMN_IS_ACTIVE] = 0, L.FOREVER, 0
    mine = banks_of(c, p)
    mask = m[ch + L.ACTIVE_BANKS] & mine
    if c[L.FCFS]:
        mask &= _oldest_active(c, m, ch)
    while mask:
        number = lowest_bit(mask)
        mask &= mask - 1
        slot = index(m[bank_at(c, ch, number) + L.ACTIVE_SLOT])
        w = m[ch + slot + L.CODE] & 1
        offer_column(c, m, ch, ps, number, w, slot, 1, column_start(c, m, ch, ps, w))
    w = m[ch + L.WRITE_MODE] & 1
    mask = m[ch + L.HITS + w] & mine & ~withheld(c, m, ch)
    if c[L.FCFS]:
        mask &= _oldest_queued(c, m, ch, w) & ~m[ch + L.ROWS + w]
    start = column_start(c, m, ch, ps, w)
    while mask:
        number = lowest_bit(mask)
        mask &= mask - 1
        slot = index(m[bank_at(c, ch, number) + w * L.QUEUE_COLUMNS + L.HIT])
        offer_column(c, m, ch, ps, number, w, slot, 0, start)


@jitted
def choose_row(c, m, ch, p, ps):  # type: ignore[no-untyped-def]
    """A pending refresh of all banks; else that of one bank, or the row commands for the queue in mode."""
    ch, ps = index(ch), index(ps)
    m[ps + L.ROW_STALE], m[ps + L.ROW_TIME], m[ps + L.ROW_ORDER] = 0, L.FOREVER, 0
    if c[L.PER_BANK]:
        if (m[ch + L.PENDING] >> p) & 1:
            _choose_bank_refresh(c, m, ch, p, ps)
    elif m[ch + L.PENDING]:
        if lowest_bit(m[ch + L.PENDING]) == p:
            _choose_refresh(c, m, ch, p, ps)
        return
    w = m[ch + L.WRITE_MODE] & 1
    mask = m[ch + L.ROWS + w] & ~m[ch + L.ACTIVE_BANKS] & banks_of(c, p) & ~withheld(c, m, ch)
    if c[L.FCFS]:
        mask &= _oldest_queued(c, m, ch, w)
    start_act, start_pre = act_start(c, m, ch, ps), pre_start(m, ch, ps)
    while mask:
        number = lowest_bit(mask)
        mask &= mask - 1
        offer_row(c, m, ch, ps, number, w, start_act, start_pre)


@jitted
def _choose_refresh(c, m, ch, p, ps):  # type: ignore[no-untyped-def]
    """Close all rows and refresh all banks, or close and refresh the bank whose turn it is; active requests first."""
    ch, ps = index(ch), index(ps)
    if c[L.PER_BANK]:
        _choose_bank_refresh(c, m, ch, p, ps)
        return
    banks = banks_of(c, p)
    if m[ch + L.ACTIVE_BANKS] & banks:
        return
    if m[ch + L.OPEN_BANKS] & banks == 0:
        time, kind = max(m[ch + L.ROW_FROM], m[ps + L.REF_ANY]) | c[L.EDGE], REF
    else:
        time, kind = pre_start(m, ch, ps), PREA
        for number in range(p << c[L.BANK_SHIFT], (p + 1) << c[L.BANK_SHIFT]):  # those that close by themselves, too
            time = max(time, m[bank_at(c, ch, number) + L.PRE_OK])
    m[ps + L.ROW_TIME], m[ps + L.ROW_KIND], m[ps + L.ROW_BANK] = time, kind, p << c[L.BANK_SHIFT]


@jitted
def _choose_bank_refresh(c, m, ch, p, ps):  # type: ignore[no-untyped-def]
    """Close and refresh the bank whose turn it is, active requests first; before any other command of its tick."""
    ch, ps = index(ch), index(ps)
    number = (p << c[L.BANK_SHIFT]) + m[ps + L.REFRESH_TURN]
    if (m[ch + L.ACTIVE_BANKS] >> number) & 1:
        return
    bank = bank_at(c, ch, number)
    if m[bank + L.OPEN_ROW] >= 0:
        time, kind = max(m[bank + L.PRE_OK], pre_start(m, ch, ps)), PRE
    else:
        time, kind = max(m[bank + L.ACT_OK] + c[L.RP_REF] - c[L.RP], m[ps + L.REF_ANY]), REFB
        time = max(time, m[ch + L.ROW_FROM]) | c[L.EDGE]
    m[ps + L.ROW_TIME], m[ps + L.ROW_KIND], m[ps + L.ROW_BANK], m[ps + L.ROW_ORDER] = time, kind, number, -1


@inlined
def check_mode(c, m, ch, tick):  # type: ignore[no-untyped-def]
    """A queue has grown or shrunk: at `tick` the channel turns from reads to writes or back, if it is still so then."""
    reads, writes = m[ch + L.QUEUED], m[ch + L.QUEUED_WRITES]
    start = writes > c[L.WRITES_HIGH] or reads == 0
    stop = writes < c[L.WRITES_LOW] and reads > 0
    m[ch + L.MODE_TICK] = tick if (stop if m[ch + L.WRITE_MODE] else start) else L.FOREVER


@jitted
def turn_mode(c, m, ch, t):  # type: ignore[no-untyped-def]
    """The queues are about to be scanned in the other mode; they are not while a refresh of all banks is pending."""
    if m[ch + L.PENDING] and not c[L.PER_BANK]:
        m[ch + L.MODE_TICK] = L.FOREVER
        return
    ps = index(m[ch + L.COLUMN_PICK])
    if c[L.ONE_BUS] and m[ps + L.COLUMN_IS_ACTIVE] and m[ps + L.COLUMN_TIME] == t:
        m[ch + L.MODE_TICK] = t + 1  # the only command of this tick is taken
        return
    m[ch + L.MODE_TICK] = L.FOREVER
    m[ch + L.WRITE_MODE] ^= 1
    m[ch + L.COLUMN_FROM], m[ch + L.ROW_FROM] = max(m[ch + L.COLUMN_FROM], t), max(m[ch + L.ROW_FROM], t)
    stale_columns(c, m, ch)
    stale_rows(c, m, ch)


@inlined
def consider(c, m, ch, number, w, slot, a):  # type: ignore[no-untyped-def]
    """A request accepted at `a` has joined the chain of its bank: it may be what goes next."""
    m[ch + L.COLUMN_FROM], m[ch + L.ROW_FROM] = max(m[ch + L.COLUMN_FROM], a + 1), max(m[ch + L.ROW_FROM], a + 1)
    check_mode(c, m, ch, a + 1)
    bank, ps = bank_at(c, ch, number), pseudo_of(c, ch, number)
    chain, row, bit = bank + w * L.QUEUE_COLUMNS, m[bank + L.OPEN_ROW], 1 << number
    mine = w == m[ch + L.WRITE_MODE] and withheld(c, m, ch) & bit == 0
    if c[L.FCFS] or c[L.UNPROTECTED] or c[L.CAP] < L.FOREVER:
        classify(c, m, ch, number, w)
        if mine:
            m[ps + L.COLUMN_STALE] = m[ps + L.ROW_STALE] = 1
    elif row >= 0 and row_of(m[ch + slot + L.CODE]) == row:
        if m[chain + L.HIT] == 0:
            m[chain + L.HIT] = slot
            m[ch + L.HITS + w] |= bit
            if mine and not m[ps + L.COLUMN_STALE]:
                offer_column(c, m, ch, ps, number, w, slot, 0, column_start(c, m, ch, ps, w))
    elif m[chain + L.FIRST] == slot:
        m[ch + L.ROWS + w] |= bit
        if mine and not m[ps + L.ROW_STALE] and not m[ch + L.ACTIVE_BANKS] & bit:
            offer_row(c, m, ch, ps, number, w, act_start(c, m, ch, ps), pre_start(m, ch, ps))
