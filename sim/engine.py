"""The readable engine: a Plan as SimPy processes. `sim.compiled` must give the same cycles for every task."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import simpy

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
from sim.dram.layout import CORE_PS, IDEAL, LOOKAHEAD, MEMORY_PS
from sim.plan import OLDEST_READY, Plan, Times

Process = Generator[simpy.Event, Any, None]
_AFTER_ARRIVALS = 2  # SimPy orders events of one time by priority; 0 is urgent, 1 normal


def after_arrivals(env: simpy.Environment) -> simpy.Event:
    """An event of the present time that comes after every normal event of that time."""
    event = env.event()
    event._ok, event._value = True, None
    env.schedule(event, priority=_AFTER_ARRIVALS)
    return event


class Simulation:
    """One run of a plan; `run()` gives the times."""

    def __init__(self, plan: Plan, memory: DramSpec | IdealSpec) -> None:
        self.plan, self.env = plan, simpy.Environment()
        self.times = Times(*(np.full(len(plan), -1, np.int64) for _ in range(3)))
        self.freed = [self.env.event() for _ in range(len(plan))]
        self.finished = [self.env.event() for _ in range(len(plan))]
        self.memory = MemoryPort(self.env, plan, memory, self._finish)

    def run(self) -> tuple[Times, MemoryState]:
        """Simulate until the last result is usable."""
        tasks = defaultdict(list)
        for task, unit in enumerate(self.plan.unit):
            tasks[int(unit)].append(task)
        for number, of_unit in tasks.items():
            unit = self.plan.units[number]
            serve = self._serve_oldest if unit.order == OLDEST_READY else self._serve_in_order
            self.env.process(serve(unit.lanes, of_unit))
        self.env.run()
        return self.times, self.memory.close(self.times.makespan)

    def _await_inputs(self, task: int) -> Process:
        plan = self.plan
        for dep in plan.dep[plan.dep_ptr[task] : plan.dep_ptr[task + 1]].tolist():
            event = self.finished[dep] if dep >= 0 else self.freed[~dep]
            if not event.processed:
                yield event

    def _serve_in_order(self, lanes: int, tasks: list[int]) -> Process:
        """Tasks start in index order; one that waits for its inputs holds up those behind it."""
        free = simpy.Container(self.env, init=lanes)
        for task in tasks:
            yield from self._await_inputs(task)
            yield free.get(1)
            self.env.process(self._hold(task, free))

    def _hold(self, task: int, lanes: simpy.Container) -> Process:
        yield from self._work(task)
        lanes.put(1)

    def _serve_oldest(self, lanes: int, tasks: list[int]) -> Process:
        """The task that has been ready longest takes a free lane, ties by index, after all arrivals of the cycle."""
        ready: list[tuple[int, int]] = []
        free = [lanes]
        bell = Bell(self.env)
        for task in tasks:
            self.env.process(self._queue_up(task, ready, bell))
        while True:
            yield from bell.wait()
            yield after_arrivals(self.env)
            while ready and free[0]:
                free[0] -= 1
                self.env.process(self._serve(heapq.heappop(ready)[1], free, bell))

    def _queue_up(self, task: int, ready: list[tuple[int, int]], bell: "Bell") -> Process:
        yield from self._await_inputs(task)
        heapq.heappush(ready, (int(self.env.now), task))
        bell.ring()

    def _serve(self, task: int, free: list[int], bell: "Bell") -> Process:
        yield from self._work(task)
        free[0] += 1
        bell.ring()

    def _work(self, task: int) -> Process:
        """Hold the lane for the cycles of the task; a slice is handed to the memory, which says for how long."""
        now, on_memory = int(self.env.now), self.plan.unit[task] == self.plan.memory_unit
        self.times.start[task] = now
        amount = int(self.plan.amount[task])
        yield self.env.timeout(self.memory.submit(amount) if on_memory else amount)
        self.times.free[task] = self.env.now
        self.freed[task].succeed()
        if not on_memory:
            self.env.process(self._finish(task))

    def _finish(self, task: int) -> Process:
        """The result is usable after the latency of the unit."""
        yield self.env.timeout(self.plan.units[self.plan.unit[task]].latency)
        self.times.finish[task] = self.env.now
        self.finished[task].succeed()


class Bell:
    """Wakes one process that waits for any news; news that come while nobody waits are kept."""

    def __init__(self, env: simpy.Environment) -> None:
        self.env, self.event = env, env.event()

    def ring(self) -> None:
        if not self.event.triggered:
            self.event.succeed()

    def wait(self) -> Process:
        yield self.event
        self.event = self.env.event()


class MemoryPort:
    """The DRAM controller of `sim.dram` as seen from SimPy."""

    def __init__(
        self,
        env: simpy.Environment,
        plan: Plan,
        memory: DramSpec | IdealSpec,
        finish: Callable[[int], Process],
    ) -> None:
        self.env, self.slices, self.finish = env, plan.slices, finish
        self.controller = start_memory(memory, len(plan.slices), bool(plan.slices.write.any()))
        self.config, self.state = self.controller.config, self.controller.state
        self.task = np.flatnonzero(plan.unit == plan.memory_unit)
        self.out, self.bell = 0, Bell(env)
        env.process(self._deliver())

    def submit(self, number: int) -> int:
        """Hand over a slice now; returns the cycles until its last request has left."""
        part = slice(self.slices.ptr[number], self.slices.ptr[number + 1])
        address, size = self.slices.address[part], self.slices.size_bytes[part]
        now = int(self.env.now)
        issued = submit(self.config, self.state, NO_TRACE, number, self.slices.write[number], address, size, now)
        self.out += 1
        self.bell.ring()
        return int(issued) - now

    def close(self, makespan: int) -> MemoryState:
        return finish_memory(self.controller, makespan)

    def _safe(self) -> int:
        """Until when returns can be known now: nothing that is handed over from now on comes back before."""
        if self.config[IDEAL]:
            return FOREVER
        return int(self.env.now) + int((self.config[LOOKAHEAD] - 1) * self.config[MEMORY_PS] // self.config[CORE_PS])

    def _deliver(self) -> Process:
        """Finish each slice in the cycle of its last data."""
        while True:
            while not self.out:
                yield from self.bell.wait()
            until = self._safe()
            back, number = next_return(self.config, self.state, NO_TRACE, until)
            yield self.env.timeout(max(int(back) - int(self.env.now), 0 if number >= 0 else 1))
            if number >= 0:
                self.out -= 1
                self.env.process(self.finish(int(self.task[number])))
