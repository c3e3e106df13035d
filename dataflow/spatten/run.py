"""Planner "spatten": each sequence of a workload as a Plan, run one after another, counted and priced."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.machine import load_standard
from accel.memory import Standard
from accel.spatten import SpattenMachine
from accel.standard import PICOSECONDS
from dataflow.engines import run_plan
from dataflow.lowering import planner
from dataflow.memory import dram_spec, peak_bytes_per_s
from dataflow.spatten.draft import (
    COUNTER_COUNT,
    LSB_ROWS,
    MACS_PV,
    MACS_QK,
    OPERANDS,
    OUTPUT,
    RECOMPUTED,
    SCORES,
    TOPK_PASSES,
)
from dataflow.spatten.plan import Lowered, plan_attention
from dataflow.spatten.price import area_mm2, dram_energy_j, on_chip_energy_j, sram_bytes
from sim.critical_path import critical_path
from sim.dram import DramSpec, IdealSpec, MemoryState
from sim.dram.layout import IDEAL
from sim.plan import Plan, Times
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


@dataclass
class Tally:
    """Sums over the sequences of a workload."""

    cycles: list[int] = field(default_factory=list)  # of each sequence
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


def _by_operand(plan: Plan, per_slice: NDArray[np.int64]) -> dict[str, int]:
    sums = np.bincount(plan.slices.operand, per_slice, len(OPERANDS))
    return {name: int(total) for name, total in zip(OPERANDS, sums, strict=True)}


def _check_served(plan: Plan, moved: Mapping[str, int], commands: Mapping[str, int], burst: int) -> None:
    """Conservation: every burst asked for was read or written once, and every slice came back."""
    served = (commands["reads"] + commands["writes"]) * burst
    if served != sum(moved.values()):
        raise AssertionError(f"memory served {served} bytes, {sum(moved.values())} were asked for")
    writes = int(plan.slices.write.sum())
    if bool(writes) != bool(commands["writes"]):
        raise AssertionError(f"{writes} slices to write, {commands['writes']} bursts written")


def _check_work(
    machine: SpattenMachine, lowered: Lowered, work: AttentionWork, asked: Mapping[str, int], busy: Mapping[str, int]
) -> None:
    """Conservation, recomputed from the work alone: bytes asked for, multiply-adds, and room for them in the arrays."""
    bits = (work.query_bits, work.key_msb_bits, work.key_lsb_bits, work.value_bits)
    expected = [n * -(-b * work.head_size // 8) for n, b in zip(_vectors(work), bits, strict=True)]
    if [asked[name] for name in OPERANDS[:OUTPUT]] != expected:
        raise AssertionError(f"plan asks for {dict(asked)} bytes, the work has {expected} of Q, K, LSBs and V")
    again = int(np.repeat(work.keys, work.queries)[work.needs_lsb.astype(bool)].sum()) if work.key_lsb_bits else 0
    products = (int((work.queries * work.keys).sum()) + again, int((work.queries * work.values).sum()))
    units = machine.units
    room = (
        busy["query_key"] * units.query_key.multipliers,
        busy["prob_value"] * units.prob_value.multipliers,
    )
    for name, n, counted, most in zip(
        ("Q x K", "prob x V"), products, lowered.counters[[MACS_QK, MACS_PV]], room, strict=True
    ):
        if counted != n * work.head_size or counted > most:
            raise AssertionError(
                f"{name}: the plan counts {counted} multiply-adds of {n * work.head_size}, room for {most}"
            )
    if 4 * work.head_size * (products[0] - again) > work.dense_operations:  # Q x K is half of the dense work
        raise AssertionError("the pruned work has more operations than the dense one")


def _vectors(work: AttentionWork) -> tuple[int, int, int, int]:
    """Q, K, LSB and V vectors that must be fetched: LSBs once a row that needs them, V whole for a prompt."""
    prompt = work.queries > 1
    flagged = np.zeros(work.rows, bool)
    if work.key_lsb_bits and work.needs_lsb.any():
        flagged = np.maximum.reduceat(work.needs_lsb, np.cumsum(work.queries) - work.queries).astype(bool)
    return (
        int(work.queries.sum()),
        int(work.keys.sum()),
        int(work.keys[flagged].sum()),
        int(np.where(prompt, work.keys, work.values).sum()),
    )


def _busy(plan: Plan, times: Times) -> dict[str, int]:
    cycles = np.bincount(plan.unit, times.free - times.start, len(plan.units))
    return {unit.name: int(total) for unit, total in zip(plan.units, cycles, strict=True) if total}


def _add(
    tally: Tally,
    machine: SpattenMachine,
    work: AttentionWork,
    lowered: Lowered,
    times: Times,
    state: MemoryState,
    burst: int,
) -> None:
    plan, times_run = lowered.plan, work.repeat
    moved = _by_operand(plan, state.bursts * burst)
    if not state.config[IDEAL]:
        _check_served(plan, moved, state.commands, burst)
        _count(tally.activates, _by_operand(plan, state.activates), times_run)
        _count(tally.idle, {cause: round(cycles) for cause, cycles in state.idle.items()}, times_run)
        tally.active_cycles += times_run * state.active_cycles(state.tick_of(times.makespan))
    requested = _by_operand(plan, np.add.reduceat(plan.slices.size_bytes, plan.slices.ptr[:-1]))
    busy = _busy(plan, times)
    _check_work(machine, lowered, work, requested, busy)
    tally.cycles.extend([times.makespan] * times_run)
    _count(tally.moved, moved, times_run)
    _count(tally.requested, requested, times_run)
    _count(tally.commands, state.commands, times_run)
    _count(tally.path, critical_path(plan, times), times_run)
    _count(tally.busy, busy, times_run)
    tally.counters += times_run * lowered.counters
    _count(tally.work, _facts(work, lowered), times_run)
    tally.head_size = work.head_size


def _count(total: Counter[str], amounts: Mapping[str, int], times_run: int) -> None:
    total.update({name: times_run * amount for name, amount in amounts.items()})


def _facts(work: AttentionWork, lowered: Lowered) -> dict[str, int]:
    return {
        "rows": work.rows,
        "k_vectors": int(work.keys.sum()),
        "v_vectors": int(work.values.sum()),
        "lsb_rows": int(lowered.counters[LSB_ROWS]),
        "effective": work.dense_operations,
    }


def _memory(machine: SpattenMachine, standard: Standard, kind: str) -> DramSpec | IdealSpec:
    """The controller, or a memory of the same peak without banks."""
    if kind == "dram":
        return dram_spec(machine.memory, standard, machine.clock_hz)
    t = standard.timing
    latency = -(-(t.rcd_read_cycles + t.read_latency_cycles) * machine.clock_hz // standard.clock_hz)
    peak = int(peak_bytes_per_s(machine.memory, standard))
    return IdealSpec(peak, latency, standard.organisation.burst_bytes, machine.clock_hz)


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
    memory = _memory(machine, standard, options.get("memory", "dram"))
    tally, timeline = Tally(), Timeline() if options.get("timeline") else None
    for number, (sequence, lowered) in enumerate(lower(machine, standard, work)):
        times, state = run_plan(lowered.plan, memory, options.get("engine", "compiled"))
        if timeline:
            timeline.add(lowered.plan, times, f"{trace.name}/{number}")
        _add(tally, machine, sequence, lowered, times, state, standard.organisation.burst_bytes)
    if timeline:
        timeline.write(Path(options["timeline"]))
    return _result(machine, trace.name, standard, tally)


def _operations(machine: SpattenMachine, counters: NDArray[np.int64]) -> dict[str, int]:
    """Multiply-adds count two, as in the paper's GOP/s; exponentials are counted apart."""
    return {f"int{machine.element_bits}": 2 * int(counters[MACS_QK] + counters[MACS_PV])}


def _dram_energy(
    machine: SpattenMachine, standard: Standard, cycles: int, tally: Tally
) -> tuple[dict[str, float], dict[str, float]]:
    """By component and by operand; an ideal memory is charged for its bursts alone."""
    burst = standard.organisation.burst_bytes
    moved = {name: (n, 0) for name, n in tally.moved.items()} | {OPERANDS[OUTPUT]: (0, tally.moved[OPERANDS[OUTPUT]])}
    reads, writes = (sum(n[i] for n in moved.values()) // burst for i in (0, 1))
    commands = {"reads": reads, "writes": writes} | {name: n for name, n in tally.commands.items() if n}
    elapsed = cycles * PICOSECONDS / machine.clock_hz / standard.clock_period_ps if tally.active_cycles else 0.0
    channels = machine.memory.channels
    return dram_energy_j(standard, commands, (elapsed, tally.active_cycles), channels, moved, tally.activates)


def _result(machine: SpattenMachine, workload: str, standard: Standard, tally: Tally) -> Result:
    cycles = sum(tally.cycles)
    sram = sram_bytes(machine, tally.counters, tally.head_size)
    moved = sum(tally.moved.values())
    energy = on_chip_energy_j(machine, tally.counters, sram, moved)
    by_part, of_operands = _dram_energy(machine, standard, cycles, tally)
    return Result(
        machine=machine.name,
        workload=workload,
        cycles=cycles,
        latency_s=cycles / machine.clock_hz,
        limited_by=max(tally.path, key=lambda name: tally.path[name]),
        dram_read_bytes={name: n for name, n in tally.moved.items() if name != OPERANDS[OUTPUT]},
        dram_write_bytes={OPERANDS[OUTPUT]: tally.moved[OPERANDS[OUTPUT]]},
        dram_requested_bytes=dict(tally.requested),
        dram_commands=dict(tally.commands),
        dram_idle_cycles=dict(tally.idle),
        dram_energy_j=of_operands,
        energy_j=energy | by_part,
        area_mm2=area_mm2(machine),
        operations=_operations(machine, tally.counters),
        effective_operations=tally.work["effective"],
        critical_path=dict(tally.path),
        sram_bytes=sram,
        utilisation={name: busy / cycles for name, busy in tally.busy.items()},
        sequence_latency_s=tuple(c / machine.clock_hz for c in tally.cycles),
        counts={
            **{name: tally.work[name] for name in ("rows", "k_vectors", "v_vectors", "lsb_rows")},
            "recomputed_queries": int(tally.counters[RECOMPUTED]),
            "topk_passes": int(tally.counters[TOPK_PASSES]),
            "exponentials": int(tally.counters[SCORES]),
        },
        left_out=LEFT_OUT,
    )
