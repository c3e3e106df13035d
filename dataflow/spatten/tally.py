"""What runs of SpAtten plans add up to, and what must be conserved."""

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
from dataflow.tally import Part, Tally, count, part_of
from sim.dram import MemoryState
from sim.plan import Times
from workloads.attention import AttentionWork

WEIGHT = "weight"


@dataclass
class SpattenTally(Tally):
    """With what the plans of attention count, and the FC layers.

    fc_products, fc_writes, fc_reads   multiply-adds of FC layers, weights into and out of the K and V memories
    """

    written: tuple[str, ...] = (OPERANDS[OUTPUT],)
    fc_cycles: int = 0
    head_size: int = 0
    work: Counter[str] = field(default_factory=Counter)
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
        part = part_of(lowered.plan, times, state, burst)
        _check_work(machine, lowered, work, part.requested, part.busy)
        self.count(part, state, burst, work.repeat)
        self.cycles.extend([part.cycles] * work.repeat)
        self.counters += work.repeat * lowered.counters
        count(self.work, _facts(work, lowered), work.repeat)
        self.head_size = work.head_size

    def add_fc(self, shape: Shape, work: AttentionWork, runs: list[FcRun], burst: int) -> None:
        """The FC layers of the sequence that was added last."""
        for run in runs:
            alike = run.times * work.repeat
            self.count(_fc_part(run, burst), run.state, burst, alike)
            self.fc_products += alike * run.products
            self.fc_writes += alike * run.weights
            self.fc_reads += alike * run.products
        added = sum(run.times * run.cycles for run in runs)
        self.cycles[-work.repeat :] = [cycles + added for cycles in self.cycles[-work.repeat :]]
        self.fc_cycles += work.repeat * added
        self.work["fc_runs"] += work.repeat * sum(run.times for run in runs)
        self.fc_dense_operations += work.repeat * dense_operations(shape, work)


def _fc_part(run: FcRun, burst: int) -> Part:
    """Both arrays compute at once."""
    moved, opened = (int(each.sum()) for each in (run.state.bursts, run.state.activates))
    fetching, computing = run.busy.values()
    busy = {"fetcher": fetching, "query_key": computing, "prob_value": computing}
    return Part(run.cycles, {WEIGHT: moved * burst}, {WEIGHT: opened}, {WEIGHT: run.requested}, 0, run.path, busy)


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
