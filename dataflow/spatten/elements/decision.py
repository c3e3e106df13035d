"""LSB decision (sections III-D and IV): is the largest probability of the row below the threshold?"""

from collections import deque
from collections.abc import Callable

import simpy

from dataflow.spatten.elements.clock import Process
from dataflow.spatten.elements.fifo import Fifo
from dataflow.spatten.elements.head import Head, Query


class Decision:
    """Sees the row when its last probability is there (the max tree needs all of them).

    A flagged row is thrown away; the first one of a head asks for the LSBs of its keys; when they are there
    the query goes back to Q x K, and what it computes then takes the place of the first row.  Accumulators take
    a good row at once; for local top-k and prob x V it waits in the FIFO until all queries before it are good:
    "the modules after it idle until the recomputed ones arrive", the RTL keeps the order.
    """

    def __init__(
        self,
        env: simpy.Environment,
        fetch_lsb: Callable[[Head], None],
        again: Callable[[Query], None],
        accumulate: Callable[[Query], None],
        go_on: Callable[[Query], None],
    ) -> None:
        self.env, self.fetch_lsb, self.again = env, fetch_lsb, again
        self.accumulate, self.go_on = accumulate, go_on
        self.expected: deque[Query] = deque()
        self.good: set[Query] = set()

    def expect(self, query: Query) -> None:
        """The next query in the order of the work."""
        self.expected.append(query)

    def take(self, query: Query) -> None:
        """The row of probabilities is whole."""
        if query.flagged and not query.again:
            self._refetch(query)
            return
        self.accumulate(query)
        self.good.add(query)
        while self.expected and self.expected[0] in self.good:
            self.good.remove(self.expected[0])
            self.go_on(self.expected.popleft())

    def _refetch(self, query: Query) -> None:
        if not query.head.lsb_asked:
            query.head.lsb_asked = True
            self.fetch_lsb(query.head)
        self.env.process(self._recompute(query))

    def _recompute(self, query: Query) -> Process:
        yield query.head.lsb_here
        query.again = True
        self.again(query)


def admission(fifo: Fifo, refetches: bool) -> Callable[[Query], bool]:
    """Who may start on the way into that FIFO.

    Without refetches anyone: a full FIFO stops him half-way. With refetches a row on its first pass starts only
    when there is room for the whole of it, or it would stand in the way of a recomputed one for which it waits.
    """

    def fits(query: Query) -> bool:
        if not refetches or query.again:
            return True
        if not fifo.room(query.head.keys):
            return False
        fifo.promise(query.head.keys)
        return True

    return fits
