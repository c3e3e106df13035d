"""What stands between the stages: FIFOs that fill up, and pipelines that take their cycles."""

from collections.abc import Callable, Iterator
from typing import Any

import simpy

from dataflow.spatten.elements.clock import Process


def groups(elements: int, at_once: int) -> Iterator[int]:
    """`elements` in portions of `at_once`, the last one smaller: what the lanes of a stage take cycle by cycle."""
    for done in range(0, elements, at_once):
        yield min(at_once, elements - done)


class Fifo:
    """A bounded FIFO of elements; a full one stops whoever puts, an empty one whoever gets.

    It counts elements and does not carry their values.  `peak` is the highest level that was ever seen.
    Whoever must not get stuck half-way asks for `room` and makes a `promise` of a whole row first.
    """

    def __init__(self, env: simpy.Environment, name: str, depth: int) -> None:
        self.env, self.name, self.depth = env, name, depth
        self.level, self.promised, self.peak, self.moved = 0, 0, 0, env.event()

    def put(self, elements: int) -> Process:
        """`yield from fifo.put(8)`: all at once, as soon as there is room for all."""
        while self.level + elements > self.depth:
            yield self.moved
        self._move(elements)

    def get(self, elements: int) -> Process:
        """`yield from fifo.get(8)`: all at once, as soon as so many are there."""
        while self.level < elements:
            yield self.moved
        self.take(elements)

    def take(self, elements: int) -> None:
        """Elements that are known to be there; what was promised to them is free again."""
        self.promised = max(0, self.promised - elements)
        self._move(-elements)

    def room(self, elements: int) -> bool:
        """There is room for so many beside what is promised."""
        return self.promised + elements <= self.depth

    def promise(self, elements: int) -> None:
        """Room for so many that are still to come."""
        self.promised += elements

    def _move(self, elements: int) -> None:
        self.level += elements
        assert 0 <= self.level <= self.depth, f"{self.name}: {self.level} of {self.depth}"
        self.peak = max(self.peak, self.level)
        moved, self.moved = self.moved, self.env.event()
        moved.succeed()


class Pipeline:
    """The registers of a stage: `latency` places, one group a place; a group moves on as soon as the next is free.

    At its end one group a cycle goes into `out`; with the last group of a row, `whole(row)` is called: the
    stage behind works on whole rows (store and forward, decision 3).
    """

    def __init__(self, env: simpy.Environment, latency: int, out: Fifo, whole: Callable[[Any], None]) -> None:
        self.env, self.latency, self.out, self.whole = env, latency, out, whole
        self.places = simpy.Container(env, latency, latency) if latency else None
        self.line, self.next_out = simpy.Store(env), 0
        if self.places:
            env.process(self._move(self.places))

    def enter(self, elements: int) -> Process:
        """`yield from pipeline.enter(8)`: wait for the first place; without any place, for room behind."""
        if self.places is None:
            yield from self.out.put(elements)
        else:
            yield self.places.get(1)

    def send(self, elements: int, row: Any = None) -> None:
        """On their way; `row` with the last group of it."""
        if self.places is not None:
            self.line.put((int(self.env.now) + self.latency, elements, row))
        elif row is not None:
            self.whole(row)

    def _move(self, places: simpy.Container) -> Process:
        """One group a cycle leaves, where there is room for it."""
        while True:
            at_end, elements, row = yield self.line.get()
            yield self.env.timeout(max(0, max(at_end, self.next_out) - int(self.env.now)))
            yield from self.out.put(elements)
            self.next_out = int(self.env.now) + 1
            yield places.put(1)
            if row is not None:
                self.whole(row)
