"""K and V memories with their halves, and the registers for blocks of Q: filled in turn, one after another."""

from collections.abc import Callable, Sequence

import simpy

from dataflow.spatten.elements.clock import Process


class Halves:
    """A multiple buffer: the n-th user takes place n modulo `places`, when its user before has gone."""

    def __init__(self, env: simpy.Environment, places: int) -> None:
        self.env, self.users = env, 0
        self.gone = [env.event().succeed() for _ in range(places)]

    def enter(self, gone: simpy.Event) -> simpy.Event:
        """Event: the place is free. `gone`: the new user has left. To be called in the order of use."""
        place = self.users % len(self.gone)
        self.users += 1
        free, self.gone[place] = self.gone[place], gone
        return free


def when(events: Sequence[simpy.Event], act: Callable[[], None]) -> Process:
    """Do that as soon as all of it has happened."""
    yield from events
    act()
