"""Planner "mnnfast": dense Q x K over streamed chunks of K, prob x V for the probabilities above a threshold.

Scores of a chunk take a cycle a K row and query; the outputs of a block of queries take a cycle for each V row that
survives. Both arrays work side by side: as long as any share survives, Q x K sets the pace. Nothing is spared in DRAM.
"""

from collections.abc import Mapping
from typing import Any

from accel.mnnfast import MnnFastMachine
from dataflow.a3 import share_of
from dataflow.lowering import planner
from dataflow.streaming import Cycles, Stream, stream_plan
from dataflow.unpruned import SAMPLED, DenseTally, dense_work, run_sequences
from sim.plan import Plan
from sim.result import Result
from workloads.attention import AttentionWork
from workloads.policy import Policy
from workloads.trace import Trace

LEFT_OUT = (
    "pruning and number formats of the policy: MNNFast runs the whole model in its own format",
    "FC layers, layer norm and everything else outside attention: layers follow each other at once",
    "the final division of partial sums; conflicts of the queries' accumulators; the embedding cache",
    "surviving V vectors: a stated share; no workload records how many probabilities exceed the threshold",
    "energy by part: the power is one assumed figure for the whole machine, its DRAM included",
    "area: no published figure",
    "outputs are not written to DRAM",
    SAMPLED,
)


def _stages(machine: MnnFastMachine, head_size: int) -> dict[str, Cycles]:
    s = machine.streaming
    passes = -(-head_size // s.lanes)
    return {
        "score": lambda b: b.queries * b.keys[b.chunk] * passes,
        "output": lambda b: b.queries * share_of(s.surviving_share, b.keys)[b.chunk] * passes,
    }


def plan_mnnfast(machine: MnnFastMachine, work: AttentionWork, align_bytes: int) -> tuple[Plan, dict[str, int]]:
    """The plan of one sequence and counters of its work."""
    s = machine.streaming
    vector_bytes = -(-work.head_size * machine.element_bits // 8)
    stream = Stream(s.chunk_keys, s.query_block, s.buffers, vector_bytes, align_bytes, all_first=False)
    stages = _stages(machine, work.head_size)
    plan, blocks = stream_plan(work, stream, stages, {"score": s.exponent_latency_cycles})
    surviving = share_of(s.surviving_share, blocks.keys)
    scores = int((work.queries * work.keys).sum())
    used = int((work.queries[blocks.row] * surviving).sum())
    return plan, {
        "rows": work.rows,
        "k_vectors": int(work.keys.sum()),
        "v_vectors": int(surviving.sum()),
        "exponentials": scores,
        "multiply_adds": (scores + used) * work.head_size,
        "effective": work.dense_operations,
    }


@planner("mnnfast")
def run_mnnfast(
    machine: MnnFastMachine, trace: Trace, policy: Policy | None, options: Mapping[str, Any] | None = None
) -> Result:
    """Attention of every sequence of the trace, unpruned, one after another; `policy` is not used."""
    options = options or {}
    work = dense_work(trace, options.get("work"))
    tally = run_sequences(
        machine.memory, machine.clock_hz, work, lambda sequence, align: plan_mnnfast(machine, sequence, align), options
    )
    return _result(machine, trace.name, tally)


def _result(machine: MnnFastMachine, workload: str, tally: DenseTally) -> Result:
    counts = dict(tally.counters)
    macs, effective = counts.pop("multiply_adds"), counts.pop("effective")
    fields = tally.fields(machine.clock_hz)
    return Result(
        machine=machine.name,
        workload=workload,
        energy_j={"assumed_power": machine.power.total_w * fields["latency_s"]},
        area_mm2={},
        operations={f"int{machine.element_bits}": 2 * macs},
        effective_operations=effective,
        counts=counts,
        left_out=(*LEFT_OUT, f"unverified: {', '.join(machine.unverified)}"),
        **fields,
    )
