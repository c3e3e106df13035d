"""MNNFast: a toy world by hand, bounds, and what streaming and zero skipping do."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.machine import load_machine
from accel.mnnfast import MnnFastMachine
from dataflow.engines import run_plan
from dataflow.mnnfast import plan_mnnfast
from dataflow.simulate import simulate
from dataflow.streaming import Stream, cut
from sim.dram import IdealSpec
from workloads.attention import AttentionWork
from workloads.dense import dense_attention
from workloads.policy import Policy
from workloads.trace import load_workload

FREE = IdealSpec(1 << 40, 1, 32)  # every fetch takes two cycles


def machine(**overrides: Any) -> MnnFastMachine:
    loaded = load_machine("mnnfast", {f"streaming.{key}": value for key, value in overrides.items()})
    assert isinstance(loaded, MnnFastMachine)
    return loaded


def prompt(tokens: int, heads: int = 1, layers: int = 1) -> AttentionWork:
    return dense_attention(layers, heads, tokens, 64, 12)


def logged(mnnfast: MnnFastMachine, work: AttentionWork, memory: IdealSpec = FREE) -> list[tuple[str, int, int]]:
    plan, _ = plan_mnnfast(mnnfast, work, 4096)
    plan.check()
    times, _ = run_plan(plan, memory)
    names = [plan.units[unit].name for unit in plan.unit]
    return [(name, int(a), int(b)) for name, a, b in zip(names, times.start, times.free, strict=True)]


def test_chunks_pass_by_all_queries_and_outputs_follow_scores() -> None:
    """70 keys in chunks of 64, 40 queries in blocks of 32; half of the V rows survive; an exponent takes 20 cycles."""
    log = logged(machine(surviving_share=0.5), prompt(70))
    scores = [entry for entry in log if entry[0] == "score"]
    first = scores[0][1]
    amounts = [stop - start for _, start, stop in scores]
    assert amounts == [32 * 64, 32 * 64, 6 * 64, 32 * 6, 32 * 6, 6 * 6]
    assert scores[-1][2] == first + 70 * 70
    outputs = [(start, stop - start) for name, start, stop in log if name == "output"]
    assert [amount for _, amount in outputs] == [32 * 32, 32 * 32, 6 * 32, 32 * 3, 32 * 3, 6 * 3]
    assert outputs[0][0] == first + 32 * 64 + 20


def test_a_token_starts_on_its_first_chunk() -> None:
    """At 96 B (a vector) a cycle: 1 of Q and 64 of K, not all 512; A3 would wait for 1024."""
    work = replace(prompt(512), queries=np.ones(1, np.int64))
    log = logged(machine(), work, IdealSpec(96 * 10**9, 0, 96, 10**9))
    assert next(start for name, start, _ in log if name == "score") <= 1 + 64 + 2


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_what_survives_does_not_set_the_pace(share: float) -> None:
    """Q x K is dense: 128 multipliers reach a half and the surviving share of the other half."""
    work = prompt(384, heads=2)
    plan, counters = plan_mnnfast(machine(surviving_share=share), work, 4096)
    cycles = run_plan(plan, FREE)[0].makespan
    assert 2 * 384 * 384 <= cycles < 2 * 384 * 384 * 1.01
    assert counters["multiply_adds"] / (128 * cycles) == pytest.approx((1 + share) / 2, rel=0.03)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 150), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 2, 4]))
def test_cycles_lie_between_the_slowest_module_and_the_serial_sum(
    n: int, heads: int, layers: int, buffers: int
) -> None:
    log = logged(machine(buffers=buffers), prompt(n, heads, layers))
    busy: dict[str, int] = {}
    for unit, start, stop in log:
        busy[unit] = busy.get(unit, 0) + stop - start
    end = max(stop for _, _, stop in log)
    assert max(busy.values()) <= end <= sum(busy.values()) + 22 * len(log)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=5), st.integers(1, 9))
def test_blocks_cover_every_query_and_key_once(rows: list[tuple[int, int]], size: int) -> None:
    keys, queries = (np.array(column) for column in zip(*rows, strict=True))
    work = replace(prompt(1), layer=0 * keys, keys=keys, queries=queries)
    blocks = cut(work, Stream(size, size + 1, 2, 8, 64, False))
    pairs = np.bincount(blocks.row[blocks.chunk], blocks.queries * blocks.keys[blocks.chunk])
    assert pairs.tolist() == (keys * queries).tolist()
    assert np.bincount(blocks.row, blocks.keys).tolist() == keys.tolist()
    assert blocks.keys.max() <= size
    assert blocks.queries.max() <= size + 1


def test_a_result_is_dense_in_dram_and_priced_by_one_assumed_power() -> None:
    trace = load_workload("minilm")
    result = simulate(machine(), trace, Policy(token_keep=0.3, value_keep=0.3))
    assert len(set(result.dram_requested_bytes.values())) == 1
    assert result.energy_j == {"assumed_power": pytest.approx(result.latency_s)}
    assert sum(result.operations.values()) < result.effective_operations
    assert "streaming.surviving_share" in result.left_out[-1]
