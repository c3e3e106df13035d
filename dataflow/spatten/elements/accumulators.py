"""Importance accumulators (section IV-B): a row of probabilities is added to the scores of its tokens."""

import simpy

from dataflow.spatten.elements.clock import Process
from dataflow.spatten.elements.fifo import groups
from dataflow.spatten.elements.head import Log, Query


class Accumulators:
    """One a softmax lane; beside the pipeline, with probabilities that the LSB decision has let through."""

    def __init__(self, env: simpy.Environment, lanes: int, log: Log) -> None:
        self.env, self.lanes, self.log, self.rows = env, lanes, log, simpy.Store(env)
        env.process(self.run())

    def take(self, query: Query) -> None:
        """Its row of probabilities is good."""
        self.rows.put(query)

    def run(self) -> Process:
        """Row after row."""
        while True:
            query = yield self.rows.get()
            start = self.env.now
            for _ in groups(query.head.keys, self.lanes):
                yield self.env.timeout(1)
            self.log.add("accumulator", query.key, start, self.env.now, self.env.now)
            query.head.summed.tick()
