"""The compiled twin of `sim.engine`: the same start and finish cycles for every task, in Numba.

Tasks of in-order units are a recurrence: the moment all inputs of the next one are known, so are its times,
however far ahead of the clock. Only units that arbitrate and the memory advance with time: the loop takes
the earliest decision that is pending, lets the memory return what is due before it, and makes it.
A task that lacks an input is chained to that one input and looked at again when it is known.
"""

import numpy as np
from numba import njit

from sim.dram import (
    FOREVER,
    NO_TRACE,
    DramSpec,
    IdealSpec,
    MemoryState,
    finish_memory,
    next_return,
    start_memory,
    submit,
)
from sim.plan import OLDEST_READY, Plan, Times

_TASK_BITS = 26  # heap keys hold (ready time, task) in one integer


@njit(cache=True)
def _ready(t, dep_ptr, dep, free, finish):  # type: ignore[no-untyped-def]
    """(time, -1) when all inputs of t are known, else (-1, the task it waits for)."""
    time = np.int64(0)
    for i in range(dep_ptr[t], dep_ptr[t + 1]):
        d = np.int64(dep[i])
        at = finish[d] if d >= 0 else free[~d]
        if at < 0:
            return np.int64(-1), d if d >= 0 else ~d
        time = max(time, at)
    return time, np.int64(-1)


@njit(cache=True)
def _heap_push(heap, n, key):  # type: ignore[no-untyped-def]
    while n > 0 and heap[(n - 1) >> 1] > key:
        heap[n] = heap[(n - 1) >> 1]
        n = (n - 1) >> 1
    heap[n] = key


@njit(cache=True)
def _heap_pop(heap, n):  # type: ignore[no-untyped-def]
    """Remove the smallest of n keys."""
    top, key, i = heap[0], heap[n - 1], 0
    while 2 * i + 1 < n - 1:
        k = 2 * i + 1
        if k + 1 < n - 1 and heap[k + 1] < heap[k]:
            k += 1
        if key <= heap[k]:
            break
        heap[i] = heap[k]
        i = k
    heap[i] = key
    return top


@njit(cache=True)
def _first_lane(lane_free, lanes):  # type: ignore[no-untyped-def]
    """The lane that is free first, ties by number."""
    lane = 0
    for i in range(1, lanes):
        if lane_free[i] < lane_free[lane]:
            lane = i
    return lane


@njit(cache=True)
def _wake(t, waiters, chained, stack, depth):  # type: ignore[no-untyped-def]
    """Put the tasks that waited for t on the stack; returns its new depth."""
    waiting = waiters[t]
    waiters[t] = -1
    while waiting >= 0:
        stack[depth] = waiting
        depth += 1
        waiting = chained[waiting]
    return depth


@njit(cache=True)
def _sort_tasks(unit, arbitrated):  # type: ignore[no-untyped-def]
    """(next task of the same in-order unit, first of each, where the heap of each unit begins)."""
    following = np.full(len(unit), -1, np.int32)
    first = np.full(len(arbitrated), -1, np.int32)
    heap_at = np.zeros(len(arbitrated) + 1, np.int64)
    for t in range(len(unit) - 1, -1, -1):
        u = unit[t]
        if arbitrated[u]:
            heap_at[u + 1] += 1
        else:
            following[t] = first[u]
            first[u] = t
    return following, first, np.cumsum(heap_at)


@njit(cache=True)
def _run(  # type: ignore[no-untyped-def]
    unit, amount, dep_ptr, dep, lanes, arbitrated, latency, memory_unit, slice_task, ptr, address, size, write,
    c, s, trace, start, free, finish,
):  # fmt: skip
    tasks, units = len(unit), len(lanes)
    following, first, heap_at = _sort_tasks(unit, arbitrated)
    waiters = np.full(tasks, -1, np.int32)  # first task that waits for this one ...
    chained = np.full(tasks, -1, np.int32)  # ... and the next that waits for the same
    stack = np.empty(tasks + units, np.int32)  # tasks to look at
    depth = 0
    for u in range(units):
        if first[u] >= 0:
            stack[depth] = first[u]
            depth += 1
    if heap_at[units] > 0:
        for task in range(tasks - 1, -1, -1):
            if arbitrated[unit[task]]:
                stack[depth] = task
                depth += 1
    heaps, filled = np.empty(heap_at[units], np.int64), np.zeros(units, np.int64)
    lane_free, last_start = np.zeros((units, lanes.max()), np.int64), np.zeros(units, np.int64)
    while True:
        while depth > 0:
            depth -= 1
            t = np.int64(stack[depth])
            u = unit[t]
            while t >= 0:
                ready, why = _ready(t, dep_ptr, dep, free, finish)
                if ready < 0:
                    chained[t] = waiters[why]
                    waiters[why] = t
                    break
                if arbitrated[u]:
                    _heap_push(heaps[heap_at[u] :], filled[u], (ready << _TASK_BITS) | t)
                    filled[u] += 1
                    break
                lane = _first_lane(lane_free[u], lanes[u])
                at = max(ready, max(lane_free[u, lane], last_start[u]))
                last_start[u] = at
                start[t] = at
                at += amount[t]
                free[t], finish[t] = at, at + latency[u]
                lane_free[u, lane] = at
                depth = _wake(t, waiters, chained, stack, depth)
                t = np.int64(following[t])
        chosen, chosen_lane, when = -1, 0, np.int64(FOREVER)
        for u in range(units):
            if filled[u] > 0:
                lane = _first_lane(lane_free[u], lanes[u])
                at = max(lane_free[u, lane], heaps[heap_at[u]] >> _TASK_BITS)
                if at < when:
                    chosen, chosen_lane, when = u, lane, at
        back, number = next_return(c, s, trace, when)
        if number >= 0:  # data arrive before anything is decided in that cycle
            t = slice_task[number]
            finish[t] = back + latency[memory_unit]
            depth = _wake(t, waiters, chained, stack, depth)
            continue
        if chosen < 0:
            return
        u, lane = chosen, chosen_lane
        key = _heap_pop(heaps[heap_at[u] :], filled[u])
        filled[u] -= 1
        t = key & ((1 << _TASK_BITS) - 1)
        start[t] = when
        if u == memory_unit:
            n = amount[t]
            segments = slice(ptr[n], ptr[n + 1])
            at = submit(c, s, trace, n, write[n], address[segments], size[segments], when)
        else:
            at = when + amount[t]
            finish[t] = at + latency[u]
        free[t] = at
        lane_free[u, lane] = at
        depth = _wake(t, waiters, chained, stack, depth)


def run_compiled(plan: Plan, memory: DramSpec | IdealSpec) -> tuple[Times, MemoryState]:
    """Times of all tasks, and the memory as the run left it. Raises ValueError for a plan of 2**26 tasks or more."""
    if len(plan) >= 1 << _TASK_BITS:
        raise ValueError(f"plan: must have fewer than {1 << _TASK_BITS} tasks, got {len(plan)}")
    controller = start_memory(memory, len(plan.slices), bool(plan.slices.write.any()))
    times = Times(*(np.full(len(plan), -1, np.int64) for _ in range(3)))
    sl = plan.slices
    _run(
        plan.unit, plan.amount, plan.dep_ptr, plan.dep,
        np.array([u.lanes for u in plan.units], np.int64),
        np.array([u.order == OLDEST_READY for u in plan.units]),
        np.array([u.latency for u in plan.units], np.int64),
        plan.memory_unit, np.flatnonzero(plan.unit == plan.memory_unit), sl.ptr, sl.address, sl.size_bytes, sl.write,
        controller.config, controller.state, NO_TRACE, times.start, times.free, times.finish,
    )  # fmt: skip
    return times, finish_memory(controller, times.makespan)
