"""What runs of plans add up to, and what a `Result` takes from that."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.memory import Memory, Standard
from accel.standard import PICOSECONDS
from dataflow.dram_energy import dram_energy_j
from sim.critical_path import critical_path
from sim.dram import MemoryState
from sim.dram.layout import IDEAL
from sim.plan import Plan, Times

_COPY = re.compile(r"\.\d+")  # units of the second pipeline are called `softmax.1`


@dataclass(frozen=True)
class Part:
    """One run of a plan.

    moved, activates, requested   bytes as bursts, activates, bytes asked for, by operand
    writes                        slices that were written
    path, busy                    cycles by unit, copies of a unit under one name
    """

    cycles: int
    moved: Mapping[str, int]
    activates: Mapping[str, int]
    requested: Mapping[str, int]
    writes: int
    path: Mapping[str, int]
    busy: Mapping[str, int]


def part_of(plan: Plan, times: Times, state: MemoryState, burst: int) -> Part:
    """What a run came to."""
    held = np.bincount(plan.unit, times.free - times.start, len(plan.units))
    busy = {unit.name: int(cycles) for unit, cycles in zip(plan.units, held, strict=True) if cycles}
    return Part(
        times.makespan,
        _by_operand(plan, state.bursts * burst),
        {} if state.config[IDEAL] else _by_operand(plan, state.activates),
        _by_operand(plan, np.add.reduceat(plan.slices.size_bytes, plan.slices.ptr[:-1])),
        int(plan.slices.write.sum()),
        _merged(critical_path(plan, times)),
        _merged(busy),
    )


def _by_operand(plan: Plan, per_slice: NDArray[np.int64]) -> dict[str, int]:
    names = plan.slices.operand_names
    sums = np.bincount(plan.slices.operand, per_slice, len(names))
    return {name: int(total) for name, total in zip(names, sums, strict=True)}


def _merged(by_unit: Mapping[str, int]) -> dict[str, int]:
    merged: Counter[str] = Counter()
    for name, cycles in by_unit.items():
        merged[_COPY.sub("", name)] += cycles
    return dict(merged)


@dataclass
class Tally:
    """Sums over the sequences of a workload.

    written         operands that are written; the others are read
    cycles          of each sequence
    idle            memory cycles of data buses, by cause
    active_cycles   memory cycles of pseudo-channels with a row open or refreshing
    """

    written: tuple[str, ...] = ()
    cycles: list[int] = field(default_factory=list)
    moved: Counter[str] = field(default_factory=Counter)
    requested: Counter[str] = field(default_factory=Counter)
    commands: Counter[str] = field(default_factory=Counter)
    activates: Counter[str] = field(default_factory=Counter)
    idle: Counter[str] = field(default_factory=Counter)
    path: Counter[str] = field(default_factory=Counter)
    busy: Counter[str] = field(default_factory=Counter)
    active_cycles: float = 0.0

    def count(self, part: Part, state: MemoryState, burst: int, repeat: int) -> None:
        """Add a run that stands for `repeat` alike; every burst that was asked for must have been served."""
        if not state.config[IDEAL]:
            _check_served(part, state.commands, burst)
            count(self.idle, {cause: round(cycles) for cause, cycles in state.idle.items()}, repeat)
            self.active_cycles += repeat * state.active_cycles(state.tick_of(part.cycles))
        for name in ("moved", "activates", "requested", "path", "busy"):
            count(getattr(self, name), getattr(part, name), repeat)
        count(self.commands, state.commands, repeat)

    def dram_energy(
        self, memory: Memory, standard: Standard, clock_hz: int
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Joules by component ("dram_activate", ...) and by operand; an ideal memory is charged for bursts alone."""
        burst = standard.organisation.burst_bytes
        moved = {name: (0, n) if name in self.written else (n, 0) for name, n in self.moved.items()}
        reads, writes = (sum(n[i] for n in moved.values()) // burst for i in (0, 1))
        commands = {"reads": reads, "writes": writes} | {name: n for name, n in self.commands.items() if n}
        elapsed = sum(self.cycles) * PICOSECONDS / clock_hz / standard.clock_period_ps if self.active_cycles else 0.0
        cycles = elapsed, self.active_cycles
        return dram_energy_j(standard, commands, cycles, memory.channels, moved, self.activates)

    def fields(self, clock_hz: int) -> dict[str, Any]:
        """What a `Result` takes from here."""
        cycles = sum(self.cycles)
        return {
            "cycles": cycles,
            "latency_s": cycles / clock_hz,
            "limited_by": max(self.path, key=lambda name: self.path[name]),
            "dram_read_bytes": {name: n for name, n in self.moved.items() if name not in self.written},
            "dram_write_bytes": {name: self.moved[name] for name in self.written},
            "dram_requested_bytes": dict(self.requested),
            "dram_commands": dict(self.commands),
            "dram_idle_cycles": dict(self.idle),
            "critical_path": dict(self.path),
            "utilisation": {name: busy / cycles for name, busy in self.busy.items()},
            "sequence_latency_s": tuple(c / clock_hz for c in self.cycles),
        }


def count(total: Counter[str], amounts: Mapping[str, int], repeat: int) -> None:
    """Add each amount so many times."""
    total.update({name: repeat * amount for name, amount in amounts.items()})


def _check_served(part: Part, commands: Mapping[str, int], burst: int) -> None:
    """Conservation: every burst asked for was read or written once, and every slice came back."""
    served = (commands["reads"] + commands["writes"]) * burst
    if served != sum(part.moved.values()):
        raise AssertionError(f"memory served {served} bytes, {sum(part.moved.values())} were asked for")
    if bool(part.writes) != bool(commands["writes"]):
        raise AssertionError(f"{part.writes} slices to write, {commands['writes']} bursts written")
