"""Planner "spatten": each sequence of a workload as a Plan, run one after another, counted and priced."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.machine import load_standard
from accel.memory import Standard
from accel.spatten import SpattenMachine
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
from sim.plan import Plan, Times
from sim.result import Result
from sim.timeline import Timeline
from workloads.attention import AttentionWork
from workloads.policy import Policy
from workloads.replay import attention_work
from workloads.trace import Trace

LEFT_OUT = (
    "FC layers, layer norm and everything else outside attention: layers follow each other at once",
    "leakage, clock tree and DRAM background and refresh energy; area and energy are first-order (linear)",
    "streaming inside a row of scores: a stage takes a query when the stage before has finished it",
    "conflicts in the address and data crossbars",
    "which V vectors the local top-k keeps: evenly spread; the passes of that top-k: drawn with a seed",
)


@dataclass
class Tally:
    """Sums over the sequences of a workload."""

    cycles: list[int] = field(default_factory=list)
    work: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    requested: Counter[str] = field(default_factory=Counter)
    commands: Counter[str] = field(default_factory=Counter)
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


def _check_executed(lowered: Lowered, work: AttentionWork) -> None:
    """Conservation: the multiply-adds of the plan are those of the work, and the recomputed ones."""
    keys = work.queries * work.keys
    rows = np.repeat(work.keys, work.queries)
    again = int(rows[work.needs_lsb.astype(bool)].sum()) if work.key_lsb_bits else 0
    expected = (int(keys.sum()) + again, int((work.queries * work.values).sum()))
    planned = (int(lowered.counters[MACS_QK]), int(lowered.counters[MACS_PV]))
    if planned != tuple(work.head_size * n for n in expected):
        raise AssertionError(f"plan executes {planned} multiply-adds, the work has {expected} x {work.head_size}")


def _busy(plan: Plan, times: Times) -> dict[str, int]:
    cycles = np.bincount(plan.unit, times.free - times.start, len(plan.units))
    return {unit.name: int(total) for unit, total in zip(plan.units, cycles, strict=True) if total}


def _add(tally: Tally, work: AttentionWork, lowered: Lowered, times: Times, state: MemoryState, burst: int) -> None:
    plan = lowered.plan
    moved = _by_operand(plan, state.bursts * burst)
    if not state.config[0]:
        _check_served(plan, moved, state.commands, burst)
    _check_executed(lowered, work)
    starts = plan.slices.ptr[:-1]
    tally.cycles.append(times.makespan)
    tally.moved.update(moved)
    tally.requested.update(_by_operand(plan, np.add.reduceat(plan.slices.size_bytes, starts)))
    tally.commands.update(state.commands)
    tally.path.update(critical_path(plan, times))
    tally.busy.update(_busy(plan, times))
    tally.counters += lowered.counters
    tally.work.update(
        rows=work.rows,
        k_vectors=int(work.keys.sum()),
        v_vectors=int(work.values.sum()),
        lsb_rows=int(lowered.counters[LSB_ROWS]),
        effective=work.dense_operations,
        head_size=work.head_size if not tally.work["head_size"] else 0,
    )


def _memory(machine: SpattenMachine, standard: Standard, kind: str) -> DramSpec | IdealSpec:
    """The controller, or a memory of the same peak without banks."""
    if kind == "dram":
        return dram_spec(machine.memory, standard, machine.clock_hz)
    per_cycle = int(peak_bytes_per_s(machine.memory, standard) // machine.clock_hz)
    t = standard.timing
    latency = -(-(t.rcd_read_cycles + t.read_latency_cycles) * machine.clock_hz // standard.clock_hz)
    return IdealSpec(max(per_cycle, 1), latency, standard.organisation.burst_bytes)


@planner("spatten")
def run_spatten(
    machine: SpattenMachine, trace: Trace, policy: Policy | None, options: Mapping[str, Any] | None = None
) -> Result:
    """Attention of every sequence of the trace on a SpAtten-type machine, one sequence after another.

    options   engine: "compiled" or "simpy"; memory: "dram" or "ideal"; timeline: path of a Perfetto trace
    """
    options = options or {}
    work = options.get("work") or attention_work(trace, policy)
    standard = load_standard(machine.memory.standard)
    memory = _memory(machine, standard, options.get("memory", "dram"))
    o = standard.organisation
    align = o.row_bytes * o.pseudo_channels * machine.memory.channels
    tally, timeline = Tally(), Timeline() if options.get("timeline") else None
    for number, sequence in enumerate(work):
        lowered = plan_attention(machine, sequence, align)
        times, state = run_plan(lowered.plan, memory, options.get("engine", "compiled"))
        if timeline:
            timeline.add(lowered.plan, times, f"{trace.name}/{number}")
        _add(tally, sequence, lowered, times, state, o.burst_bytes)
    if timeline:
        timeline.write(Path(options["timeline"]))
    return _result(machine, trace.name, standard, tally)


def _operations(machine: SpattenMachine, counters: NDArray[np.int64]) -> dict[str, int]:
    """Multiply-adds count two, as in the paper's GOP/s; exponentials are counted apart."""
    return {f"int{machine.element_bits}": 2 * int(counters[MACS_QK] + counters[MACS_PV])}


def _result(machine: SpattenMachine, workload: str, standard: Standard, tally: Tally) -> Result:
    cycles = sum(tally.cycles)
    sram = sram_bytes(machine, tally.counters, tally.work["head_size"])
    energy = on_chip_energy_j(machine, tally.counters, sram, sum(tally.moved.values()))
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
        energy_j=energy | dram_energy_j(standard, tally.commands),
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
