"""The channel's loop: requests are accepted and commands issued in the order of time.

At one tick: a refresh may become due, then the column slot, then the row slot; heads of FIFOs are offered after it.
"""


import sim.dram.layout as L
from sim.dram.choose import choose_column, choose_row, consider, stale_columns, stale_rows, turn_mode
from sim.dram.columns import column
from sim.dram.jit import index, inlined, jitted
from sim.dram.queues import accept, pseudo_at
from sim.dram.rows import activate, precharge, precharge_all, refresh, refresh_bank
from sim.dram.spec import ACT, PRE, PREA, REF


@inlined
def _refresh_due(c, m, ch, t):  # type: ignore[no-untyped-def]
    """Every pseudo-channel of the channel has a refresh to do: of all banks before anything else, or of one."""
    m[ch + L.REFRESH_DUE] += c[L.REFI]
    m[ch + L.PENDING] = (1 << c[L.PSEUDO]) - 1
    for p in range(c[L.PSEUDO]):
        m[pseudo_at(c, ch, p) + L.BANKS_DUE] += c[L.PER_BANK]
    m[ch + L.COLUMN_FROM], m[ch + L.ROW_FROM] = max(m[ch + L.COLUMN_FROM], t), max(m[ch + L.ROW_FROM], t)
    stale_columns(c, m, ch)
    stale_rows(c, m, ch)


@inlined
def _row_command(c, m, trace, ch, t):  # type: ignore[no-untyped-def]
    ps = index(m[ch + L.ROW_PICK])
    kind, number = m[ps + L.ROW_KIND], m[ps + L.ROW_BANK]
    if kind == ACT:
        activate(c, m, trace, ch, number, t)
    elif kind == PRE:
        precharge(c, m, trace, ch, number, t)
    elif kind == PREA:
        precharge_all(c, m, trace, ch, number, t)
    elif kind == REF:
        refresh(c, m, trace, ch, number, t)
    else:
        refresh_bank(c, m, trace, ch, number, t)


@inlined
def _column_first(c, m, ch):  # type: ignore[no-untyped-def]
    """Which choice takes the tick: the earlier; at the same tick the column slot, or on one bus the older."""
    column_ps, row_ps = index(m[ch + L.COLUMN_PICK]), index(m[ch + L.ROW_PICK])
    if m[column_ps + L.COLUMN_TIME] != m[row_ps + L.ROW_TIME]:
        return m[column_ps + L.COLUMN_TIME] < m[row_ps + L.ROW_TIME]
    if not c[L.ONE_BUS] or m[column_ps + L.COLUMN_IS_ACTIVE]:
        return True
    return m[column_ps + L.COLUMN_ORDER] < m[row_ps + L.ROW_ORDER]


@inlined
def _earlier_column(m, ps, other):  # type: ignore[no-untyped-def]
    """Whether the choice of pseudo-channel `ps` goes before that of the other; both are in the same slot."""
    if m[ps + L.COLUMN_TIME] != m[other + L.COLUMN_TIME]:
        return m[ps + L.COLUMN_TIME] < m[other + L.COLUMN_TIME]
    if m[ps + L.COLUMN_IS_ACTIVE] != m[other + L.COLUMN_IS_ACTIVE]:
        return m[ps + L.COLUMN_IS_ACTIVE] == 1
    return m[ps + L.COLUMN_ORDER] < m[other + L.COLUMN_ORDER]


@inlined
def _earlier_row(m, ps, other):  # type: ignore[no-untyped-def]
    if m[ps + L.ROW_TIME] != m[other + L.ROW_TIME]:
        return m[ps + L.ROW_TIME] < m[other + L.ROW_TIME]
    return m[ps + L.ROW_ORDER] < m[other + L.ROW_ORDER]


@inlined
def next_time(c, m, ch):  # type: ignore[no-untyped-def]
    """When the channel does something next; accepting a request at a counts as a + 1, when it can first be served."""
    ps = index(ch + c[L.PSEUDO_AT])
    column_ps = row_ps = ps
    for p in range(c[L.PSEUDO]):
        if m[ps + L.COLUMN_STALE] or m[ps + L.COLUMN_TIME] < m[ch + L.COLUMN_FROM]:
            choose_column(c, m, ch, p, ps)
        if m[ps + L.ROW_STALE] or m[ps + L.ROW_TIME] < m[ch + L.ROW_FROM]:
            choose_row(c, m, ch, p, ps)
        if p > 0 and _earlier_column(m, ps, column_ps):
            column_ps = ps
        if p > 0 and _earlier_row(m, ps, row_ps):
            row_ps = ps
        ps = index(ps + c[L.PSEUDO_SIZE])
    m[ch + L.COLUMN_PICK], m[ch + L.ROW_PICK] = column_ps, row_ps
    t = min(m[column_ps + L.COLUMN_TIME], min(m[row_ps + L.ROW_TIME], m[ch + L.REFRESH_DUE]))
    return min(t, min(m[ch + L.ADMIT_TIME] + 1, m[ch + L.MODE_TICK]))


@jitted
def act(c, m, trace, ch, t):  # type: ignore[no-untyped-def]
    """Do what `next_time` found for t."""
    ch = index(ch)
    if m[ch + L.ADMIT_TIME] < t:
        number, w, slot, a = accept(c, m, ch)
        consider(c, m, ch, number, w, slot, a)
    elif m[ch + L.REFRESH_DUE] == t:
        _refresh_due(c, m, ch, t)
    elif m[ch + L.MODE_TICK] == t:
        turn_mode(c, m, ch, t)
    elif _column_first(c, m, ch):
        column(c, m, trace, ch, m[index(m[ch + L.COLUMN_PICK]) + L.COLUMN_BANK], t)
    else:
        _row_command(c, m, trace, ch, t)


@inlined
def trace_is_full(m, trace):  # type: ignore[no-untyped-def]
    return trace.shape[0] > 0 and m[L.TRACED] >= trace.shape[0]


@inlined
def _skip_refreshes(c, m, trace, ch, until):  # type: ignore[no-untyped-def]
    """Count at once the refreshes of a channel that has nothing to do before `until`; the last are done in full."""
    busy = m[ch + L.PENDING] | m[ch + L.OPEN_BANKS] | m[ch + L.QUEUED] | m[ch + L.QUEUED_WRITES]
    end = min(until, m[ch + L.ADMIT_TIME])
    if busy or trace.shape[0] or end >= L.FOREVER:
        return
    times = (end - m[ch + L.REFRESH_DUE]) // c[L.REFI] - 1
    if times <= 0:
        return
    m[ch + L.REFRESH_DUE] += times * c[L.REFI]
    if c[L.PER_BANK]:
        m[L.COUNTS + L.N_REFB] += times * c[L.PSEUDO]
        for p in range(c[L.PSEUDO]):
            ps = pseudo_at(c, ch, p)
            m[ps + L.REFRESH_TURN] = (m[ps + L.REFRESH_TURN] + times) & ((1 << c[L.BANK_SHIFT]) - 1)
    else:
        m[L.COUNTS + L.N_REF] += times * c[L.PSEUDO]
        m[L.ACTIVE_TICKS] += times * c[L.PSEUDO] * c[L.RFC_AGAIN]


@inlined
def step(c, m, trace, ch, t, until):  # type: ignore[no-untyped-def]
    """Do what `next_time` found for t; `until` is as far as the channel may be run."""
    if t == m[ch + L.REFRESH_DUE]:
        _skip_refreshes(c, m, trace, ch, until)
        t = next_time(c, m, ch)
    act(c, m, trace, ch, t)


@jitted
def advance_channel(c, m, trace, ch, until):  # type: ignore[no-untyped-def]
    """Run a channel through everything that happens before tick `until`; offers at `until` - 1 are the last."""
    ch = index(ch)
    while not trace_is_full(m, trace):
        t = next_time(c, m, ch)
        if t >= until:
            m[index(c[L.NEXT_AT] + m[ch + L.NUMBER])] = t
            return
        step(c, m, trace, ch, t, until)


@jitted
def advance(c, m, trace, until):  # type: ignore[no-untyped-def]
    """Run all channels through everything that happens before tick `until`."""
    for channel in range(c[L.CHANNELS]):
        if m[index(c[L.NEXT_AT] + channel)] < until:
            advance_channel(c, m, trace, c[L.CHANNEL_AT] + channel * c[L.CHANNEL_SIZE], until)
    m[L.ADVANCED] = max(m[L.ADVANCED], until)
