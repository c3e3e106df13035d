"""The way in and out for plans: slices become bursts, bursts enter FIFOs, data come back in time order.

One slice at a time, `request_lanes` bursts a memory cycle, at most one per channel and cycle, in order: a full FIFO
holds up everything behind it (head of line), and what comes after it begins a memory cycle of its own.
"""

import numpy as np

import sim.dram.layout as L
from sim.dram.controller import act, advance, advance_channel, next_time
from sim.dram.jit import index, inlined, jitted
from sim.dram.layout import MemoryState
from sim.dram.queues import next_place, pseudo_at, push_fifo
from sim.dram.returns import pop, push

NO_TRACE = np.zeros((0, 6), np.int64)


@inlined
def decode(c, m, burst):  # type: ignore[no-untyped-def]
    """(code with bank and row, channel) of a burst number."""
    channel, at = np.int64(-1), index(c[L.DECODE_AT])
    if c[L.DIVIDE]:
        upper, low = burst >> c[L.DIVIDE_SHIFT], burst & ((1 << c[L.DIVIDE_SHIFT]) - 1)
        channel = upper % c[L.CHANNELS]
        burst = (upper // c[L.CHANNELS]) << c[L.DIVIDE_SHIFT] | low
    code = m[at + (burst & 255)] ^ m[at + 256 + (burst >> 8 & 255)]
    code ^= m[at + 512 + (burst >> 16 & 255)] ^ m[at + 768 + (burst >> 24 & 255)]
    if channel < 0:
        channel = code >> L.SLICE_PLACE
    return code & ((1 << L.SLICE_PLACE) - 1), channel


@inlined
def pseudo_number(c, code):  # type: ignore[no-untyped-def]
    """The pseudo-channel in its channel of a decoded code."""
    return ((code >> 1) & L.BANK_MASK) >> c[L.BANK_SHIFT]


@inlined
def none_runs_dry(c, m, ch):  # type: ignore[no-untyped-def]
    """Whether every FIFO of the channel still holds requests: then nothing that arrives from now on can be next."""
    dry = False
    for p in range(c[L.PSEUDO]):
        dry |= m[pseudo_at(c, ch, p) + L.FIFO_COUNT] == 0
    return not dry


@inlined
def _make_room(c, m, trace, ch, ps):  # type: ignore[no-untyped-def]
    """Run the channel until its full FIFO has a place, and in one go until it is half empty where that is safe."""
    while m[ps + L.FIFO_COUNT] == c[L.FIFO_DEPTH] or (
        2 * m[ps + L.FIFO_COUNT] > c[L.FIFO_DEPTH] and none_runs_dry(c, m, ch)
    ):
        act(c, m, trace, ch, next_time(c, m, ch))
    m[index(c[L.NEXT_AT] + m[ch + L.NUMBER])] = 0  # not known


@inlined
def enter(c, m, trace, burst, low, g):  # type: ignore[no-untyped-def]
    """Put one burst into its FIFO at tick g or as soon as there is room; returns the time it went in."""
    code, channel = decode(c, m, burst)
    ch = index(c[L.CHANNEL_AT] + channel * c[L.CHANNEL_SIZE])
    p = pseudo_number(c, code)
    ps = pseudo_at(c, ch, p)
    if c[L.FIFO_DEPTH]:
        if m[ps + L.FIFO_COUNT] == c[L.FIFO_DEPTH]:
            advance_channel(c, m, trace, ch, g + 1)
            _make_room(c, m, trace, ch, ps)
        freed = m[next_place(c, m, ch, p) + 1]
        if freed > g:
            g = m[L.STALLED] = freed
    arrives = max(g, m[ch + L.ARRIVAL])
    m[ch + L.ARRIVAL] = arrives + c[L.EDGES]
    behind = np.int64(g - m[L.STALLED] <= c[L.EDGES])
    push_fifo(c, m, ch, p, low | code | behind << L.BEHIND_PLACE, arrives)
    return g


@jitted
def _count_bursts(c, address, size):  # type: ignore[no-untyped-def]
    """Bursts that a slice touches; two neighbouring segments that share one fetch it once."""
    bursts, last = 0, np.int64(-1)
    for i in range(len(address)):
        first, end = address[i] >> c[L.BURST_SHIFT], (address[i] + size[i] - 1) >> c[L.BURST_SHIFT]
        bursts += end - first + 1 - (1 if first == last else 0)
        last = end
    return bursts


@jitted
def _issue(c, m, trace, low, address, size, g):  # type: ignore[no-untyped-def]
    """Send the bursts of a slice from tick g on; returns the tick of the last."""
    lane, last = 0, np.int64(-1)
    for i in range(len(address)):
        burst, end = address[i] >> c[L.BURST_SHIFT], (address[i] + size[i] - 1) >> c[L.BURST_SHIFT]
        if burst == last:
            burst += 1
        last = end
        while burst <= end:
            if lane == c[L.LANES]:
                g, lane = g + c[L.EDGES], 0
            entered = enter(c, m, trace, burst, low, g)
            if entered > g:
                g, lane = entered, 0
            lane += 1
            burst += 1
    return g


@jitted
def submit(c, m, trace, number, write, address, size, start):  # type: ignore[no-untyped-def]
    """Hand over slice `number` at core cycle `start`; returns the core cycle in which its last request has left.

    address, size   int64 arrays: the segments of the slice in bytes
    """
    bursts = _count_bursts(c, address, size)  # counted first: a slice must not look complete while it is issued
    done = c[L.SLICE_AT] + number * L.SLICE_COLUMNS
    m[done + L.BURSTS], m[done + L.REMAINING] = bursts, bursts
    m[L.OUT] += 1
    if c[L.IDEAL]:
        issued = start - -size.sum() * c[L.TRANSFER_CYCLES] // c[L.TRANSFER_BYTES]
        push(c, m, issued + c[L.IDEAL_LATENCY], number)
        return issued
    g = max(-(-start * c[L.CORE_PS] // c[L.MEMORY_PS]), m[L.FRONT])
    g = _issue(c, m, trace, (number << L.SLICE_PLACE) | write, address, size, g) + c[L.EDGES]
    m[L.FRONT] = g
    return -(-g * c[L.MEMORY_PS] // c[L.CORE_PS])


@jitted
def next_return(c, m, trace, limit):  # type: ignore[no-untyped-def]
    """The earliest slice that is back by core cycle `limit`, as (core cycle, slice), or (limit, -1).

    Correct as long as no later slice is handed over before the cycle that is returned.
    """
    if m[L.OUT] == 0:
        return limit, np.int64(-1)
    if c[L.IDEAL]:
        if m[c[L.HEAP_AT]] > limit:
            return limit, np.int64(-1)
        m[L.OUT] -= 1
        return pop(c, m)
    bound = np.int64(L.FOREVER) if limit >= L.FOREVER else limit * c[L.CORE_PS] // c[L.MEMORY_PS]
    while True:
        # a command at ADVANCED or later cannot return before ADVANCED + LOOKAHEAD
        known = m[L.ADVANCED] + c[L.LOOKAHEAD] - 1
        if m[L.HEAP_SIZE] > 0 and m[c[L.HEAP_AT]] <= min(known, bound):
            time, number = pop(c, m)
            m[L.OUT] -= 1
            return -(-time * c[L.MEMORY_PS] // c[L.CORE_PS]), number
        if known >= bound:
            return limit, np.int64(-1)
        advance(c, m, trace, min(m[L.ADVANCED] + c[L.LOOKAHEAD], bound - c[L.LOOKAHEAD] + 1))


def finish_memory(memory: MemoryState, core_cycles: int) -> MemoryState:
    """Let everything that is due before the end of the run happen, refreshes above all, so that it is counted."""
    if not memory.config[L.IDEAL]:
        advance(memory.config, memory.state, NO_TRACE, memory.tick_of(core_cycles))
    return memory
