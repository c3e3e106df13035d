"""What the makespan was spent on: every cycle once, by hand and at random."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.compiled import run_compiled
from sim.critical_path import critical_path
from sim.dram import IdealSpec
from sim.plan import OLDEST_READY, Plan, Unit
from tests.sim.random_plans import random_memory, random_plan
from tests.sim.worlds import QUIET, log_of, reads, run_simpy, world


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400))
def test_parts_add_up_to_the_makespan(seed: int, tasks: int) -> None:
    rng = np.random.default_rng(seed)
    plan, memory = random_plan(rng, tasks), random_memory(rng)
    times, _ = run_compiled(plan, memory)
    before = log_of(times)
    spent = critical_path(plan, times)
    assert sum(spent.values()) == times.makespan
    assert all(cycles > 0 for cycles in spent.values())
    assert log_of(times) == before
    for unit, used in zip(plan.units, np.bincount(plan.unit, times.free - times.start, len(plan.units)), strict=True):
        assert spent.get(unit.name, 0) <= used
    if seed % 10 == 0:
        assert critical_path(plan, run_simpy(plan, memory)[0]) == spent


def spent_in(plan: Plan, memory: IdealSpec = QUIET) -> dict[str, int]:
    return critical_path(plan, run_compiled(plan, memory)[0])


def test_a_chain_is_work_and_latency_of_its_units() -> None:
    plan = world([Unit("a", latency=3), Unit("b", latency=1)], [(0, 4, []), (1, 1, []), (1, 5, [0])])
    assert spent_in(plan) == {"a": 4, "a_latency": 3, "b": 5, "b_latency": 1}


def test_a_busy_unit_is_the_cause_and_not_the_input_that_waited() -> None:
    """b works from 1 to 13 without a break: three tasks of 4, whose inputs came at 1, 2 and 3."""
    tasks = [(0, 1, []), (0, 1, []), (0, 1, []), (1, 4, [0]), (1, 4, [1]), (1, 4, [2])]
    assert spent_in(world([Unit("a"), Unit("b")], tasks)) == {"a": 1, "b": 12}


def test_an_arbitrated_unit_may_have_served_a_later_task_before() -> None:
    """Task 1 is ready at 3; task 2, ready at 0, holds u until 5: u is the cause from 0 to 6."""
    units = [Unit("a"), Unit("u", 1, OLDEST_READY)]
    assert spent_in(world(units, [(0, 3, []), (1, 1, [0]), (1, 5, [])])) == {"u": 6}


def test_waiting_for_room_ends_when_the_task_leaves() -> None:
    """The latency of a is not waited for."""
    plan = world([Unit("a", latency=2), Unit("b")], [(0, 4, []), (1, 7, [~0])])
    assert spent_in(plan) == {"a": 4, "b": 7}


def test_held_up_by_the_order_of_the_unit() -> None:
    """Task 2 starts with task 1, in the other lane, which waited for a."""
    plan = world([Unit("a"), Unit("b", lanes=2)], [(0, 5, []), (1, 1, [0]), (1, 9, [])])
    assert spent_in(plan) == {"a": 5, "b": 9}


def test_a_slice_is_sending_and_the_way_back() -> None:
    """32 bytes: 4 cycles to send, 10 for the memory and 2 in the fetcher to come back."""
    units = [Unit("fetcher", 1, OLDEST_READY, 2), Unit("a")]
    assert spent_in(world(units, [(0, 0, []), (1, 1, [0])], reads(32), 0)) == {
        "fetcher": 4,
        "fetcher_latency": 12,
        "a": 1,
    }


@pytest.mark.parametrize("tasks", [0, 1])
def test_nothing_takes_no_time(tasks: int) -> None:
    no = np.zeros(tasks, np.int32)
    plan = Plan((Unit("a"),), no, no, np.zeros(tasks + 1, np.int32), np.zeros(0, np.int32))
    assert spent_in(plan) == {}
