"""Who is next: every unit that several want takes the one that has been ready longest (decision 3)."""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import simpy

if TYPE_CHECKING:
    from dataflow.spatten.elements.fifo import Fifo

Process = Generator[simpy.Event, Any, Any]
Item = TypeVar("Item")
_LAST = 2  # SimPy runs events of one time by priority: 0 urgent, 1 normal


def end_of_cycle(env: simpy.Environment) -> simpy.Event:
    """An event of this cycle that comes after everything else in it."""
    event = env.event()
    event._ok, event._value = True, None
    env.schedule(event, priority=_LAST)
    return event


def always(_: object) -> bool:
    """Nothing behind can be too full."""
    return True


class Turn(Generic[Item]):
    """Those who wait for a unit: the oldest first, of the same cycle the one with the smallest `order`."""

    def __init__(self, env: simpy.Environment) -> None:
        self.env = env
        self.waiting: list[tuple[int, tuple[int, ...], int, Item]] = []
        self.came, self.bell = 0, env.event()

    def ask(self, order: tuple[int, ...], item: Item) -> None:
        """Ready from now on."""
        self.waiting.append((int(self.env.now), order, self.came, item))
        self.came += 1
        if not self.bell.triggered:
            self.bell.succeed()

    def next(self, fits: Callable[[Item], bool] = always, fifo: "Fifo | None" = None) -> Process:
        """`item = yield from turn.next()`; decided when all arrivals of the cycle are known.

        Those that do not fit into the FIFO behind let the others pass.
        """
        while True:
            yield end_of_cycle(self.env)
            for place in sorted(self.waiting):
                if fits(place[3]):
                    self.waiting.remove(place)
                    return place[3]
            self.bell = self.env.event()
            yield self.bell | fifo.moved if fifo else self.bell
