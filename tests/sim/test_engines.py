"""The two engines: equal on random plans, and right on worlds small enough to follow by hand."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sim.compiled
from sim.compiled import run_compiled
from sim.dram import IdealSpec
from sim.plan import IN_ORDER, NO_SLICES, OLDEST_READY, Plan, Slices, Unit
from tests.sim.random_plans import random_memory, random_plan
from tests.sim.worlds import difference, log_of, reads, run_both, run_simpy, world

FETCHER = Unit("fetcher", 1, OLDEST_READY, 2)


@settings(max_examples=1000, derandomize=True, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 120))
def test_engines_agree_on_every_task_of_a_random_plan(seed: int, tasks: int) -> None:
    rng = np.random.default_rng(seed)
    plan, memory = random_plan(rng, tasks), random_memory(rng)
    plan.check()
    assert not difference(plan, memory, run_compiled, run_simpy)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_random_plan_keeps_the_rules_of_the_plan(seed: int) -> None:
    """Read off the times alone: inputs, lanes, order, and no lane idle while a task could start."""
    rng = np.random.default_rng(seed)
    plan, memory = random_plan(rng, 60), random_memory(rng)
    log = log_of(run_compiled(plan, memory)[0])
    ready = [
        max((log[d][2] if d >= 0 else log[~d][1] for d in plan.dep[a:b].tolist()), default=0)
        for a, b in pairwise(plan.dep_ptr.tolist())
    ]
    for number, unit in enumerate(plan.units):
        oldest = unit.order == OLDEST_READY
        of_unit = np.flatnonzero(plan.unit == number).tolist()
        order = sorted(of_unit, key=lambda t: (log[t][0], ready[t], t)) if oldest else of_unit
        lanes = [0] * unit.lanes
        for place, task in enumerate(order):
            start, free, finish = log[task]
            before = log[order[place - 1]][0] if place else 0
            assert start == max(ready[task], min(lanes), before)
            lanes[lanes.index(min(lanes))] = free
            if oldest:
                assert (ready[task], task) == min((ready[t], t) for t in order[place:] if ready[t] <= start)
            if number != plan.memory_unit:
                assert (free, finish) == (start + plan.amount[task], free + unit.latency)


def test_an_empty_plan_takes_no_time() -> None:
    no = np.zeros(0, np.int32)
    plan = Plan((Unit("a"),), no, no, np.zeros(1, np.int32), no)
    plan.check()
    assert run_compiled(plan, IdealSpec(1, 1, 32))[0].makespan == run_simpy(plan, IdealSpec(1, 1, 32))[0].makespan == 0


def test_in_order_unit_is_held_up_by_its_first_task() -> None:
    log = run_both(world([Unit("a"), Unit("b")], [(0, 5, []), (1, 2, [0]), (1, 1, [])]))
    assert log == [(0, 5, 5), (5, 7, 7), (7, 8, 8)]


def test_in_order_unit_with_lanes_still_starts_in_order() -> None:
    """The third task could start at 0 in the second lane, but its elder waits until 5; both start then."""
    log = run_both(world([Unit("a"), Unit("b", lanes=2)], [(0, 5, []), (1, 4, [0]), (1, 1, []), (1, 1, [])]))
    assert log == [(0, 5, 5), (5, 9, 9), (5, 6, 6), (6, 7, 7)]


def test_lanes_are_taken_as_they_come_free() -> None:
    """Two lanes: 5 and 2 start at once, 4 follows 2 at 2, 1 follows 5 at 5, the last follows at 6."""
    for order in (IN_ORDER, OLDEST_READY):
        log = run_both(world([Unit("b", 2, order)], [(0, n, []) for n in (5, 2, 4, 1, 1)]))
        assert log == [(0, 5, 5), (0, 2, 2), (2, 6, 6), (5, 6, 6), (6, 7, 7)]


def test_oldest_ready_goes_first_then_lowest_index() -> None:
    """u is busy until 4; its tasks 4..7 were ready at 3, 1, 2, 1: it takes 5, 7, 6, 4."""
    gates = [(0, n, []) for n in (3, 1, 2)]
    tasks = [(1, 4, []), (1, 1, [0]), (1, 1, [1]), (1, 1, [2]), (1, 1, [1])]
    log = run_both(world([Unit("gate", 3), Unit("u", 1, OLDEST_READY)], [*gates, *tasks]))
    assert [start for start, _, _ in log[3:]] == [0, 7, 4, 6, 5]


@pytest.mark.parametrize(("ready", "start"), [(3, 4), (4, 4), (5, 6)])
def test_a_tie_is_broken_by_index_only_in_the_same_cycle(ready: int, start: int) -> None:
    """The lane is free at 4, a younger task ready at 4: the elder wins at 3 and at 4, and is too late at 5."""
    tasks = [(0, ready, []), (0, 4, []), (1, 4, []), (1, 2, [0]), (1, 2, [1])]
    log = run_both(world([Unit("gate", 2), Unit("u", 1, OLDEST_READY)], tasks))
    assert log[3][0] == start


def test_decided_after_all_arrivals_of_the_cycle() -> None:
    """Task 4 arrives at 4 through two tasks of no cycles, later within the cycle than task 5, and is the elder."""
    units = [Unit("gate"), Unit("hop"), Unit("hop too"), Unit("u", 1, OLDEST_READY)]
    tasks = [(0, 4, []), (1, 0, [0]), (2, 0, [1]), (3, 4, []), (3, 1, [2]), (3, 1, [0])]
    log = run_both(world(units, tasks))
    assert log[4:] == [(4, 5, 5), (5, 6, 6)]


def test_latency_delays_the_result_and_not_the_room() -> None:
    tasks = [(0, 4, []), (1, 1, [0]), (2, 1, [~0]), (0, 1, [])]
    log = run_both(world([Unit("a", latency=3), Unit("b"), Unit("c")], tasks))
    assert log == [(0, 4, 7), (7, 8, 8), (4, 5, 5), (4, 5, 8)]


def test_waiting_for_room_closes_a_loop_of_two_buffers() -> None:
    """A producer of 1 cycle, a consumer of 3, two places between: item i waits until i - 2 has left the consumer."""
    items = [[(0, 1, [~(2 * i - 3)] if i > 1 else []), (1, 3, [2 * i])] for i in range(4)]
    log = run_both(world([Unit("producer"), Unit("consumer")], [task for item in items for task in item]))
    assert log[0::2] == [(0, 1, 1), (1, 2, 2), (4, 5, 5), (7, 8, 8)]
    assert log[1::2] == [(1, 4, 4), (4, 7, 7), (7, 10, 10), (10, 13, 13)]


def test_tasks_of_no_cycles_take_no_time() -> None:
    tasks = [(0, 0, []), (0, 0, [0]), (1, 2, [1]), (0, 0, [2]), (0, 0, [])]
    log = run_both(world([Unit("barrier"), Unit("a")], tasks))
    assert log == [(0, 0, 0), (0, 0, 0), (0, 2, 2), (2, 2, 2), (2, 2, 2)]


def test_slice_is_issued_then_returned() -> None:
    """32 bytes at 8 a cycle: issued at 4, back 10 later, through the fetcher 2 later. The next leaves at 4."""
    tasks = [(0, 0, []), (0, 1, []), (1, 1, [0]), (1, 1, [~1])]
    log = run_both(world([FETCHER, Unit("a", 2)], tasks, reads(32, 20), 0))
    assert log == [(0, 4, 16), (4, 7, 19), (16, 17, 17), (16, 17, 17)]


def test_slices_go_by_ready_time_not_by_number() -> None:
    """Slice 1 (task 2) waits for a until 3; slice 2 (task 3) is ready at 2 and goes first."""
    tasks = [(1, 3, []), (1, 2, []), (0, 0, [0]), (0, 1, [1])]
    log = run_both(world([FETCHER, Unit("a", 2)], tasks, reads(8, 8), 0))
    assert [log[2][:2], log[3][:2]] == [(3, 4), (2, 3)]


def test_data_that_return_in_a_cycle_count_as_its_arrivals() -> None:
    """The elder of u gets its data at 13, just when its lane comes free and the younger is ready."""
    units = [replace(FETCHER, latency=2), Unit("gate"), Unit("u", 1, OLDEST_READY)]
    tasks = [(0, 0, []), (1, 13, []), (2, 13, []), (2, 1, [0]), (2, 1, [1])]
    log = run_both(world(units, tasks, reads(8), 0))
    assert log[0] == (0, 1, 13)
    assert log[3:] == [(13, 14, 14), (14, 15, 15)]


def _plan(**changes: object) -> Plan:
    plan = world([FETCHER, Unit("a")], [(0, 0, []), (1, 1, [0]), (0, 1, [~1])], reads(32, 32), 0)
    return replace(plan, **changes)  # type: ignore[arg-type]


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


FAULTS = {
    "plan.dep: a task depends on itself or on a later task": {"dep": _ints(1, ~1)},
    "plan.dep: a task depends on itself or on a later": {"dep": _ints(0, ~2)},
    "plan.amount: must be >= 0": {"amount": _ints(0, -1, 1)},
    "plan.amount: memory tasks must name their slices": {"amount": _ints(1, 1, 0)},
    "plan.amount: must be >= 1 on": {"units": (FETCHER, Unit("a", 1, OLDEST_READY)), "amount": _ints(0, 0, 1)},
    "plan.units: the memory unit has one lane": {"units": (replace(FETCHER, lanes=2), Unit("a"))},
    "plan.units: the memory unit": {"units": (replace(FETCHER, order=IN_ORDER), Unit("a"))},
    "plan.slices: a slice must ask": {"slices": reads(32, 0)},
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_plan_that_breaks_the_rules_is_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _plan(**FAULTS[message]).check()


def test_a_slice_without_segments_is_refused() -> None:
    slices = replace(reads(32, 32), ptr=np.array([0, 2, 2]))
    with pytest.raises(ValueError, match="at least one byte"):
        _plan(slices=slices).check()


def test_a_plan_too_long_for_the_heap_keys_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim.compiled, "_TASK_BITS", 1)
    with pytest.raises(ValueError, match="must have fewer than 2 tasks, got 3"):
        run_compiled(_plan(), IdealSpec(1, 1, 32))


def test_no_slices_are_needed_without_a_memory() -> None:
    assert len(NO_SLICES) == 0
    assert isinstance(NO_SLICES, Slices)
