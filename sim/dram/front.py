"""The way in and out: slices become bursts, bursts enter FIFOs, data come back in time order."""

import numpy as np
from numba import njit

from sim.dram.controller import act, advance, next_of, settle
from sim.dram.layout import (
    ADVANCED,
    ARRIVAL,
    BURST_SHIFT,
    BURSTS,
    CHANNEL_AT,
    CHANNEL_COLUMNS,
    CORE_PS,
    DECODE_AT,
    FIFO_AT,
    FIFO_COUNT,
    FIFO_DEPTH,
    FIFO_HEAD,
    FOREVER,
    FRONT,
    HEAP_AT,
    HEAP_SIZE,
    IDEAL,
    IDEAL_LATENCY,
    LANES,
    LOOKAHEAD,
    MEMORY_PS,
    NEXT_AT,
    OUT,
    PSEUDO_AT,
    PSEUDO_SHIFT,
    PSEUDO_SIZE,
    REMAINING,
    SLICE_AT,
    SLICE_COLUMNS,
    SLICE_PLACE,
    TRANSFER_BYTES,
    TRANSFER_CYCLES,
    MemoryState,
)
from sim.dram.returns import pop, push


@njit(cache=True)
def _may_run_ahead(c, m, channel):  # type: ignore[no-untyped-def]
    """Whether nothing that arrives from now on can be picked yet: every FIFO of the channel still holds requests."""
    for p in range(channel << c[PSEUDO_SHIFT], (channel + 1) << c[PSEUDO_SHIFT]):
        if m[c[PSEUDO_AT] + p * c[PSEUDO_SIZE] + FIFO_COUNT] == 0:
            return False
    return True


@njit(cache=True)
def _make_room(c, m, p, g):  # type: ignore[no-untyped-def]
    """Run p's channel until its full FIFO has a place, and in one go until it is half empty where that is safe."""
    count, channel = c[PSEUDO_AT] + p * c[PSEUDO_SIZE] + FIFO_COUNT, p >> c[PSEUDO_SHIFT]
    while True:
        other, time = next_of(c, m, channel)
        enough = 2 * m[count] <= c[FIFO_DEPTH] or not _may_run_ahead(c, m, channel)
        if m[count] < c[FIFO_DEPTH] and time >= g and enough:
            return
        act(c, m, other)


@njit(cache=True)
def _decode(c, m, burst):  # type: ignore[no-untyped-def]
    """The code of a burst number: bank, row, and from SLICE_PLACE on the pseudo-channel."""
    at = c[DECODE_AT]
    low = m[at + (burst & 255)] ^ m[at + 256 + (burst >> 8 & 255)]
    return low ^ m[at + 512 + (burst >> 16 & 255)] ^ m[at + 768 + (burst >> 24 & 255)]


@njit(cache=True)
def _enter(c, m, burst, low, g):  # type: ignore[no-untyped-def]
    """Put one burst into its FIFO at time g or as soon as there is room; returns the time it went in."""
    code = _decode(c, m, burst)
    p = code >> SLICE_PLACE
    pc = c[PSEUDO_AT] + p * c[PSEUDO_SIZE]
    if m[pc + FIFO_COUNT] >= c[FIFO_DEPTH]:
        _make_room(c, m, p, g)
    place = m[pc + FIFO_HEAD] + m[pc + FIFO_COUNT]
    if place >= c[FIFO_DEPTH]:
        place -= c[FIFO_DEPTH]
    g = max(g, m[pc + c[FIFO_AT] + 2 * place + 1])  # when the place became free
    port = c[CHANNEL_AT] + (p >> c[PSEUDO_SHIFT]) * CHANNEL_COLUMNS + ARRIVAL
    arrives = max(g, m[port])
    m[port] = arrives + 1
    m[pc + c[FIFO_AT] + 2 * place] = low | (code & ((1 << SLICE_PLACE) - 1))
    m[pc + c[FIFO_AT] + 2 * place + 1] = arrives
    m[pc + FIFO_COUNT] += 1
    if m[pc + FIFO_COUNT] == 1 and arrives <= m[c[NEXT_AT] + p]:
        settle(c, m, p)
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
    done = c[SLICE_AT] + number * SLICE_COLUMNS
    m[done + BURSTS], m[done + REMAINING] = bursts, bursts
    m[OUT] += 1
    if c[IDEAL]:
        issued = start - -size.sum() * c[TRANSFER_CYCLES] // c[TRANSFER_BYTES]
        push(c, m, issued + c[IDEAL_LATENCY], number)
        return issued
    g = max(-(-start * c[CORE_PS] // c[MEMORY_PS]), m[FRONT])
    if m[OUT] == 1:
        advance(c, m, g)  # only refreshes can be due
    g = _issue(c, m, (number << SLICE_PLACE) | write, address, size, g) + 1
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
        return pop(c, m)
    bound = np.int64(FOREVER) if limit >= FOREVER else limit * c[CORE_PS] // c[MEMORY_PS]
    while True:
        # a command at ADVANCED or later cannot return before ADVANCED + LOOKAHEAD
        known = m[ADVANCED] + c[LOOKAHEAD] - 1
        if m[HEAP_SIZE] > 0 and m[c[HEAP_AT]] <= min(known, bound):
            time, number = pop(c, m)
            m[OUT] -= 1
            return -(-time * c[MEMORY_PS] // c[CORE_PS]), number
        if known >= bound:
            return limit, np.int64(-1)
        advance(c, m, min(m[ADVANCED] + c[LOOKAHEAD], bound - c[LOOKAHEAD] + 1))


def finish_memory(memory: MemoryState, core_cycles: int) -> MemoryState:
    """Let the refreshes that are due before the end of the run happen, so that they are counted."""
    if not memory.config[IDEAL]:
        advance(memory.config, memory.state, core_cycles * memory.config[CORE_PS] // memory.config[MEMORY_PS])
    return memory
