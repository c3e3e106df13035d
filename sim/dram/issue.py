"""What every command does: it holds its bus, and is written down where a trace is kept."""

import sim.dram.layout as L
from sim.dram.jit import inlined
from sim.dram.spec import PREA, REF


@inlined
def note(c, m, trace, ch, t, command, number, row):  # type: ignore[no-untyped-def]
    """Write a command down where a trace is kept; `number` is the bank in the channel."""
    if trace.shape[0] == 0:
        return
    i = m[L.TRACED]
    m[L.TRACED] = i + 1
    if i >= trace.shape[0]:
        return  # whoever empties the trace notices
    all_banks = command in (PREA, REF)
    trace[i, 0], trace[i, 1] = t, m[ch + L.NUMBER]
    trace[i, 2], trace[i, 3] = number >> c[L.BANK_SHIFT], command
    trace[i, 4] = -1 if all_banks else number & ((1 << c[L.BANK_SHIFT]) - 1)
    trace[i, 5] = row


@inlined
def hold_bus(c, m, ch, t, ticks, is_column):  # type: ignore[no-untyped-def]
    """The next tick at which each slot is open again; at one tick the column slot comes first."""
    if c[L.ONE_BUS]:
        m[ch + L.COLUMN_FROM] = m[ch + L.ROW_FROM] = t + ticks
    elif is_column:
        m[ch + L.COLUMN_FROM], m[ch + L.ROW_FROM] = t + ticks, max(m[ch + L.ROW_FROM], t)
    else:
        m[ch + L.COLUMN_FROM], m[ch + L.ROW_FROM] = max(m[ch + L.COLUMN_FROM], t + 1), t + ticks
