"""Planner "spatten": each sequence of a workload as a Plan, run one after another, counted and priced."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.machine import load_standard
from accel.memory import Standard
from accel.spatten import SpattenMachine
from dataflow.engines import run_plan
from dataflow.lowering import planner
from dataflow.memory import memory_of
from dataflow.spatten.draft import (
    FETCH,
    LAYER,
    MACS_PV,
    MACS_QK,
    RECOMPUTED,
    SCORES,
    TOPK_PASSES,
    UNITS,
)
from dataflow.spatten.fc import fc_shape, run_fc
from dataflow.spatten.plan import Lowered, plan_attention
from dataflow.spatten.price import area_mm2, on_chip_energy_j, sram_bytes
from dataflow.spatten.tally import SpattenTally
from sim.result import Result
from sim.timeline import Timeline
from workloads.attention import AttentionWork
from workloads.policy import Policy
from workloads.replay import attention_work
from workloads.trace import Trace

LEFT_OUT = (
    "FC layers, layer norm and everything else outside attention: layers follow each other at once",
    "leakage and clock tree; area and energy are first-order (linear)",
    "activates, refresh and background of the DRAM where the memory is ideal",
    "what fewer MSBs do to the largest probability: the LSB test sees probabilities without quantization",
    "the heads' importance sums behind prob x V (time and energy)",
    "streaming inside a row of scores: a stage takes a query when the stage before has finished it",
    "conflicts in the address and data crossbars; the fetcher sends at the clock of the memory",
    "what came before: each sequence starts with all rows closed and a whole interval before the first refresh",
    "which V vectors the local top-k keeps: evenly spread; the passes of that top-k: drawn with a seed",
)
FC_LEFT_OUT = (
    "layer norm, residuals, embeddings and the language-model head; traffic of the FC layers' activations",
    "FC weights that a pruned head would spare; FC layers in the timeline",
    "for generated tokens one stretch of FC layers stands for many alike (within 0.5 %: docs/decisions/0005)",
)


def lower(
    machine: SpattenMachine, standard: Standard, work: Iterable[AttentionWork]
) -> Iterator[tuple[AttentionWork, Lowered]]:
    """Each sequence with its plan; the matrices of a head begin at a row of every bank's channel."""
    o = standard.organisation
    align = o.row_bytes * o.pseudo_channels * machine.memory.channels
    for sequence in work:
        yield sequence, plan_attention(machine, sequence, align)


def check_policy(machine: SpattenMachine, policy: Policy | None) -> None:
    """Raises ValueError where a policy prunes or selects on a machine without top-k engines."""
    keeps_all = {"token_keep": 1.0, "head_keep": 1.0, "value_keep": 1.0, "token_threshold": 0.0}
    for name, all_of_it in keeps_all.items() if policy and not machine.units.topk.engines else ():
        if np.any(np.asarray(getattr(policy, name)) != all_of_it):
            raise ValueError(
                f"policy.{name}: must be {all_of_it:g} on {machine.name}, which has no top-k engine "
                f"(units.topk.engines: 0), got {getattr(policy, name)}"
            )


@planner("spatten")
def run_spatten(
    machine: SpattenMachine, trace: Trace, policy: Policy | None, options: Mapping[str, Any] | None = None
) -> Result:
    """Attention of every sequence of the trace on a SpAtten-type machine, one sequence after another.

    options   engine: "compiled" or "simpy"; memory: "dram" or "ideal"; timeline: path of a Perfetto trace
    """
    options = options or {}
    check_policy(machine, policy)
    work = attention_work(trace, policy) if options.get("work") is None else options["work"]
    standard = load_standard(machine.memory.standard)
    memory = memory_of(machine.memory, standard, machine.clock_hz, options.get("memory", "dram"))
    engine = options.get("engine", "compiled")
    tally, timeline = SpattenTally(), Timeline() if options.get("timeline") else None
    burst = standard.organisation.burst_bytes
    for number, (sequence, lowered) in enumerate(lower(machine, standard, work)):
        times, state = run_plan(lowered.plan, memory, engine)
        if timeline:
            timeline.add(lowered.plan, times, f"{trace.name}/{number}")
        tally.add(machine, sequence, lowered, times, state, burst)
        if machine.fc:
            shape = fc_shape(trace.model)
            tally.add_fc(shape, sequence, run_fc(machine, shape, sequence, memory, engine), burst)
    if timeline:
        timeline.write(Path(options["timeline"]))
    return _result(machine, trace.name, standard, tally)


def _operations(machine: SpattenMachine, counters: NDArray[np.int64]) -> dict[str, int]:
    """Multiply-adds count two, as in the paper's GOP/s; exponentials are counted apart."""
    return {f"int{machine.element_bits}": 2 * int(counters[MACS_QK] + counters[MACS_PV])}


def _with_fc(machine: SpattenMachine, tally: SpattenTally) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Counters, and bytes of the K and V memories, with what FC layers do there: both arrays by their multipliers."""
    u, counters = machine.units, tally.counters.copy()
    of_keys = u.query_key.multipliers / (u.query_key.multipliers + u.prob_value.multipliers)
    counters[MACS_QK] += round(tally.fc_products * of_keys)
    counters[MACS_PV] += tally.fc_products - round(tally.fc_products * of_keys)
    sram = sram_bytes(machine, tally.counters, tally.head_size)
    for way, elements in (("write", tally.fc_writes), ("read", tally.fc_reads)):
        moved = elements * machine.element_bits // 8
        sram[f"key_{way}"] += moved // 2
        sram[f"value_{way}"] += moved - moved // 2
    return counters, sram


def _result(machine: SpattenMachine, workload: str, standard: Standard, tally: SpattenTally) -> Result:
    counters, sram = _with_fc(machine, tally)
    energy = on_chip_energy_j(machine, counters, sram, sum(tally.moved.values()))
    by_part, of_operands = tally.dram_energy(machine.memory, standard, machine.clock_hz)
    fields = tally.fields(machine.clock_hz)
    shares = {name: share / _copies(machine, name) for name, share in fields.pop("utilisation").items()}
    return Result(
        machine=machine.name,
        workload=workload,
        dram_energy_j=of_operands,
        energy_j=energy | by_part,
        area_mm2=area_mm2(machine),
        operations=_operations(machine, counters),
        effective_operations=tally.work["effective"] + tally.fc_dense_operations,
        sram_bytes=sram,
        utilisation=shares,
        **fields,
        counts={
            **{name: tally.work[name] for name in ("rows", "k_vectors", "v_vectors", "lsb_rows")},
            "recomputed_queries": int(tally.counters[RECOMPUTED]),
            "topk_passes": int(tally.counters[TOPK_PASSES]),
            "exponentials": int(tally.counters[SCORES]),
            **(_fc_counts(tally) if machine.fc else {}),
        },
        left_out=_left_out(machine),
    )


def _copies(machine: SpattenMachine, unit: str) -> int:
    return 1 if unit in (UNITS[FETCH], UNITS[LAYER]) else machine.pipelines


def _fc_counts(tally: SpattenTally) -> dict[str, int]:
    """Cycles and multiply-adds of the FC layers; pieces simulated, each counted as often as it stands for others."""
    return {"fc_cycles": tally.fc_cycles, "fc_multiply_adds": tally.fc_products, "fc_runs": tally.work["fc_runs"]}


def _left_out(machine: SpattenMachine) -> tuple[str, ...]:
    return LEFT_OUT if machine.fc is None else (*FC_LEFT_OUT, *LEFT_OUT[1:])
