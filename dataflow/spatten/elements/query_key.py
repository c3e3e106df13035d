"""Q x K array (section IV-D): a query against multipliers / D keys a cycle, an adder tree behind."""

from collections.abc import Callable

import simpy

from accel.spatten import Multipliers
from dataflow.spatten.elements.clock import Process, Turn
from dataflow.spatten.elements.fifo import Fifo, Pipeline, groups
from dataflow.spatten.elements.head import Log, Query


def vectors_at_once(multipliers: int, head_size: int) -> tuple[int, int]:
    """(vectors, cycles): so many vectors of head_size elements go through the array in so many cycles."""
    if multipliers >= head_size:
        return multipliers // head_size, 1
    return 1, -(-head_size // multipliers)


class QueryKey:
    """Takes the oldest query whose K and Q are there; its scores leave through the adder tree.

    After the last query of a register (of a head) that register (that half of the K memory) is free; a query
    whose LSBs are missing comes again, so K and Q stay for it.
    """

    def __init__(
        self,
        env: simpy.Environment,
        spec: Multipliers,
        head_size: int,
        scores: Fifo,
        deliver: Callable[[Query], None],
        log: Log,
        fits: Callable[[Query], bool],
    ) -> None:
        """fits   may the query start? (`decision.admission`)"""
        self.env, self.log, self.deliver, self.fits, self.scores = env, log, deliver, fits, scores
        self.keys, self.cycles = vectors_at_once(spec.multipliers, head_size)
        self.tree = Pipeline(env, spec.latency_cycles, scores, self._whole)
        self.turn: Turn[Query] = Turn(env)
        self.taken: dict[Query, tuple[int, int]] = {}
        env.process(self.run())

    def run(self) -> Process:
        """Query after query."""
        while True:
            query = yield from self.turn.next(self.fits, self.scores)
            start, rest = self.env.now, query.head.keys
            for keys in groups(query.head.keys, self.keys):
                yield self.env.timeout(self.cycles)
                scores = query.needs(keys)
                yield from self.tree.enter(scores)
                rest -= keys
                if not rest:
                    self._leave(query, start)
                self.tree.send(scores, None if rest else query)

    def _leave(self, query: Query, start: int) -> None:
        self.taken[query] = (start, int(self.env.now))
        if query.again or not query.flagged:
            query.block.tick()
            query.head.computed.tick()

    def _whole(self, query: Query) -> None:
        self.log.add("query_key", query.key, *self.taken.pop(query), self.env.now)
        self.deliver(query)
