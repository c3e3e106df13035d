"""LSB decision (sections III-D and IV): is the largest probability of the row below the threshold?"""

from collections.abc import Callable

import simpy

from dataflow.spatten.elements.clock import Process
from dataflow.spatten.elements.fifo import Fifo
from dataflow.spatten.elements.head import Head, Query


class Decision:
    """Sees the row when its last probability is there (the max tree needs all of them).

    A flagged row is thrown away; the first one of a head asks for the LSBs of its keys; when they are there
    the query goes back to Q x K. What it computes then is good.
    """

    def __init__(
        self,
        env: simpy.Environment,
        probabilities: Fifo,
        fetch_lsb: Callable[[Head], None],
        again: Callable[[Query], None],
        good: Callable[[Query], None],
    ) -> None:
        self.env, self.probabilities = env, probabilities
        self.fetch_lsb, self.again, self.good = fetch_lsb, again, good

    def take(self, query: Query) -> None:
        """The row of probabilities is whole."""
        if query.again or not query.flagged:
            self.good(query)
            return
        self.probabilities.flush(query.head.keys)
        if not query.head.lsb_asked:
            query.head.lsb_asked = True
            self.fetch_lsb(query.head)
        self.env.process(self._recompute(query))

    def _recompute(self, query: Query) -> Process:
        yield query.head.lsb_here
        query.again = True
        self.again(query)
