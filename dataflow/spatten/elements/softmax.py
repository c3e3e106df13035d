"""Softmax (section IV-D): `lanes` scores a cycle through dequantize, exponential, sum, divide, quantize."""

from collections.abc import Callable

import simpy

from accel.spatten import Softmax as SoftmaxSpec
from dataflow.spatten.elements.clock import Process, Turn
from dataflow.spatten.elements.fifo import Fifo, Pipeline, groups
from dataflow.spatten.elements.head import Log, Query


class Softmax:
    """Takes a row when all of its scores are in the FIFO, in the order of their arrival."""

    def __init__(
        self,
        env: simpy.Environment,
        spec: SoftmaxSpec,
        scores: Fifo,
        probabilities: Fifo,
        deliver: Callable[[Query], None],
        log: Log,
        fits: Callable[[Query], bool],
    ) -> None:
        """fits   may the row start? (`decision.admission`)"""
        self.env, self.log, self.lanes, self.scores, self.deliver = env, log, spec.lanes, scores, deliver
        self.stages = Pipeline(env, spec.latency_cycles, probabilities, self._whole)
        self.fits, self.probabilities = fits, probabilities
        self.turn: Turn[Query] = Turn(env)
        self.taken: dict[Query, tuple[int, int]] = {}
        env.process(self.run())

    def take(self, query: Query) -> None:
        """Its row of scores is whole."""
        self.turn.ask(query.order, query)

    def run(self) -> Process:
        """Row after row."""
        while True:
            query = yield from self.turn.next(self.fits, self.probabilities)
            start, rest = self.env.now, query.head.keys
            for scores in groups(query.head.keys, self.lanes):
                rest -= scores
                scores = query.needs(scores)
                yield from self.scores.get(scores)
                yield self.env.timeout(1)
                yield from self.stages.enter(scores)
                if not rest:
                    self.taken[query] = (int(start), int(self.env.now))
                self.stages.send(scores, None if rest else query)

    def _whole(self, query: Query) -> None:
        self.log.add("softmax", query.key, *self.taken.pop(query), self.env.now)
        self.deliver(query)
