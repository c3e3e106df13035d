"""What runs of SpAtten plans add up to, and what must be conserved."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from accel.spatten import SpattenMachine
from dataflow.spatten.draft import COUNTER_COUNT, LSB_ROWS, MACS_PV, MACS_QK, OPERANDS, OUTPUT
from dataflow.spatten.fc import FcRun, Shape, dense_operations
from dataflow.spatten.plan import Lowered
from dataflow.spatten.tiles import tiling
from sim.critical_path import critical_path
from sim.dram import MemoryState
from sim.dram.layout import IDEAL
from sim.plan import Plan, Times
from workloads.attention import AttentionWork

WEIGHT = "weight"
_COPY = re.compile(r"\.\d+")  # units of the second pipeline are called `softmax.1`


@dataclass
class Tally:
    """Sums over the sequences of a workload; each counts as often as its `repeat` says.

    fc_products, fc_writes, fc_reads   multiply-adds of FC layers, weights into and out of the K and V memories
    """

    cycles: list[int] = field(default_factory=list)  # of each sequence
    fc_cycles: int = 0
    head_size: int = 0
    work: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    requested: Counter[str] = field(default_factory=Counter)
    commands: Counter[str] = field(default_factory=Counter)
    activates: Counter[str] = field(default_factory=Counter)  # by operand
    idle: Counter[str] = field(default_factory=Counter)  # memory cycles of data buses, by cause
    active_cycles: float = 0.0  # memory cycles of pseudo-channels with a row open or refreshing
    path: Counter[str] = field(default_factory=Counter)
    busy: Counter[str] = field(default_factory=Counter)
    counters: NDArray[np.int64] = field(default_factory=lambda: np.zeros(COUNTER_COUNT, np.int64))
    fc_products: int = 0
    fc_writes: int = 0
    fc_reads: int = 0
    fc_dense_operations: int = 0

    def add(
        self,
        machine: SpattenMachine,
        work: AttentionWork,
        lowered: Lowered,
        times: Times,
        state: MemoryState,
        burst: int,
    ) -> None:
        """The attention of a sequence; what it moved and did must be what its work asks for."""
        plan, alike = lowered.plan, work.repeat
        moved = _by_operand(plan, state.bursts * burst)
        if not state.config[IDEAL]:
            _check_served(moved, state.commands, burst, int(plan.slices.write.sum()))
            _count(self.activates, _by_operand(plan, state.activates), alike)
        self._memory(state, times.makespan, alike)
        requested = _by_operand(plan, np.add.reduceat(plan.slices.size_bytes, plan.slices.ptr[:-1]))
        busy = _busy(plan, times)
        _check_work(machine, lowered, work, requested, busy)
        self.cycles.extend([times.makespan] * alike)
        _count(self.moved, moved, alike)
        _count(self.requested, requested, alike)
        _count(self.path, _merged(critical_path(plan, times)), alike)
        _count(self.busy, busy, alike)
        self.counters += alike * lowered.counters
        _count(self.work, _facts(work, lowered), alike)
        self.head_size = work.head_size

    def add_fc(self, shape: Shape, work: AttentionWork, runs: list[FcRun], burst: int) -> None:
        """The FC layers of the sequence that was added last."""
        for run in runs:
            alike = run.times * work.repeat
            moved = {WEIGHT: int(run.state.bursts.sum()) * burst}
            if not run.state.config[IDEAL]:
                _check_served(moved, run.state.commands, burst, 0)
                _count(self.activates, {WEIGHT: int(run.state.activates.sum())}, alike)
            self._memory(run.state, run.cycles, alike)
            _count(self.moved, moved, alike)
            _count(self.requested, {WEIGHT: run.requested}, alike)
            _count(self.path, run.path, alike)
            fetching, computing = run.busy.values()
            _count(self.busy, {"fetcher": fetching, "query_key": computing, "prob_value": computing}, alike)
            self.fc_products += alike * run.products
            self.fc_writes += alike * run.weights
            self.fc_reads += alike * run.products
        added = sum(run.times * run.cycles for run in runs)
        self.cycles[-work.repeat :] = [cycles + added for cycles in self.cycles[-work.repeat :]]
        self.fc_cycles += work.repeat * added
        self.work["fc_runs"] += work.repeat * sum(run.times for run in runs)
        self.fc_dense_operations += work.repeat * dense_operations(shape, work)

    def _memory(self, state: MemoryState, makespan: int, alike: int) -> None:
        _count(self.commands, state.commands, alike)
        if not state.config[IDEAL]:
            _count(self.idle, {cause: round(cycles) for cause, cycles in state.idle.items()}, alike)
            self.active_cycles += alike * state.active_cycles(state.tick_of(makespan))


def _count(total: Counter[str], amounts: Mapping[str, int], times_run: int) -> None:
    total.update({name: times_run * amount for name, amount in amounts.items()})


def _merged(by_unit: Mapping[str, int]) -> Counter[str]:
    """Units of all pipelines under one name."""
    merged: Counter[str] = Counter()
    for name, cycles in by_unit.items():
        merged[_COPY.sub("", name)] += cycles
    return merged


def _busy(plan: Plan, times: Times) -> dict[str, int]:
    cycles = np.bincount(plan.unit, times.free - times.start, len(plan.units))
    pairs = zip(plan.units, cycles, strict=True)
    return dict(_merged({unit.name: int(total) for unit, total in pairs if total}))


def _by_operand(plan: Plan, per_slice: NDArray[np.int64]) -> dict[str, int]:
    sums = np.bincount(plan.slices.operand, per_slice, len(OPERANDS))
    return {name: int(total) for name, total in zip(OPERANDS, sums, strict=True)}


def _check_served(moved: Mapping[str, int], commands: Mapping[str, int], burst: int, writes: int) -> None:
    """Conservation: every burst asked for was read or written once, and every slice came back."""
    served = (commands["reads"] + commands["writes"]) * burst
    if served != sum(moved.values()):
        raise AssertionError(f"memory served {served} bytes, {sum(moved.values())} were asked for")
    if bool(writes) != bool(commands["writes"]):
        raise AssertionError(f"{writes} slices to write, {commands['writes']} bursts written")


def _check_work(
    machine: SpattenMachine, lowered: Lowered, work: AttentionWork, asked: Mapping[str, int], busy: Mapping[str, int]
) -> None:
    """Conservation, recomputed from the work alone: bytes asked for, multiply-adds, and room for them in the arrays."""
    bits = (work.query_bits, work.key_msb_bits, work.key_lsb_bits, work.value_bits)
    beside = (0, work.scale_bits, 0, work.scale_bits)
    vectors = zip(_vectors(machine, work), bits, beside, strict=True)
    expected = [n * -(-(b * work.head_size + more) // 8) for n, b, more in vectors]
    if [asked[name] for name in OPERANDS[:OUTPUT]] != expected:
        raise AssertionError(f"plan asks for {dict(asked)} bytes, the work has {expected} of Q, K, LSBs and V")
    queries = work.queries * work.group
    again = int(np.repeat(work.keys, queries)[work.needs_lsb.astype(bool)].sum()) if work.key_lsb_bits else 0
    products = (int((queries * work.keys).sum()) + again, int((queries * work.values).sum()))
    units = machine.units
    room = (busy["query_key"] * units.query_key.multipliers, busy["prob_value"] * units.prob_value.multipliers)
    counts = zip(("Q x K", "prob x V"), products, lowered.counters[[MACS_QK, MACS_PV]], room, strict=True)
    for name, n, counted, most in counts:
        if counted != n * work.head_size or counted > most:
            raise AssertionError(
                f"{name}: the plan counts {counted} multiply-adds of {n * work.head_size}, room for {most}"
            )
    if 4 * work.head_size * (products[0] - again) > work.dense_operations:  # Q x K is half of the dense work
        raise AssertionError("the pruned work has more operations than the dense one")


def _vectors(machine: SpattenMachine, work: AttentionWork) -> tuple[int, int, int, int]:
    """Q, K, LSB and V vectors that must be fetched: LSBs once a row that needs them, V whole for a prompt.

    Where a prompt's scores do not fit their buffer, K and V are fetched again for each block of its queries.
    """
    prompt = work.queries > 1
    flagged = np.zeros(work.rows, bool)
    if work.key_lsb_bits and work.needs_lsb.any():
        queries = work.queries * work.group
        flagged = np.maximum.reduceat(work.needs_lsb, np.cumsum(queries) - queries).astype(bool)
    again = tiling(machine, work).blocks
    return (
        int((work.queries * work.group).sum()),
        int((work.keys * again).sum()),
        int(work.keys[flagged].sum()),
        int((np.where(prompt, work.keys, work.values) * again).sum()),
    )


def _facts(work: AttentionWork, lowered: Lowered) -> dict[str, int]:
    return {
        "rows": work.rows,
        "k_vectors": int(work.keys.sum()),
        "v_vectors": int(work.values.sum()),
        "lsb_rows": int(lowered.counters[LSB_ROWS]),
        "effective": work.dense_operations,
    }
