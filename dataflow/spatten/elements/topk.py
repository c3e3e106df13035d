"""Top-k engine (section IV-B, Alg. 3, Figs. 9 and 10): quick-select, then a zero eliminator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import simpy

from accel.spatten import TopK
from dataflow.spatten.elements.clock import Process, Turn
from dataflow.spatten.elements.fifo import Fifo, Pipeline, groups
from dataflow.spatten.elements.head import Log
from dataflow.spatten.topk import next_random


@dataclass(eq=False)
class Selection:
    """Find the `keep` largest of `values`.

    stage, key   names in the log (stage: "value_topk" or "topk"; the filter of it likewise)
    order        of two selections that are ready in the same cycle the smaller one goes first
    seed         of the pivots (the same as the planner's, so that both see the same passes)
    source       FIFO from which the values come; None: they lie in the accumulators
    sink         FIFO for the winners; None: they go to the fetcher as positions
    done         called when the winners are known
    """

    stage: str
    key: tuple[int, ...]
    order: tuple[int, ...]
    values: Sequence[float]
    keep: int
    seed: int
    source: Fifo | None
    sink: Fifo | None
    done: Callable[[], None]
    filtered: tuple[int, int] = (0, 0)

    @property
    def filter_stage(self) -> str:
        """Name of the zero eliminator behind."""
        return {"value_topk": "value_filter", "topk": "topk_filter"}[self.stage]


class QuickSelect:
    """Comparator arrays: a pass sends the survivors past a random pivot into FIFO_L or FIFO_R (lists here)."""

    def __init__(self, env: simpy.Environment, spec: TopK, log: Log) -> None:
        self.env, self.spec, self.log = env, spec, log
        self.turn: Turn[Selection] = Turn(env)
        self.eliminator = ZeroEliminator(env, spec.comparators, log)
        env.process(self.run())

    def ask(self, selection: Selection) -> None:
        """Its values are there."""
        self.turn.ask(selection.order, selection)

    def run(self) -> Process:
        """Selection after selection; the winners are picked in the stage behind, while the next one runs."""
        while True:
            selection = yield from self.turn.next()
            start = self.env.now
            yield from self._search(selection)
            yield self.eliminator.rows.put(selection)
            self.log.add(selection.stage, selection.key, start, self.env.now, self.env.now)

    def _search(self, selection: Selection) -> Process:
        """Alg. 3: until the k-th largest value is known, and how many equal to it stay."""
        survivors, keep = list(selection.values), selection.keep
        state, source = selection.seed, selection.source
        while True:
            state, bits = next_random(np.uint64(state))
            pivot = survivors[(int(bits) >> 33) * len(survivors) >> 31]
            larger, smaller, equal = yield from self._pass(survivors, pivot, source)
            source = None  # from now on they come from FIFO_L or FIFO_R
            if len(larger) < keep <= len(larger) + equal:
                return
            if keep <= len(larger):
                survivors = larger
            else:
                survivors, keep = smaller, keep - len(larger) - equal

    def _pass(self, survivors: list[float], pivot: float, source: Fifo | None) -> Process:
        """`comparators` values a cycle; the pivot, the counts and the turn of the FIFOs cost the overhead."""
        larger: list[float] = []
        smaller: list[float] = []
        for first in range(0, len(survivors), self.spec.comparators):
            lanes = survivors[first : first + self.spec.comparators]
            if source:
                yield from source.get(len(lanes))
            yield self.env.timeout(1)
            larger += [value for value in lanes if value > pivot]
            smaller += [value for value in lanes if value < pivot]
        yield self.env.timeout(self.spec.pass_overhead_cycles)
        return larger, smaller, len(survivors) - len(larger) - len(smaller)


class ZeroEliminator:
    """Zeroes what is below the threshold and closes the gaps: log2(lanes) shifts by 1, 2, 4... (Fig. 10).

    It reads the input once more from the engine's buffer; winners keep their order. One row waits before it.
    """

    def __init__(self, env: simpy.Environment, lanes: int, log: Log) -> None:
        self.env, self.lanes, self.log = env, lanes, log
        self.rows = simpy.Store(env, capacity=1)
        self.shifts = (lanes - 1).bit_length()
        self.positions = Fifo(env, "winners", 1 << 24)
        self.pipelines: dict[Fifo, Pipeline] = {}
        env.process(self.run())

    def run(self) -> Process:
        """Row after row."""
        while True:
            selection = yield self.rows.get()
            start, read, sent = self.env.now, 0, 0
            pipeline = self._into(selection.sink or self.positions)
            for values in groups(len(selection.values), self.lanes):
                yield self.env.timeout(1)
                read += values
                winners = selection.keep * read // len(selection.values) - sent  # evenly spread
                yield from pipeline.enter(winners)
                sent += winners
                if read == len(selection.values):
                    selection.filtered = (start, int(self.env.now))
                pipeline.send(winners, selection if read == len(selection.values) else None)

    def _into(self, sink: Fifo) -> Pipeline:
        """The shift stages, seen from where their output goes."""
        if sink not in self.pipelines:
            self.pipelines[sink] = Pipeline(self.env, self.shifts, sink, self._whole)
        return self.pipelines[sink]

    def _whole(self, selection: Selection) -> None:
        if selection.sink is None:
            self.positions.take(selection.keep)
        self.log.add(selection.filter_stage, selection.key, *selection.filtered, self.env.now)
        selection.done()
