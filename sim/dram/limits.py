"""Why a data bus stood idle: what the burst that ended the gap had waited for last."""


import sim.dram.layout as L
from sim.dram.jit import index, inlined, jitted
from sim.dram.queues import bank_at, group_of, pseudo_of


@inlined
def _supply(m, ch, slot):  # type: ignore[no-untyped-def]
    """A request that could go as soon as it was accepted: what kept it from being accepted earlier."""
    at = ch + slot
    if m[at + L.ACCEPTED] > m[at + L.AVAILABLE]:
        return L.DEPTH
    return L.HEAD_OF_LINE if (m[at + L.CODE] >> L.BEHIND_PLACE) & 1 else L.NO_REQUEST


@jitted
def cause_of_activate(c, m, ch, number, slot, t):  # type: ignore[no-untyped-def]
    """What an ACT at t waited for last; to be called before it changes anything."""
    ch, slot = index(ch), index(slot)
    bank, ps, group = bank_at(c, ch, number), pseudo_of(c, ch, number), group_of(c, ch, number)
    t -= c[L.EDGE]  # ready on a falling edge, it had to wait for the rising one
    if m[bank + L.ACT_OK] >= t:
        return L.REFRESHING if m[bank + L.WAS_REFRESHED] else L.ROW_CONFLICT
    window = max(m[ps + L.ACT_ANY], m[ps + L.ACT_TIMES + index(m[ps + L.ACT_TURN])] + c[L.FAW])
    if max(window, m[group + L.ACT_GROUP]) >= t:
        return L.ACT_WINDOW
    if m[ch + slot + L.ACCEPTED] + 1 >= t:
        return _supply(m, ch, slot)
    return L.REFRESHING if m[bank + L.WAS_REFRESHED] else L.COMMAND_BUS


@jitted
def explain_gap(c, m, ch, ps, number, slot, t):  # type: ignore[no-untyped-def]
    """Share out a data bus's idle time before the burst at t: nothing to serve, then what that burst waited for."""
    ps, free = index(ps), m[ps + L.BUS_FREE]
    had_work = min(t, max(free, m[ps + L.WAITING_SINCE]))
    m[L.IDLE + index(_supply(m, ch, slot))] += had_work - free
    if t > had_work:
        m[L.IDLE + index(_blame(c, m, ch, number, slot, t))] += t - had_work


@jitted
def _blame(c, m, ch, number, slot, t):  # type: ignore[no-untyped-def]
    """What a read or write at t waited for last; to be called before it changes anything."""
    ch, slot = index(ch), index(slot)
    bank, ps, group = bank_at(c, ch, number), pseudo_of(c, ch, number), group_of(c, ch, number)
    w = m[ch + slot + L.CODE] & 1
    t -= c[L.EDGE]
    if m[bank + L.READ_OK + w] >= t:
        return m[bank + L.ACT_CAUSE]
    if max(m[ps + L.READ_ANY + w], m[group + L.READ_GROUP + w]) >= t:
        return L.BANK_GROUP if m[ps + L.LAST_WAS_WRITE] == w else L.TURNAROUND
    if m[ch + L.REFRESHED_AT] + c[L.RFC] >= t and m[bank + L.WAS_REFRESHED]:
        return L.REFRESHING
    if m[ch + slot + L.ACCEPTED] + 1 >= t:
        return _supply(m, ch, slot)
    return L.REFRESHING if m[ch + L.REFRESHED_AT] >= m[ps + L.BUS_FREE] else L.COMMAND_BUS
