"""Finished slices, ordered by the time of their last data."""


from sim.dram.jit import inlined, jitted
from sim.dram.layout import HEAP_AT, HEAP_SIZE


@inlined
def _before(time, number, m, at):  # type: ignore[no-untyped-def]
    return time < m[at] or (time == m[at] and number < m[at + 1])


@jitted
def push(c, m, time, number):  # type: ignore[no-untyped-def]
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


@jitted
def pop(c, m):  # type: ignore[no-untyped-def]
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
