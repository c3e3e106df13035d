"""Toy worlds: plans written by hand, run on both engines."""

from collections.abc import Iterable, Sequence

import numpy as np

from sim.compiled import run_compiled
from sim.dram import DramSpec, IdealSpec, MemoryState
from sim.engine import Simulation
from sim.plan import NO_SLICES, Plan, Slices, Times, Unit

QUIET = IdealSpec(transfer_bytes=8, latency_cycles=10, burst_bytes=32)
Task = tuple[int, int, Sequence[int]]
Log = list[tuple[int, int, int]]


def world(units: Sequence[Unit], tasks: Iterable[Task], slices: Slices = NO_SLICES, memory_unit: int = -1) -> Plan:
    """A plan of (unit, amount, inputs); an input d waits for the result of d, ~d for its leaving."""
    unit, amount, inputs = zip(*tasks, strict=True)
    ptr = np.concatenate([[0], np.cumsum([len(i) for i in inputs])]).astype(np.int32)
    dep = np.array([d for i in inputs for d in i], np.int32)
    plan = Plan(tuple(units), np.array(unit, np.int32), np.array(amount, np.int32), ptr, dep, memory_unit, slices)
    plan.check()
    return plan


def reads(*sizes: int) -> Slices:
    """Slices of one segment each, one kilobyte apart."""
    n = len(sizes)
    address = np.arange(n, dtype=np.int64) * 1024
    zeros = np.zeros(n, np.int64)
    return Slices(np.arange(n + 1), address, np.array(sizes, np.int64), zeros.astype(np.uint8), zeros, ("data",))


def log_of(times: Times) -> Log:
    """(start, free, finish) of each task."""
    return list(zip(times.start.tolist(), times.free.tolist(), times.finish.tolist(), strict=True))


def difference(plan: Plan, memory: DramSpec | IdealSpec, run_a: object, run_b: object) -> str:
    """The first task whose times differ between two ways to run, or the command counts; "" if there is none."""
    (a, state_a), (b, state_b) = (run(plan, memory) for run in (run_a, run_b))  # type: ignore[operator]
    for task, (one, other) in enumerate(zip(log_of(a), log_of(b), strict=True)):
        if one != other:
            return f"task {task} of unit {plan.units[plan.unit[task]].name}: {one} and {other}"
    return "" if state_a.commands == state_b.commands else f"{state_a.commands} and {state_b.commands}"


def run_simpy(plan: Plan, memory: DramSpec | IdealSpec) -> tuple[Times, MemoryState]:
    """`run_compiled`, on the readable engine."""
    return Simulation(plan, memory).run()


def run_both(plan: Plan, memory: DramSpec | IdealSpec = QUIET) -> Log:
    """The log on which both engines agree."""
    assert not difference(plan, memory, run_compiled, run_simpy)
    return log_of(run_compiled(plan, memory)[0])
