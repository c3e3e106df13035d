"""Cascade token and head top-k (Alg. 2): behind the last head of a layer, in front of the next layer."""

from collections.abc import Callable, Sequence

import simpy

from dataflow.spatten.elements.buffers import when
from dataflow.spatten.elements.head import Head
from dataflow.spatten.elements.seeds import HEADS, TOKENS, Seeds
from dataflow.spatten.elements.topk import QuickSelect, Selection
from workloads.attention import AttentionWork

AFTER_QUERIES = 1 << 30  # a cascade top-k comes after all queries of its row


class Cascade:
    """Tokens compete when all heads have added their probabilities, heads when all outputs are there."""

    def __init__(self, env: simpy.Environment, work: AttentionWork, engine: QuickSelect, seeds: Seeds) -> None:
        self.env, self.work, self.engine, self.seeds = env, work, engine, seeds

    def select(self, heads: Sequence[Head]) -> list[simpy.Event]:
        """Start what is due after the last of these heads of a layer; events: the winners are known."""
        work, row, done = self.work, heads[-1].number, []
        if work.token_topk[row]:
            summed = [head.summed.done for head in heads]
            done.append(self._start(summed, row, TOKENS, self._scores(row), int(work.token_topk[row])))
        if work.head_topk[row]:
            outputs = [head.weighted.done for head in heads]
            ranks = range(0, -int(work.head_candidates[row]), -1)
            done.append(self._start(outputs, row, HEADS, ranks, int(work.head_topk[row])))
        return done

    def _scores(self, row: int) -> Sequence[float]:
        """Recorded importance, or distinct values in descending order: a place is a rank then."""
        recorded: list[float] = self.work.score[self.work.score_ptr[row] : self.work.score_ptr[row + 1]].tolist()
        return recorded or range(0, -int(self.work.token_candidates[row]), -1)

    def _start(
        self, first: Sequence[simpy.Event], row: int, kind: int, values: Sequence[float], keep: int
    ) -> simpy.Event:
        known = self.env.event()
        order = (row, AFTER_QUERIES - kind)
        done: Callable[[], None] = lambda: known.succeed() and None  # noqa: E731
        selection = Selection("topk", (row, -kind), order, values, keep, self.seeds.of(row, kind), None, None, done)
        self.env.process(when(first, lambda: self.engine.ask(selection)))
        return known
