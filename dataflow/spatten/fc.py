"""FC layers on the multipliers of a SpAtten machine (SpAtten-e2e, section V-B of arXiv 2012.09852).

Weights stream from DRAM in slices that fill one half of the K and V memories; while both arrays work on a slice, the
next comes into the other half. A slice is fetched once and used by all tokens. Between two attention layers lie the
projection and the FFN of the one and Q, K and V of the next: a *stretch*, of four matrices. Within it weights are
fetched ahead; across attention they are not, as K and V then need the memories.

Left out: activations in DRAM (the paper keeps them on chip; a long prompt would not fit), layer norm, residuals,
biases, the language-model head, Q, K and V that a pruned head would spare.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from accel.spatten import SpattenMachine
from dataflow.engines import run_plan
from dataflow.memory import peak_bytes_per_s
from sim.critical_path import critical_path
from sim.dram import DramSpec, IdealSpec, MemoryState
from sim.plan import IN_ORDER, OLDEST_READY, Plan, Slices, Unit
from workloads.attention import AttentionWork

FETCH, ARRAYS = range(2)
UNITS = ("fc_fetcher", "fc_arrays")
LEAST_REFRESHES = 32  # a stretch that repeats is simulated as often as it takes to see so many
Stage = tuple[int, int]  # weights of a matrix, tokens that it multiplies
Stretch = tuple[Stage, ...]


@dataclass(frozen=True)
class Shape:
    """Weights of one layer's matrices, in elements: Q, K and V together; projection; the FFN's in order."""

    qkv: int
    projection: int
    ffn: tuple[int, ...]

    @property
    def layer(self) -> int:
        return self.qkv + self.projection + sum(self.ffn)


def fc_shape(model: Mapping[str, Any]) -> Shape:
    """From a trace's `model`: layers of a transformer. `intermediate` is 4 x hidden where it is not given (GPT-2)."""
    width = int(model["heads"]) * int(model["head_size"])
    hidden = int(model.get("hidden", width))
    shared = int(model.get("kv_heads", model["heads"])) * int(model["head_size"])
    between = hidden * int(model.get("intermediate", 4 * hidden))
    return Shape(hidden * (width + 2 * shared), width * hidden, (between,) * (3 if model.get("gated") else 2))


def layer_tokens(work: AttentionWork) -> list[int]:
    """Tokens that go through the FC layers of each layer of each step: the queries of its attention."""
    place = work.step * (int(work.layer.max()) + 1) + work.layer
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    return [int(n) for n in np.maximum.reduceat(work.queries, starts)]


def stretches(shape: Shape, tokens: list[int]) -> Counter[Stretch]:
    """What runs before, between and after the attention of those layers, alike ones together."""
    after = [((shape.projection, n), *((weights, n) for weights in shape.ffn)) for n in tokens]
    between = [(*stages, (shape.qkv, n)) for stages, n in zip(after[:-1], tokens[1:], strict=True)]
    return Counter([((shape.qkv, tokens[0]),), *between, after[-1]])


def dense_operations(shape: Shape, work: AttentionWork) -> int:
    """Multiply-adds x 2 with no token pruned: a prompt takes all its tokens through every layer."""
    layers = int(work.layer.max()) + 1
    _, first = np.unique(work.step, return_index=True)
    tokens = np.where(work.queries[first] > 1, work.length[first], 1)
    return 2 * shape.layer * layers * int(tokens.sum())


def slice_weights(machine: SpattenMachine) -> int:
    """Weights that one half of the K and V memories holds, at the width that elements have on chip."""
    u = machine.units
    return sum(sram.bytes // sram.buffers * 8 // machine.element_bits for sram in (u.key_sram, u.value_sram))


def multipliers(machine: SpattenMachine) -> int:
    """Of both arrays."""
    return machine.units.query_key.multipliers + machine.units.prob_value.multipliers


@dataclass
class _Draft:
    """A plan that is being written, and what its next stretch must wait for."""

    unit: list[int]
    amount: list[int]
    dep: list[list[int]]
    size: list[int]

    def add(self, unit: int, amount: int, dep: Iterable[int]) -> int:
        self.unit.append(unit)
        self.amount.append(amount)
        self.dep.append(list(dep))
        return len(self.unit) - 1


def plan_fc(machine: SpattenMachine, repeated: Iterable[Stretch]) -> Plan:
    """Those stretches one after another; weights lie one behind the other in DRAM."""
    draft = _Draft([], [], [], [])
    buffers = min(machine.units.key_sram.buffers, machine.units.value_sram.buffers)
    used: list[int] = []
    last: list[int] = []
    for stretch in repeated:
        gate = last
        for weights, tokens in stretch:
            inputs = last  # the outputs of the matrix before are its inputs
            for part in _parts(weights, slice_weights(machine)):
                room = [~used[-buffers]] if len(used) >= buffers else []
                fetched = draft.add(FETCH, len(draft.size), [*gate, *room])
                draft.size.append(-(-part * _bits(machine) // 8))
                used.append(draft.add(ARRAYS, -(-part * tokens // multipliers(machine)), [*inputs, fetched]))
                inputs = []
            last = [used[-1]]
    return _plan(machine, draft)


def _parts(weights: int, most: int) -> Iterator[int]:
    yield from [most] * (weights // most)
    if weights % most:
        yield weights % most


def _bits(machine: SpattenMachine) -> int:
    if machine.fc is None:
        raise AssertionError(f"{machine.name} has no FC layers")
    return machine.fc.weight_bits


def _plan(machine: SpattenMachine, draft: _Draft) -> Plan:
    u = machine.units
    latency = max(u.query_key.latency_cycles, u.prob_value.latency_cycles)
    units = (
        Unit(UNITS[FETCH], 1, OLDEST_READY, u.fetcher.latency_cycles),
        Unit(UNITS[ARRAYS], 1, IN_ORDER, latency),
    )
    size = np.array(draft.size, np.int64)
    address = np.cumsum(size) - size
    zeros = np.zeros(len(size), np.int64)
    slices = Slices(np.arange(len(size) + 1), address, size, zeros.astype(np.uint8), zeros, ("weight",))
    ptr = np.cumsum([0, *map(len, draft.dep)]).astype(np.int32)
    dep = np.array([d for deps in draft.dep for d in deps], np.int32)
    return Plan(units, np.array(draft.unit, np.int32), np.array(draft.amount, np.int32), ptr, dep, FETCH, slices)


@dataclass(frozen=True)
class FcRun:
    """One simulated piece of the FC layers, which stands for `times` alike."""

    times: int
    cycles: int
    requested: int  # bytes
    path: dict[str, int]
    busy: dict[str, int]
    state: MemoryState
    stretch: Stretch
    repeated: int

    @property
    def weights(self) -> int:
        """Elements fetched."""
        return self.repeated * sum(weights for weights, _ in self.stretch)

    @property
    def products(self) -> int:
        """Multiply-adds."""
        return self.repeated * sum(weights * tokens for weights, tokens in self.stretch)


def run_fc(
    machine: SpattenMachine,
    shape: Shape,
    work: AttentionWork,
    memory: DramSpec | IdealSpec,
    engine: str,
    refreshes: int = LEAST_REFRESHES,
) -> list[FcRun]:
    """The FC layers around the attention of a sequence.

    A stretch that occurs often (generation) is simulated back to back for at least `refreshes` refresh intervals, and
    that stands for the rest: each piece starts with all rows closed and a whole interval before its first refresh, so
    it may miss one. Measured against the whole in docs/decisions/0005.
    """
    runs = []
    for stretch, count in stretches(shape, layer_tokens(work)).items():
        group = min(count, _group(machine, stretch, memory, refreshes))
        for repeated, times in ((group, count // group), (count % group, 1)):
            if repeated:
                runs.append(_simulate(machine, stretch, repeated, times, memory, engine))
    return runs


def _group(machine: SpattenMachine, stretch: Stretch, memory: DramSpec | IdealSpec, refreshes: int) -> int:
    """How many of the stretch, back to back, take so many refresh intervals at least; 1 where nothing refreshes."""
    if isinstance(memory, IdealSpec):
        return 1
    interval = memory.refresh_interval * memory.memory_ps / memory.core_ps
    products = sum(weights * tokens for weights, tokens in stretch)
    fetched = sum(weights for weights, _ in stretch) * _bits(machine) / 8 / _peak_bytes_per_cycle(machine)
    return -int(-refreshes * interval // max(products / multipliers(machine), fetched))


def _peak_bytes_per_cycle(machine: SpattenMachine) -> float:
    from accel.machine import load_standard

    return peak_bytes_per_s(machine.memory, load_standard(machine.memory.standard)) / machine.clock_hz


def _simulate(
    machine: SpattenMachine, stretch: Stretch, repeated: int, times: int, memory: DramSpec | IdealSpec, engine: str
) -> FcRun:
    return FcRun(times, *_cached(machine, stretch, repeated, memory, engine), stretch, repeated)


@lru_cache(maxsize=1024)
def _cached(
    machine: SpattenMachine, stretch: Stretch, repeated: int, memory: DramSpec | IdealSpec, engine: str
) -> tuple[int, int, dict[str, int], dict[str, int], MemoryState]:
    plan = plan_fc(machine, [stretch] * repeated)
    times, state = run_plan(plan, memory, engine)
    held = np.bincount(plan.unit, times.free - times.start, len(UNITS))
    busy = {name: int(cycles) for name, cycles in zip(UNITS, held, strict=True)}
    return times.makespan, int(plan.slices.size_bytes.sum()), critical_path(plan, times), busy, state
