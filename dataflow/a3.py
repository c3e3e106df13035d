"""Planner "a3": every query against all keys (base), or against the candidates of a search on sorted columns.

Three modules (score, exponent, output) take a K or V row a cycle and `overhead_cycles` a query, each with another
query: a query every n + c cycles, 3 (n + c) from first to last. In approximate mode a search of M iterations is in
front, and the modules see its candidates only: a query every max(M, candidates) + c.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.a3 import A3Machine, Approximation
from accel.machine import load_standard
from dataflow.lowering import planner
from dataflow.streaming import Blocks, Cycles, Stream, stream_plan
from dataflow.unpruned import SAMPLED, DenseTally, dense_work, run_sequences
from sim.plan import Plan
from sim.result import Result
from workloads.attention import AttentionWork
from workloads.policy import Policy
from workloads.trace import Trace

Ints = NDArray[np.int64]
PJ = 1e-12
LEFT_OUT = (
    "pruning and number formats of the policy: A3 runs the whole model in its own format",
    "FC layers, layer norm and everything else outside attention: layers follow each other at once",
    "finite buffers between the modules",
    "energy of memories, exponents and search apart: one figure a multiply-add holds the core",
    "outputs are not written to DRAM",
    SAMPLED,
)
STATED = "candidates: a stated share of the keys; the workload does not hold the values of Q and K"


def share_of(share: float, vectors: Ints) -> Ints:
    """Whole vectors of a share, rounded up, at least one."""
    return np.maximum(np.ceil(share * vectors - 1e-9).astype(np.int64), 1)


def sort_cycles(keys: Ints, head_size: int, lanes: int) -> Ints:
    """Cycles to sort all columns of K of a head: n ceil(log2 n) a column, `lanes` columns side by side."""
    levels = np.ceil(np.log2(np.maximum(keys, 2))).astype(np.int64)
    return keys * levels * -(-head_size // lanes)


def _stages(machine: A3Machine, head_size: int) -> dict[str, Cycles]:
    """Cycles of each block (one query) in each module."""
    passes, overhead, a = -(-head_size // machine.modules.lanes), machine.modules.overhead_cycles, machine.approximation

    def rows(*shares: float) -> Cycles:
        def cycles(blocks: Blocks) -> Ints:
            keys = blocks.keys[blocks.chunk]
            for share in shares:
                keys = share_of(share, keys)
            return keys * passes + overhead

        return cycles

    if a is None:
        return {"score": rows(1.0), "exponent": rows(1.0), "output": rows(1.0)}
    found, kept = (a.candidate_share,), (a.candidate_share, a.kept_share)
    chain = {"search": _search(a, overhead), "score": rows(*found), "exponent": rows(*found), "output": rows(*kept)}
    return ({"sort": _sort(a, head_size)} if a.include_sort else {}) | chain


def _search(a: Approximation, overhead: int) -> Cycles:
    return lambda blocks: share_of(a.iterations_share, blocks.keys[blocks.chunk]) + overhead


def _sort(a: Approximation, head_size: int) -> Cycles:
    """In front of the first query of a head."""
    return lambda b: np.where(b.place == 0, sort_cycles(b.keys[b.chunk], head_size, a.sort_lanes), 0)


def _check_sram(machine: A3Machine, work: AttentionWork, vector_bytes: int) -> None:
    """A head's K must fit one buffer. Raises ValueError."""
    s, most = machine.sram, int(work.keys.max())
    if most * vector_bytes > s.bytes // s.buffers:
        raise ValueError(
            f"{machine.name}: sram.bytes: one of {s.buffers} buffers must hold the {most * vector_bytes} bytes of "
            f"{most} vectors of {work.head_size} elements, got {s.bytes // s.buffers}"
        )


def plan_a3(machine: A3Machine, work: AttentionWork, align_bytes: int) -> tuple[Plan, dict[str, int]]:
    """The plan of one sequence and counters of its work. Raises ValueError where K does not fit the chip."""
    vector_bytes = -(-work.head_size * machine.element_bits // 8)
    _check_sram(machine, work, vector_bytes)
    stream = Stream(int(work.keys.max()), 1, machine.sram.buffers, vector_bytes, align_bytes, all_first=True)
    plan, _ = stream_plan(work, stream, _stages(machine, work.head_size), {})
    return plan, _counters(machine, work)


def _counters(machine: A3Machine, work: AttentionWork) -> dict[str, int]:
    """Multiply-adds: n d of Q x K and n d of prob x V in base mode; else 2 M, candidates x d and kept x d."""
    a, q, d = machine.approximation, work.queries, work.head_size
    found = work.keys if a is None else share_of(a.candidate_share, work.keys)
    kept = found if a is None else share_of(a.kept_share, found)
    searched = np.zeros(1, np.int64) if a is None else share_of(a.iterations_share, work.keys)
    sorting = 0 if a is None else int(sort_cycles(work.keys, d, a.sort_lanes).sum())
    return {
        "rows": work.rows,
        "k_vectors": int(work.keys.sum()),
        "v_vectors": int(kept.sum()),
        "candidates": int(found.sum()),
        "search_iterations": int((q * searched).sum()),
        "sort_cycles": sorting,
        "exponentials": int((q * found).sum()),
        "multiply_adds": int((q * (found + kept)).sum()) * d + 2 * int((q * searched).sum()),
        "effective": work.dense_operations,
    }


@planner("a3")
def run_a3(machine: A3Machine, trace: Trace, policy: Policy | None, options: Mapping[str, Any] | None = None) -> Result:
    """Attention of every sequence of the trace, unpruned, one after another; `policy` is not used."""
    options = options or {}
    work = dense_work(trace, options.get("work"))
    tally = run_sequences(
        machine.memory, machine.clock_hz, work, lambda sequence, align: plan_a3(machine, sequence, align), options
    )
    return _result(machine, trace.name, tally)


def _result(machine: A3Machine, workload: str, tally: DenseTally) -> Result:
    counts = dict(tally.counters)
    macs, effective = counts.pop("multiply_adds"), counts.pop("effective")
    by_part, of_operands = tally.dram_energy(machine.memory, load_standard(machine.memory.standard), machine.clock_hz)
    core = machine.modules.cost
    return Result(
        machine=machine.name,
        workload=workload,
        energy_j={"core": macs * core.energy_pj * PJ} | by_part,
        dram_energy_j=of_operands,
        area_mm2={"core": 2 * machine.modules.lanes / core.at * core.area_mm2},
        operations={f"int{machine.element_bits}": 2 * macs},
        effective_operations=effective,
        counts=counts,
        left_out=(*LEFT_OUT, *_said(machine)),
        **tally.fields(machine.clock_hz),
    )


def _said(machine: A3Machine) -> tuple[str, ...]:
    a = machine.approximation
    sorting = () if a is None or a.include_sort else ("sorting of K: its cycles are counted (sort_cycles), not spent",)
    return (*(() if a is None else (STATED,)), *sorting, f"unverified: {', '.join(machine.unverified)}")
