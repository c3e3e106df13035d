"""prob x V (section IV-D): probabilities times V vectors, multipliers / D vectors a cycle, and the sum over them."""

import simpy

from accel.spatten import Multipliers
from dataflow.spatten.elements.clock import Process, Turn
from dataflow.spatten.elements.fifo import Fifo, groups
from dataflow.spatten.elements.head import Log, Query
from dataflow.spatten.elements.query_key import vectors_at_once


class ProbValue:
    """Takes the oldest row whose probabilities and V vectors are there."""

    def __init__(
        self,
        env: simpy.Environment,
        spec: Multipliers,
        head_size: int,
        sources: tuple[Fifo, Fifo],
        log: Log,
    ) -> None:
        """sources   probabilities of whole rows; those that the local top-k left"""
        self.env, self.latency, self.sources, self.log = env, spec.latency_cycles, sources, log
        self.vectors, self.cycles = vectors_at_once(spec.multipliers, head_size)
        self.turn: Turn[Query] = Turn(env)
        env.process(self.run())

    def take(self, query: Query) -> None:
        """Its probabilities are there: it waits for V."""
        self.env.process(self._await_values(query))

    def _await_values(self, query: Query) -> Process:
        yield query.head.value_here
        self.turn.ask(query.order, query)

    def run(self) -> Process:
        """Row after row."""
        while True:
            query = yield from self.turn.next()
            start, source = self.env.now, self.sources[query.head.selects]
            for vectors in groups(query.head.values, self.vectors):
                yield from source.get(vectors)
                yield self.env.timeout(self.cycles)
            query.head.left.tick()
            self.env.process(self._add_up(query, start, self.env.now))

    def _add_up(self, query: Query, start: int, left: int) -> Process:
        """Adder trees and the accumulation over groups of vectors."""
        yield self.env.timeout(self.latency)
        self.log.add("prob_value", query.key, start, left, self.env.now)
        query.head.weighted.tick()
