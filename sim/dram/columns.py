"""What a column command changes: the request leaves, its data are accounted for, its bank may close by itself."""

import sim.dram.layout as L
from sim.dram.choose import act_start, check_mode, offer_row, pre_start, stale_columns, stale_rows, withheld
from sim.dram.issue import hold_bus, note
from sim.dram.jit import index, inlined
from sim.dram.limits import explain_gap
from sim.dram.queues import bank_at, classify, forget, group_of, offer_again, pseudo_at, pseudo_of, row_of, unlink
from sim.dram.returns import push
from sim.dram.rows import close
from sim.dram.spec import RD, RDA, WR


@inlined
def _read_sent(c, m, ps, group, bank, t):  # type: ignore[no-untyped-def]
    """A read's effect on later commands; returns when its data are back."""
    back = t + c[L.READ_BACK]
    m[bank + L.PRE_OK] = max(m[bank + L.PRE_OK], t + c[L.RTP])
    m[ps + L.READ_ANY] = max(m[ps + L.READ_ANY], t + c[L.CCD_S])
    m[group + L.READ_GROUP] = max(m[group + L.READ_GROUP], t + c[L.CCD_L])
    m[ps + L.WRITE_ANY] = max(m[ps + L.WRITE_ANY], t + c[L.RTW])
    place = m[ps + L.RING_HEAD] + m[ps + L.RING_COUNT]
    m[index(ps + L.RING + (place if place < c[L.OUTSTANDING] else place - c[L.OUTSTANDING]))] = back
    m[ps + L.RING_COUNT] += 1
    m[ps + L.READS_QUEUED] -= 1
    m[L.COUNTS + L.N_RD] += 1
    return back


@inlined
def _write_sent(c, m, ps, group, bank, t):  # type: ignore[no-untyped-def]
    """A write's effect on later commands; returns when its data have been sent."""
    m[bank + L.PRE_OK] = max(m[bank + L.PRE_OK], t + c[L.WTP])
    m[ps + L.WRITE_ANY] = max(m[ps + L.WRITE_ANY], t + c[L.CCD_S_WR])
    m[group + L.WRITE_GROUP] = max(m[group + L.WRITE_GROUP], t + c[L.CCD_L_WR])
    m[ps + L.READ_ANY] = max(m[ps + L.READ_ANY], t + c[L.WTR_S])
    m[group + L.READ_GROUP] = max(m[group + L.READ_GROUP], t + c[L.WTR_L])
    m[L.COUNTS + L.N_WR] += 1
    return t + c[L.WRITE_BACK]


@inlined
def _leave_queue(c, m, ch, number, w):  # type: ignore[no-untyped-def]
    """Take the oldest row hit of the bank out of queue w and find the next; returns its slot."""
    bank = bank_at(c, ch, number)
    chain, bit = index(bank + w * L.QUEUE_COLUMNS), 1 << number
    slot, row = index(m[chain + L.HIT]), m[bank + L.OPEN_ROW]
    after = index(m[ch + slot + L.NEXT])
    unlink(m, ch, chain, slot)
    m[ch + L.QUEUED + w] -= 1
    if c[L.UNPROTECTED] or c[L.CAP] < L.FOREVER:
        classify(c, m, ch, number, w)
        return slot
    while after > 0 and row_of(m[ch + after + L.CODE]) != row:
        after = index(m[ch + after + L.NEXT])
    m[chain + L.HIT] = after
    if after == 0:
        m[ch + L.HITS + w] &= ~bit
    first = m[chain + L.FIRST]
    if first > 0 and first != after:
        m[ch + L.ROWS + w] |= bit
    else:
        m[ch + L.ROWS + w] &= ~bit
    return slot


@inlined
def _leave_active(c, m, ch, number):  # type: ignore[no-untyped-def]
    bank = bank_at(c, ch, number)
    slot = index(m[bank + L.ACTIVE_SLOT])
    m[bank + L.ACTIVE_SLOT] = 0
    m[ch + L.ACTIVE_BANKS] &= ~(1 << number)
    if m[ch + L.PENDING]:
        stale_rows(c, m, ch)  # a refresh may have waited for it
    return slot


@inlined
def _account(c, m, slot_at, back):  # type: ignore[no-untyped-def]
    """Data of one burst are back (or sent): latency, and the slice that it belongs to."""
    code = m[slot_at + L.CODE]
    number = code >> L.SLICE_PLACE
    done = index(c[L.SLICE_AT] + number * L.SLICE_COLUMNS)
    m[done + L.RETURNED] = max(m[done + L.RETURNED], back)
    m[done + L.REMAINING] -= 1
    if m[done + L.REMAINING] == 0:
        push(c, m, m[done + L.RETURNED], number)
    if code & 1 == 0:
        latency = back - m[slot_at + L.ACCEPTED] - 1  # from the first tick at which it could be served
        m[L.LATENCY_SUM] += latency
        m[L.LAST_BACK] = max(m[L.LAST_BACK], back)
        if c[L.FIFO_AT] > c[L.LATENCY_AT]:
            m[index(c[L.LATENCY_AT] + min(latency, L.LATENCY_BINS - 1))] += 1


@inlined
def _closes_itself(c, m, ch, bank, number):  # type: ignore[no-untyped-def]
    """Whether a column command precharges its bank: closed page, and no request waits for the row (or the cap)."""
    if not c[L.CLOSED] or (m[ch + L.ACTIVE_BANKS] >> number) & 1:
        return False
    return (m[bank + L.HIT] == 0 and m[bank + L.HIT_WRITE] == 0) or m[bank + L.COLUMNS] >= c[L.CAP]


@inlined
def column(c, m, trace, ch, number, t):  # type: ignore[no-untyped-def]
    """Issue the chosen read or write of that bank and account for its return."""
    ch = index(ch)
    bank, ps, group = bank_at(c, ch, number), pseudo_of(c, ch, number), group_of(c, ch, number)
    was_active = m[ps + L.COLUMN_IS_ACTIVE]
    slot = _leave_active(c, m, ch, number) if was_active else _leave_queue(c, m, ch, number, m[ch + L.WRITE_MODE] & 1)
    w = m[ch + slot + L.CODE] & 1
    if t > m[ps + L.BUS_FREE]:
        explain_gap(c, m, ch, ps, number, slot, t)
    m[ps + L.WAITING] -= 1
    m[ps + L.BUS_FREE], m[ps + L.LAST_WAS_WRITE] = t + c[L.BURST], w
    m[bank + L.WAS_REFRESHED] = 0
    m[bank + L.COLUMNS] += 1
    back = _write_sent(c, m, ps, group, bank, t) if w else _read_sent(c, m, ps, group, bank, t)
    _account(c, m, ch + slot, back)
    forget(m, ch, slot)
    hold_bus(c, m, ch, t, c[L.COLUMN_TICKS], True)
    m[ps + L.COLUMN_STALE] = 1
    auto = _closes_itself(c, m, ch, bank, number)
    note(c, m, trace, ch, t, (WR if w else RD) + (RDA - RD) * auto, number, m[bank + L.OPEN_ROW])
    if auto:
        close(c, m, ch, number, m[bank + L.PRE_OK])
    _after_column(c, m, ch, number, t, auto, was_active)


@inlined
def _after_column(c, m, ch, number, t, auto, was_active):  # type: ignore[no-untyped-def]
    """The bank's row command may now be wanted, or later than was thought."""
    if not was_active:
        offer_again(c, m, ch, t)
    else:
        p = number >> c[L.BANK_SHIFT]
        if m[pseudo_at(c, ch, p) + L.ADMIT_AT] == L.FOREVER:
            offer_again(c, m, ch, t)  # it may have been waiting for returns alone
    check_mode(c, m, ch, t + c[L.ONE_BUS])
    if c[L.CAP] < L.FOREVER:
        classify(c, m, ch, number, 0)
        classify(c, m, ch, number, 1)
    if c[L.FCFS]:
        stale_columns(c, m, ch)
        stale_rows(c, m, ch)
    ps = pseudo_of(c, ch, number)
    if auto or m[ps + L.ROW_BANK] == number:
        m[ps + L.ROW_STALE] = 1
    w = m[ch + L.WRITE_MODE] & 1
    wants = m[ch + L.ROWS + w] & ~m[ch + L.ACTIVE_BANKS] & ~withheld(c, m, ch)
    if not m[ps + L.ROW_STALE] and (wants >> number) & 1:
        offer_row(c, m, ch, ps, number, w, act_start(c, m, ch, ps), pre_start(m, ch, ps))
