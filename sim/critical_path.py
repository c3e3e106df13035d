"""What the makespan was spent on: the chain of tasks that ends last, walked back to time 0."""

import numpy as np
from numba import njit

from sim.plan import Plan, Times

_NEAR = 256  # a unit that was busy is the cause before an input that came in the same cycle; looked for this far


@njit(cache=True)
def _held_before(t, unit, start, free, reach):  # type: ignore[no-untyped-def]
    """The task of t's unit that left when t took its lane, at most `reach` away in the plan; -1 if there is none."""
    for distance in range(1, reach):
        for other in (t - distance, t + distance):
            if (
                0 <= other < len(unit)
                and unit[other] == unit[t]
                and free[other] == start[t]
                and start[other] < start[t]
            ):
                return other
    return -1


@njit(cache=True)
def _walk(unit, dep_ptr, dep, start, free, finish, held, latency):  # type: ignore[no-untyped-def]
    """Add up, by unit, the cycles that the chain spent in it and in waiting for its results."""
    t = np.argmax(finish)
    until, through_result = finish[t], True
    while True:
        u = unit[t]
        left = min(free[t], until)
        held[u] += left - start[t]
        if through_result:
            latency[u] += until - left
        if start[t] == 0:
            return
        until, through_result = start[t], False
        previous = _held_before(t, unit, start, free, min(_NEAR, len(unit)))
        for i in range(dep_ptr[t], dep_ptr[t + 1] if previous < 0 else 0):
            d = np.int64(dep[i])
            if d >= 0 and finish[d] == until:
                previous, through_result = d, True
                break
            if d < 0 and free[~d] == until:
                previous, through_result = ~d, False
                break
        if previous < 0:
            previous = _held_before(t, unit, start, free, len(unit))
        if previous < 0:  # held up by the order of its unit: the task before started in the same cycle
            previous = t - 1
            while unit[previous] != u or start[previous] != until:
                previous -= 1
        t = previous


def critical_path(plan: Plan, times: Times) -> dict[str, int]:
    """Cycles of the makespan by what they were spent on; adds up to the makespan.

    `<unit>`: the chain was being worked on there; `<unit>_latency`: it waited for the result to come out.
    For a fetcher that is the sending of requests and the way to the DRAM and back.
    """
    held, latency = np.zeros(len(plan.units), np.int64), np.zeros(len(plan.units), np.int64)
    if len(plan):
        _walk(plan.unit, plan.dep_ptr, plan.dep, times.start, times.free, times.finish, held, latency)
    spent = {unit.name: int(cycles) for unit, cycles in zip(plan.units, held, strict=True)}
    spent |= {f"{unit.name}_latency": int(cycles) for unit, cycles in zip(plan.units, latency, strict=True)}
    return {name: cycles for name, cycles in spent.items() if cycles}
