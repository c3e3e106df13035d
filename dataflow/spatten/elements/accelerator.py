"""The whole accelerator (Fig. 8), wired up; layer after layer through it."""

from collections.abc import Iterator, Sequence

import numpy as np
import simpy

from accel.spatten import SpattenMachine
from dataflow.spatten.elements.accumulators import Accumulators
from dataflow.spatten.elements.buffers import Halves, when
from dataflow.spatten.elements.cascade import Cascade
from dataflow.spatten.elements.clock import Process
from dataflow.spatten.elements.decision import Decision, admission
from dataflow.spatten.elements.fetcher import KEY, KEY_LSB, QUERY, VALUE, Fetcher, Slice
from dataflow.spatten.elements.fifo import Fifo
from dataflow.spatten.elements.head import Countdown, Head, Log, Query
from dataflow.spatten.elements.memory import ChannelSpec, make_memory
from dataflow.spatten.elements.prob_value import ProbValue
from dataflow.spatten.elements.query_key import QueryKey
from dataflow.spatten.elements.seeds import Seeds
from dataflow.spatten.elements.softmax import Softmax
from dataflow.spatten.elements.topk import QuickSelect, Selection
from sim.dram import IdealSpec
from workloads.attention import AttentionWork


def elements_cycles(machine: SpattenMachine, work: AttentionWork, memory: IdealSpec | ChannelSpec) -> Log:
    """When each stage worked on each query of one sequence, cycle by cycle.

    The log names stages as the planner names its units.  Raises ValueError for what this model leaves out
    (outputs written to DRAM, K and V shared by query heads) and for keys that do not fit their memory.
    """
    return Accelerator(machine, work, memory).run()


class Accelerator:
    """K, V and Q come through the fetcher into their buffers; a query then goes

    Q x K -> scores -> softmax -> probabilities -> LSB decision (-> local top-k -> winners) -> prob x V

    and, beside it, into the accumulators, on which the cascade top-k works at the end of a layer.
    """

    def __init__(self, machine: SpattenMachine, work: AttentionWork, memory: IdealSpec | ChannelSpec) -> None:
        check(machine, work)
        self.env, self.work, self.log = simpy.Environment(), work, Log()
        self.seeds = Seeds(machine.units.topk.seed, work.name)
        self._make_buffers(machine, memory)
        self._make_fifos(machine)
        self._make_stages(machine)

    def run(self) -> Log:
        """All layers of all steps."""
        layers = self.env.process(self._layers())
        self.env.run()
        if not layers.processed:
            raise RuntimeError(f"the elements are stuck after {self.env.now} cycles; levels: {self.levels}")
        return self.log

    @property
    def fifos(self) -> tuple[Fifo, Fifo, Fifo]:
        """Between Q x K and softmax; behind softmax; behind the local top-k."""
        return self.scores, self.probabilities, self.winners

    @property
    def refetches(self) -> bool:
        """Some query needs its LSBs."""
        return bool(self.work.key_lsb_bits and self.work.needs_lsb.any())

    @property
    def levels(self) -> dict[str, int]:
        """How full the FIFOs are."""
        return {fifo.name: fifo.level for fifo in self.fifos}

    def _make_buffers(self, machine: SpattenMachine, memory: IdealSpec | ChannelSpec) -> None:
        u, self.memory = machine.units, make_memory(self.env, memory)
        self.fetcher = Fetcher(self.env, self.memory, u.fetcher.latency_cycles, self.log)
        self.key_halves = Halves(self.env, u.key_sram.buffers)
        self.value_halves = Halves(self.env, u.value_sram.buffers)
        self.registers, self.block = Halves(self.env, u.fetcher.query_blocks), u.fetcher.query_block

    def _make_fifos(self, machine: SpattenMachine) -> None:
        """`fifo_depth` x `lanes`, but always one row (decision 3)."""
        s = machine.units.softmax
        depth = max(s.fifo_depth * s.lanes, int(self.work.keys.max()))
        self.scores, self.probabilities, self.winners = (
            Fifo(self.env, name, depth) for name in ("scores", "probabilities", "winners")
        )

    def _make_stages(self, machine: SpattenMachine) -> None:
        """From the last stage to the first: each delivers to the one behind it."""
        env, u, size, log = self.env, machine.units, self.work.head_size, self.log
        self.prob_value = ProbValue(env, u.prob_value, size, (self.probabilities, self.winners), log)
        self.accumulators = Accumulators(env, u.softmax.lanes, log)
        self.value_topk = QuickSelect(env, u.topk, log)
        shared = self.value_topk if u.topk.engines == 1 else QuickSelect(env, u.topk, log)
        self.cascade = Cascade(env, self.work, shared, self.seeds)
        take = self.accumulators.take
        self.decision = Decision(env, self._fetch_lsb, self._compute, take, self._go_on)
        may_enter = [admission(fifo, self.refetches) for fifo in self.fifos]
        deliver = self.decision.take
        self.softmax = Softmax(env, u.softmax, self.scores, self.probabilities, deliver, log, may_enter[1])
        self.query_key = QueryKey(env, u.query_key, size, self.scores, self.softmax.take, log, may_enter[0])

    def _layers(self) -> Process:
        """Stages overlap across queries and heads, layers do not."""
        for rows in layers(self.work):
            heads = [self._head(row) for row in rows]
            known = self.cascade.select(heads)
            for head in heads:
                known += [head.weighted.done, head.summed.done]
            yield self.env.all_of(known)

    def _head(self, row: int) -> Head:
        """Ask for K, V and Q of a head as soon as they have a place; queries follow their block."""
        work = self.work
        head = Head(self.env, row, int(work.queries[row]), int(work.keys[row]), int(work.values[row]))
        free = self.key_halves.enter(head.computed.done)
        self._fetch(head, KEY, 0, head.keys, head.key_here, free)
        free = self.value_halves.enter(head.left.done)
        if head.prompt:
            self._fetch(head, VALUE, 0, head.keys, head.value_here, free)
        else:
            first = (head.selected,) if head.selects else ()
            self._fetch(head, VALUE, 0, head.values, head.value_here, free, *first)
        for number, start in enumerate(range(0, head.queries, self.block)):
            self._block(head, number, range(start, min(start + self.block, head.queries)))
        return head

    def _block(self, head: Head, number: int, queries: range) -> None:
        """The queries of one register: ready when it is filled and K is there."""
        here, rest = self.env.event(), Countdown(self.env, len(queries))
        free = self.registers.enter(rest.done)
        self._fetch(head, QUERY, number, len(queries), here, free)
        at = int(self.work.queries[: head.number].sum())
        flags = self.work.needs_lsb if self.refetches else np.zeros_like(self.work.needs_lsb)
        block = [Query(head, q, bool(flags[at + q]), rest) for q in queries]
        for query in block:
            self.decision.expect(query)
        self.env.process(when((head.key_here, here), lambda: self._compute(*block)))

    def _fetch(
        self, head: Head, operand: int, block: int, vectors: int, here: simpy.Event, *first: simpy.Event
    ) -> None:
        """So many vectors of an operand, after those events."""
        w = self.work
        bits = {KEY: w.key_msb_bits, VALUE: w.value_bits, QUERY: w.query_bits, KEY_LSB: w.key_lsb_bits}[operand]
        slice_ = Slice(head.number, operand, block, vectors * -(-bits * w.head_size // 8), here)
        self.env.process(when(first, lambda: self.fetcher.ask(slice_)))

    def _fetch_lsb(self, head: Head) -> None:
        self._fetch(head, KEY_LSB, 0, head.keys, head.lsb_here)

    def _compute(self, *queries: Query) -> None:
        for query in queries:
            self.query_key.turn.ask(query.order, query)

    def _go_on(self, query: Query) -> None:
        """To prob x V, through the local top-k where V is left out."""
        if query.head.selects:
            self.value_topk.ask(self._selection(query))
        else:
            self.prob_value.take(query)

    def _selection(self, query: Query) -> Selection:
        """The local top-k of a query: distinct probabilities, largest first, so that a place is a rank."""
        head, ranks = query.head, range(0, -query.head.keys, -1)
        seed, fifos = self.seeds.of(head.number, query.number), (self.probabilities, self.winners)
        done = lambda: self._selected(query)  # noqa: E731
        return Selection("value_topk", query.key, query.order, ranks, head.values, seed, *fifos, done)

    def _selected(self, query: Query) -> None:
        if not query.head.prompt:
            query.head.selected.succeed()
        self.prob_value.take(query)


def layers(work: AttentionWork) -> Iterator[Sequence[int]]:
    """Rows of one step and layer at a time, in order."""
    edges = np.flatnonzero(np.diff(work.step) | np.diff(work.layer)) + 1
    for rows in np.split(np.arange(work.rows), edges):
        yield rows.tolist()


def check(machine: SpattenMachine, work: AttentionWork) -> None:
    """Raise ValueError for what is left out here or does not fit."""
    if machine.write_output:
        raise ValueError("write_output: the element model writes no outputs, must be false, got true")
    group = getattr(work, "group", 1)
    if group != 1:
        raise ValueError(f"group: the element model has one K/V head for each query head, must be 1, got {group}")
    for name, sram in (("key_sram", machine.units.key_sram), ("value_sram", machine.units.value_sram)):
        room = sram.bytes // sram.buffers * 8 // (machine.element_bits * work.head_size)
        if work.keys.max() > room:
            raise ValueError(f"{name}: a half holds {room} vectors, got {work.keys.max()} keys")
