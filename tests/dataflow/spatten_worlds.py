"""Small SpAtten machines and works: by hand for exact logs, at random for properties."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from accel.machine import load_machine, load_standard
from accel.spatten import SpattenMachine
from dataflow.memory import dram_spec, peak_bytes_per_s
from dataflow.spatten.draft import UNITS
from dataflow.spatten.plan import Lowered, plan_attention
from sim.compiled import run_compiled
from sim.dram import DramSpec, IdealSpec
from sim.plan import Times
from tests.sim.worlds import Log, log_of
from workloads.attention import AttentionWork

MACHINES = ("spatten", "spatten_as_released")
IDEAL = IdealSpec(transfer_bytes=8, latency_cycles=5, burst_bytes=32)
Row = tuple[int, int, int, int, int, int, int]  # step, layer, head, length, queries, keys, values
# vectors of 4 elements, one key a cycle and one score a cycle; latencies 2, 3 and 1, 1 of the fetcher
TINY = {
    "units.query_key.multipliers": 4, "units.query_key.latency_cycles": 2, "units.softmax.lanes": 1,
    "units.softmax.latency_cycles": 3, "units.prob_value.multipliers": 4, "units.prob_value.latency_cycles": 1,
    "units.fetcher.latency_cycles": 1, "units.topk.comparators": 4,
    "units.topk.pass_overhead_cycles": 2,
}  # fmt: skip


def machine(**overrides: Any) -> SpattenMachine:
    """The tiny machine; `key_sram__buffers=3` sets units.key_sram.buffers."""
    named = {f"units.{name.replace('__', '.')}": value for name, value in overrides.items()}
    loaded = load_machine("spatten", TINY | named)
    assert isinstance(loaded, SpattenMachine)
    return loaded


def work(rows: Sequence[Row], **changes: Any) -> AttentionWork:
    """Rows of vectors of 4 elements of 8 bits, keys evenly spread; `changes` replace fields."""
    step, layer, head, length, queries, keys, values = np.array(rows, np.int64).T.copy()
    none = np.zeros(len(rows), np.int64)
    plain = AttentionWork(
        name="toy", head_size=4, query_bits=8, key_msb_bits=8, key_lsb_bits=0, value_bits=8, step=step, layer=layer,
        head=head, length=length, queries=queries, keys=keys, values=values, key_set=none - 1,
        set_ptr=np.zeros(1, np.int64), set_index=np.zeros(0, np.int64), needs_lsb=np.zeros(queries.sum(), np.uint8),
        token_topk=none, token_candidates=none, head_topk=none, head_candidates=none,
        score_ptr=np.zeros(len(rows) + 1, np.int64), score=np.zeros(0), dense_operations=1,
    )  # fmt: skip
    return replace(plain, **changes)


def simulate(
    machine: SpattenMachine, work: AttentionWork, memory: DramSpec | IdealSpec = IDEAL
) -> tuple[Lowered, Times]:
    """The plan, checked, and its times on the compiled engine."""
    lowered = plan_attention(machine, work, 1024)
    lowered.plan.check()
    return lowered, run_compiled(lowered.plan, memory)[0]


def named_log(machine: SpattenMachine, work: AttentionWork) -> list[tuple[str, int, int, int]]:
    """(unit, start, free, finish) of each task with the ideal memory."""
    lowered, times = simulate(machine, work)
    return [(UNITS[u], *log) for u, log in zip(lowered.plan.unit, log_of(times), strict=True)]


def starts(machine: SpattenMachine, work: AttentionWork, unit: str) -> list[tuple[int, int, int]]:
    """(start, free, finish) of the tasks of a unit."""
    return [times for name, *times in named_log(machine, work) if name == unit]  # type: ignore[misc]


def segments(lowered: Lowered, number: int) -> Log:
    """(address, bytes, operand) of a slice's segments."""
    s = lowered.plan.slices
    part = slice(s.ptr[number], s.ptr[number + 1])
    return [(int(a), int(b), int(s.operand[number])) for a, b in zip(s.address[part], s.size_bytes[part], strict=True)]


def dram(machine: SpattenMachine) -> DramSpec:
    """The DRAM as the machine has it."""
    return dram_spec(machine.memory, load_standard(machine.memory.standard), machine.clock_hz)


def peak_bytes_per_cycle(machine: SpattenMachine) -> float:
    """What its channels move in a core cycle at most."""
    return peak_bytes_per_s(machine.memory, load_standard(machine.memory.standard)) / machine.clock_hz


def random_machine(rng: np.random.Generator, name: str) -> SpattenMachine:
    """That machine with few lanes, short FIFOs and queues, few buffers and channels, one or two top-k engines."""

    def pick(*values: int) -> int:
        return int(rng.choice(values))

    overrides = {
        "units.query_key.multipliers": pick(2, 8, 64), "units.prob_value.multipliers": pick(2, 8, 64),
        "units.softmax.lanes": pick(1, 2, 8), "units.softmax.fifo_depth": pick(2, 16, 128),
        "units.softmax.latency_cycles": pick(0, 3, 87), "units.topk.engines": pick(1, 2),
        "units.topk.comparators": pick(1, 4, 16),
        "units.fetcher.query_block": pick(1, 3, 32), "units.fetcher.query_blocks": pick(1, 2),
        "units.key_sram.buffers": pick(1, 2, 3), "units.value_sram.buffers": pick(1, 2, 3),
        "memory.channels": pick(1, 4), "memory.fifo_depth": pick(2, 64), "memory.controller.read_queue": pick(2, 32),
        "memory.controller.write_queue": pick(2, 32), "memory.controller.outstanding_reads": pick(4, 64),
        "write_output": bool(rng.integers(2)), "units.topk.seed": pick(1, 2, 3),
    }  # fmt: skip
    loaded = load_machine(name, overrides)
    assert isinstance(loaded, SpattenMachine)
    return loaded


def random_work(rng: np.random.Generator) -> AttentionWork:
    """A prompt or some generated tokens, pruned from layer to layer, with or without LSBs and recorded sets."""
    layers, heads, prompt = int(rng.integers(1, 4)), int(rng.integers(1, 4)), rng.random() < 0.5
    length = int(rng.integers(1, 30))
    rows, topk = [], []
    for step in range(1 if prompt else int(rng.integers(1, 4))):
        tokens, kept_heads = length + step, heads
        for layer in range(layers):
            values = max(1, int(tokens * rng.choice([1.0, 0.5])))
            for head in range(kept_heads):
                rows.append((step, layer, head, length + step, tokens if prompt else 1, tokens, values))
            fewer = (max(1, tokens - int(rng.integers(0, 5))), max(1, kept_heads - int(rng.integers(0, 2))))
            topk += [(0, 0, 0, 0)] * (kept_heads - 1)
            token_topk, head_topk = fewer[0] < tokens, fewer[1] < kept_heads
            topk.append((fewer[0] * token_topk, tokens * token_topk, fewer[1] * head_topk, kept_heads * head_topk))
            tokens, kept_heads = fewer
    columns = np.array(topk, np.int64).T.copy()
    bits = {"key_lsb_bits": int(rng.choice([0, 4])), "head_size": int(rng.choice([4, 16, 64]))}
    plain = work(
        rows, **dict(zip(("token_topk", "token_candidates", "head_topk", "head_candidates"), columns, strict=True))
    )
    needs = (rng.random(len(plain.needs_lsb)) < rng.choice([0.0, 0.2, 1.0])).astype(np.uint8)
    return _with_facts(rng, replace(plain, needs_lsb=needs, **bits))


def _with_facts(rng: np.random.Generator, plain: AttentionWork) -> AttentionWork:
    """Half of the works with scores for the token top-k, half with the positions that are kept."""
    if rng.random() < 0.5:
        ptr = np.concatenate([[0], np.cumsum(plain.token_candidates)])
        plain = replace(plain, score_ptr=ptr, score=rng.integers(0, 9, ptr[-1]).astype(float))
    if rng.random() < 0.5:
        sets = [np.sort(rng.permutation(n)[:k]) for n, k in zip(plain.length, plain.keys, strict=True)]
        ptr = np.concatenate([[0], np.cumsum(plain.keys)])
        plain = replace(plain, key_set=np.arange(plain.rows), set_ptr=ptr, set_index=np.concatenate(sets))
    return plain
