"""Machines without pruning: their work, and what runs of their plans add up to."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from accel.machine import load_standard
from accel.memory import Memory, Standard
from accel.standard import PICOSECONDS
from dataflow.engines import run_plan
from dataflow.memory import dram_spec, peak_bytes_per_s
from dataflow.spatten.price import dram_energy_j
from sim.critical_path import critical_path
from sim.dram import DramSpec, IdealSpec, MemoryState
from sim.dram.layout import IDEAL
from sim.plan import Plan, Times
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
    Layers do not overlap and are alike, but for the phase of the refresh.
    """
    layers = int(work.layer.max()) + 1
    shares = (n for n in range(1, layers + 1) if layers % n == 0 and int(work.keys.sum()) * n >= least * layers)
    kept = next(shares, layers)
    if kept == layers:
        return work, 1
    part = unpruned(work, kept, int(work.head.max()) + 1)
    return replace(part, dense_operations=work.dense_operations * kept // layers), layers // kept


def memory_of(memory: Memory, standard: Standard, clock_hz: int, kind: str) -> DramSpec | IdealSpec:
    """The controller ("dram"), or a memory of the same peak without banks ("ideal")."""
    if kind == "dram":
        return dram_spec(memory, standard, clock_hz)
    t = standard.timing
    latency = -(-(t.rcd_read_cycles + t.read_latency_cycles) * clock_hz // standard.clock_hz)
    return IdealSpec(int(peak_bytes_per_s(memory, standard)), latency, standard.organisation.burst_bytes, clock_hz)


@dataclass
class Tally:
    """Sums over the sequences of a workload; a sequence counts as often as its `repeat` says."""

    cycles: list[int] = field(default_factory=list)  # of each sequence
    moved: Counter[str] = field(default_factory=Counter)
    requested: Counter[str] = field(default_factory=Counter)
    commands: Counter[str] = field(default_factory=Counter)
    activates: Counter[str] = field(default_factory=Counter)
    idle: Counter[str] = field(default_factory=Counter)
    path: Counter[str] = field(default_factory=Counter)
    busy: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    active_cycles: float = 0.0

    def add(
        self,
        plan: Plan,
        times: Times,
        state: MemoryState,
        counters: Mapping[str, int],
        burst: int,
        parts: int,
        alike: int,
    ) -> None:
        """A part of a sequence; every burst that was asked for must have been read.

        parts   how many such parts make the sequence
        alike   how many such sequences there are
        """
        repeat = parts * alike
        moved = _by_operand(plan, state.bursts * burst)
        if not state.config[IDEAL]:
            if state.commands["reads"] * burst != sum(moved.values()):
                raise AssertionError(f"{state.commands['reads']} bursts read, {moved} bytes asked for")
            _count(self.activates, _by_operand(plan, state.activates), repeat)
            _count(self.idle, {cause: round(cycles) for cause, cycles in state.idle.items()}, repeat)
            self.active_cycles += repeat * state.active_cycles(state.tick_of(times.makespan))
        self.cycles.extend([parts * times.makespan] * alike)
        _count(self.moved, moved, repeat)
        _count(self.requested, _by_operand(plan, plan.slices.size_bytes), repeat)
        _count(self.commands, state.commands, repeat)
        _count(self.path, critical_path(plan, times), repeat)
        held = np.bincount(plan.unit, times.free - times.start, len(plan.units)).tolist()
        _count(self.busy, {u.name: int(n) for u, n in zip(plan.units, held, strict=True) if n}, repeat)
        _count(self.counters, counters, repeat)

    def dram_energy(
        self, memory: Memory, standard: Standard, clock_hz: int
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Joules by component and by operand; an ideal memory is charged for its bursts alone."""
        burst = standard.organisation.burst_bytes
        reads = {"reads": sum(self.moved.values()) // burst, "writes": 0}
        commands = reads | {name: n for name, n in self.commands.items() if n}
        seconds = sum(self.cycles) / clock_hz if self.active_cycles else 0.0
        elapsed = seconds * PICOSECONDS / standard.clock_period_ps
        moved = {name: (n, 0) for name, n in self.moved.items()}
        return dram_energy_j(standard, commands, (elapsed, self.active_cycles), memory.channels, moved, self.activates)

    def fields(self, clock_hz: int) -> dict[str, Any]:
        """What a `Result` takes from here."""
        cycles = sum(self.cycles)
        return {
            "cycles": cycles,
            "latency_s": cycles / clock_hz,
            "limited_by": max(self.path, key=lambda name: self.path[name]),
            "dram_read_bytes": dict(self.moved),
            "dram_write_bytes": {},
            "dram_requested_bytes": dict(self.requested),
            "dram_commands": dict(self.commands),
            "dram_idle_cycles": dict(self.idle),
            "critical_path": dict(self.path),
            "utilisation": {name: busy / cycles for name, busy in self.busy.items()},
            "sequence_latency_s": tuple(c / clock_hz for c in self.cycles),
        }


def _by_operand(plan: Plan, per_slice: np.ndarray) -> dict[str, int]:
    sums = np.bincount(plan.slices.operand, per_slice, len(plan.slices.operand_names))
    return {name: int(total) for name, total in zip(plan.slices.operand_names, sums, strict=True)}


def _count(total: Counter[str], amounts: Mapping[str, int], repeat: int) -> None:
    total.update({name: repeat * amount for name, amount in amounts.items()})


def run_sequences(
    memory: Memory,
    clock_hz: int,
    work: list[AttentionWork],
    plan_of: Planned,
    options: Mapping[str, Any],
    long: int = LONG,
) -> Tally:
    """Each sequence as a plan, one after another.

    plan_of   (sequence, alignment of planes in bytes) -> plan and counters of its work
    options   engine, memory and timeline of `dataflow.simulate.simulate`
    long      see `few_layers`
    """
    standard = load_standard(memory.standard)
    spec = memory_of(memory, standard, clock_hz, options.get("memory", "dram"))
    o = standard.organisation
    tally, timeline = Tally(), Timeline() if options.get("timeline") else None
    for whole in work:
        sequence, parts = few_layers(whole, long)
        plan, counters = plan_of(sequence, o.row_bytes * o.pseudo_channels * memory.channels)
        times, state = run_plan(plan, spec, options.get("engine", "compiled"))
        if timeline:
            timeline.add(plan, times, sequence.name)
        tally.add(plan, times, state, counters, o.burst_bytes, parts, sequence.repeat)
    if timeline:
        timeline.write(Path(options["timeline"]))
    return tally
