"""What each row command changes: activates, precharges, refreshes."""

import sim.dram.layout as L
from sim.dram.bitset import lowest_bit
from sim.dram.choose import banks_of, check_mode, column_start, offer_column, stale_columns, stale_rows
from sim.dram.issue import hold_bus, note
from sim.dram.jit import index, inlined, jitted
from sim.dram.limits import cause_of_activate
from sim.dram.queues import bank_at, classify, group_of, offer_again, pseudo_at, pseudo_of, row_of, unlink
from sim.dram.spec import ACT, PRE, PREA, REF, REFB


@inlined
def _opened(m, ch, ps, bit, others, t):  # type: ignore[no-untyped-def]
    if not m[ch + L.OPEN_BANKS] & others:
        m[ps + L.OPEN_SINCE] = t
    m[ch + L.OPEN_BANKS] |= bit


@inlined
def _closed(m, ch, ps, bit, others, t):  # type: ignore[no-untyped-def]
    """A row closes at t, which may still be to come; the time with any row open is counted once."""
    m[ch + L.OPEN_BANKS] &= ~bit
    m[ps + L.CLOSES_AT] = max(m[ps + L.CLOSES_AT], t)
    if not m[ch + L.OPEN_BANKS] & others:
        end = m[ps + L.CLOSES_AT]
        m[L.ACTIVE_TICKS] += max(0, end - max(m[ps + L.OPEN_SINCE], m[ps + L.COUNTED_TO]))
        m[ps + L.COUNTED_TO] = end


@jitted
def close(c, m, ch, number, t):  # type: ignore[no-untyped-def]
    """The row of that bank is closed at t, by whatever command."""
    ch = index(ch)
    bank, ps = bank_at(c, ch, number), pseudo_of(c, ch, number)
    m[bank + L.OPEN_ROW] = -1
    m[bank + L.ACT_OK] = max(m[bank + L.ACT_OK], t + c[L.RP])
    if not c[L.PER_BANK]:
        m[ps + L.REF_ANY] = max(m[ps + L.REF_ANY], t + c[L.RP_REF])
    _closed(m, ch, ps, 1 << number, banks_of(c, number >> c[L.BANK_SHIFT]), t)
    m[L.COUNTS + L.N_PRE] += 1
    classify(c, m, ch, number, 0)
    classify(c, m, ch, number, 1)


@jitted
def activate(c, m, trace, ch, number, t):  # type: ignore[no-untyped-def]
    """Open the row of the oldest request of the bank in the queue in mode; the request becomes active."""
    ch = index(ch)
    bank, ps = bank_at(c, ch, number), pseudo_of(c, ch, number)
    w = m[ch + L.WRITE_MODE] & 1
    chain = index(bank + w * L.QUEUE_COLUMNS)
    slot = index(m[chain + L.FIRST])
    row, part = row_of(m[ch + slot + L.CODE]), m[ch + slot + L.CODE] >> L.SLICE_PLACE
    m[bank + L.ACT_CAUSE] = cause_of_activate(c, m, ch, number, slot, t)
    unlink(m, ch, chain, slot)
    m[bank + L.ACTIVE_SLOT], m[bank + L.OPEN_ROW], m[bank + L.COLUMNS] = slot, row, 0
    m[ch + L.ACTIVE_BANKS] |= 1 << number
    m[ch + L.QUEUED + w] -= 1
    _opened(m, ch, ps, 1 << number, banks_of(c, number >> c[L.BANK_SHIFT]), t)
    m[bank + L.READ_OK], m[bank + L.WRITE_OK] = t + c[L.RCD_RD], t + c[L.RCD_WR]
    m[bank + L.PRE_OK], m[bank + L.ACT_OK] = t + c[L.RAS], t + c[L.ROW_CYCLE]
    m[ps + L.ACT_ANY] = t + c[L.RRD_S]
    m[group_of(c, ch, number) + L.ACT_GROUP] = t + c[L.RRD_L]
    m[ps + L.REF_ANY] = max(m[ps + L.REF_ANY], t + (c[L.RRD_REF] if c[L.PER_BANK] else c[L.RC_REF]))
    turn = m[ps + L.ACT_TURN]
    m[ps + L.ACT_TIMES + index(turn)] = t
    m[ps + L.ACT_TURN] = (turn + 1) & 3
    m[L.COUNTS + L.N_ACT] += 1
    m[index(c[L.SLICE_AT] + part * L.SLICE_COLUMNS) + L.ACTIVATED] += 1
    hold_bus(c, m, ch, t, c[L.ACT_TICKS], False)
    note(c, m, trace, ch, t, ACT, number, row)
    classify(c, m, ch, number, 0)
    classify(c, m, ch, number, 1)
    check_mode(c, m, ch, t + 1)
    offer_again(c, m, ch, t)
    m[ps + L.ROW_STALE] = 1
    if c[L.FCFS]:
        stale_columns(c, m, ch)
    elif m[ch + L.HITS + m[ch + L.WRITE_MODE]] >> number & 1:
        m[ps + L.COLUMN_STALE] = 1
    if not m[ps + L.COLUMN_STALE]:
        offer_column(c, m, ch, ps, number, w, slot, 1, column_start(c, m, ch, ps, w))


@jitted
def precharge(c, m, trace, ch, number, t):  # type: ignore[no-untyped-def]
    """Close the row of one bank."""
    ch = index(ch)
    ps = pseudo_of(c, ch, number)
    m[ps + L.PRE_ANY] = t + c[L.PPD]
    hold_bus(c, m, ch, t, c[L.ROW_TICKS], False)
    note(c, m, trace, ch, t, PRE, number, -1)
    close(c, m, ch, number, t)
    m[ps + L.ROW_STALE] = 1
    if m[ps + L.COLUMN_BANK] == number:
        m[ps + L.COLUMN_STALE] = 1


@jitted
def precharge_all(c, m, trace, ch, first, t):  # type: ignore[no-untyped-def]
    """Close all rows of the pseudo-channel whose first bank is given."""
    ch = index(ch)
    mask = m[ch + L.OPEN_BANKS] & banks_of(c, first >> c[L.BANK_SHIFT])
    m[pseudo_of(c, ch, first) + L.PRE_ANY] = t + c[L.PPD]
    hold_bus(c, m, ch, t, c[L.ROW_TICKS], False)
    note(c, m, trace, ch, t, PREA, first, -1)
    m[L.COUNTS + L.N_PREA] += 1
    while mask:
        close(c, m, ch, lowest_bit(mask), t)
        mask &= mask - 1
    stale_columns(c, m, ch)
    stale_rows(c, m, ch)


@inlined
def _refreshed(c, m, ch, p, t, ticks):  # type: ignore[no-untyped-def]
    """One entry of the pending refreshes is done."""
    ps = pseudo_at(c, ch, p)
    m[ps + L.BANKS_DUE] = max(0, m[ps + L.BANKS_DUE] - 1)
    if m[ps + L.BANKS_DUE] == 0:
        m[ch + L.PENDING] &= ~(1 << p)
    m[ch + L.REFRESHED_AT] = t
    hold_bus(c, m, ch, t, ticks, False)
    stale_columns(c, m, ch)
    stale_rows(c, m, ch)
    check_mode(c, m, ch, t + 1)


@jitted
def refresh(c, m, trace, ch, first, t):  # type: ignore[no-untyped-def]
    """Refresh all banks of the pseudo-channel whose first bank is given."""
    ch = index(ch)
    p = first >> c[L.BANK_SHIFT]
    for number in range(first, first + (1 << c[L.BANK_SHIFT])):
        bank = bank_at(c, ch, number)
        m[bank + L.ACT_OK] = max(m[bank + L.ACT_OK], t + c[L.RFC])
        m[bank + L.WAS_REFRESHED] = 1
    m[pseudo_of(c, ch, first) + L.REF_ANY] = t + c[L.RFC_AGAIN]
    m[L.ACTIVE_TICKS] += c[L.RFC_AGAIN]
    m[L.COUNTS + L.N_REF] += 1
    note(c, m, trace, ch, t, REF, first, -1)
    _refreshed(c, m, ch, p, t, c[L.ROW_TICKS])


@jitted
def refresh_bank(c, m, trace, ch, number, t):  # type: ignore[no-untyped-def]
    """Refresh one bank; the others may go on after a gap."""
    ch = index(ch)
    bank, ps, p = bank_at(c, ch, number), pseudo_of(c, ch, number), number >> c[L.BANK_SHIFT]
    m[bank + L.ACT_OK] = max(m[bank + L.ACT_OK], t + c[L.RFC_BANK])
    m[bank + L.WAS_REFRESHED] = 1
    m[ps + L.ACT_ANY] = max(m[ps + L.ACT_ANY], t + c[L.BANK_GAP])
    m[ps + L.REF_ANY] = max(m[ps + L.REF_ANY], t + c[L.BANK_GAP_AGAIN])
    m[L.COUNTS + L.N_REFB] += 1
    note(c, m, trace, ch, t, REFB, number, -1)
    m[ps + L.REFRESH_TURN] = (m[ps + L.REFRESH_TURN] + 1) & ((1 << c[L.BANK_SHIFT]) - 1)
    _refreshed(c, m, ch, p, t, c[L.ROW_TICKS])
