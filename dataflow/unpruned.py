"""Machines without pruning: the dense work of a trace, and how its sequences are run."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from accel.machine import load_standard
from accel.memory import Memory
from dataflow.engines import run_plan
from dataflow.memory import memory_of
from dataflow.tally import Tally, count, part_of
from sim.plan import Plan
from sim.timeline import Timeline
from workloads.attention import AttentionWork
from workloads.policy import Policy
from workloads.replay import attention_work
from workloads.trace import Trace

Planned = Callable[[AttentionWork, int], tuple[Plan, dict[str, int]]]
LONG = 1 << 18  # K vectors; see `few_layers`
SAMPLED = (
    f"layers of a long dense sequence are alike: those that hold {LONG} K vectors are simulated and stand for all "
    "(within 0.5 %: docs/rivals.md)"
)


def dense_work(trace: Trace, work: list[AttentionWork] | None = None) -> list[AttentionWork]:
    """The attention of each sequence with nothing pruned: all tokens, all heads, whatever was recorded.

    work   sequences to take in the place of the trace's own; their pruning is undone as well
    """
    if work is None:
        work = attention_work(trace, None if trace.made["kind"] == "recorded" else Policy())
    if trace.made["kind"] == "exported":  # dense already, and its layers need not be alike
        return work
    return [unpruned(sequence, trace.model["layers"], trace.model["heads"]) for sequence in work]


def unpruned(work: AttentionWork, layers: int, heads: int) -> AttentionWork:
    """Every layer and head of every step over all tokens of that step; a prompt computes all its queries."""
    steps, first = np.unique(work.step, return_index=True)
    length = work.length[first]
    prompt = np.isin(steps, work.step[work.queries > 1])
    rows = layers * heads
    full = np.repeat(length, rows)
    queries = np.repeat(np.where(prompt, length, 1), rows)
    zeros = np.zeros(len(full), np.int64)
    return replace(
        work,
        step=np.repeat(steps, rows),
        layer=np.tile(np.repeat(np.arange(layers), heads), len(steps)),
        head=np.tile(np.arange(heads), layers * len(steps)),
        length=full,
        queries=queries,
        keys=full,
        values=full,
        key_lsb_bits=0,
        key_set=zeros - 1,
        set_ptr=np.zeros(1, np.int64),
        set_index=np.zeros(0, np.int64),
        needs_lsb=np.zeros(int(queries.sum()), np.uint8),
        token_topk=zeros,
        token_candidates=zeros,
        head_topk=zeros,
        head_candidates=zeros,
        score_ptr=np.zeros(len(full) + 1, np.int64),
        score=np.zeros(0),
    )


def few_layers(work: AttentionWork, least: int = LONG) -> tuple[AttentionWork, int]:
    """(the first layers of an unpruned sequence, how many times they make the whole).

    The fewest that divide the layers and have `least` K vectors, all steps of them; the whole where that is shorter.
    Layers do not overlap and are alike, but for the phase of the refresh; where they are not, the whole.
    """
    if len({*zip(work.step.tolist(), work.queries.tolist(), work.keys.tolist(), strict=True)}) > len(
        np.unique(work.step)
    ):
        return work, 1
    layers = int(work.layer.max()) + 1
    shares = (n for n in range(1, layers + 1) if layers % n == 0 and int(work.keys.sum()) * n >= least * layers)
    kept = next(shares, layers)
    if kept == layers:
        return work, 1
    part = unpruned(work, kept, int(work.head.max()) + 1)
    return replace(part, dense_operations=work.dense_operations * kept // layers), layers // kept


@dataclass
class DenseTally(Tally):
    """With the counters that a planner gives with each plan."""

    counters: Counter[str] = field(default_factory=Counter)


def run_sequences(
    memory: Memory,
    clock_hz: int,
    work: list[AttentionWork],
    plan_of: Planned,
    options: Mapping[str, Any],
    long: int = LONG,
) -> DenseTally:
    """Each sequence as a plan, one after another.

    plan_of   (sequence, alignment of planes in bytes) -> plan and counters of its work
    options   engine, memory and timeline of `dataflow.simulate.simulate`
    long      see `few_layers`
    """
    standard = load_standard(memory.standard)
    spec = memory_of(memory, standard, clock_hz, options.get("memory", "dram"))
    o = standard.organisation
    tally, timeline = DenseTally(), Timeline() if options.get("timeline") else None
    for whole in work:
        sequence, parts = few_layers(whole, long)
        plan, counters = plan_of(sequence, o.row_bytes * o.pseudo_channels * memory.channels)
        times, state = run_plan(plan, spec, options.get("engine", "compiled"))
        if timeline:
            timeline.add(plan, times, sequence.name)
        tally.count(part_of(plan, times, state, o.burst_bytes), state, o.burst_bytes, parts * sequence.repeat)
        tally.cycles.extend([parts * times.makespan] * sequence.repeat)
        count(tally.counters, counters, parts * sequence.repeat)
    if timeline:
        timeline.write(Path(options["timeline"]))
    return tally
