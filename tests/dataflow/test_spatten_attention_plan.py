"""What SpAtten's modules count and how long they take is what the plan says."""

import numpy as np
import pytest

from dataflow.spatten.draft import (
    ACCUMULATIONS,
    COUNTER_COUNT,
    K_READ,
    K_WRITE,
    MACS_PV,
    MACS_QK,
    OPERANDS,
    RECOMPUTED,
    SCORES,
    UNITS,
    V_READ,
    V_WRITE,
)
from dataflow.spatten.modules import accumulators, prob_value, query_key, softmax
from dataflow.spatten.modules.attention import Datapath, Head, values_kept
from dataflow.spatten.plan import Lowered, plan_attention
from tests.dataflow.spatten_heads import POLICIES, normal, run, spatten
from tests.dataflow.spatten_worlds import work
from workloads.policy import Policy


def lowered_like(head: Head, queries: int, keys: int, size: int, policy: Policy) -> Lowered:
    """The plan of a work that has just that head."""
    bits = {name: getattr(policy, name) for name in ("query_bits", "key_msb_bits", "key_lsb_bits", "value_bits")}
    rows = [(0, 0, 0, keys, queries, keys, values_kept(policy.value_keep, keys))]
    needs = head.recomputed.astype(np.uint8)
    return plan_attention(spatten(), work(rows, head_size=size, needs_lsb=needs, **bits), 1024)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(("queries", "keys", "size"), [(7, 30, 64), (1, 61, 64), (1, 33, 128), (9, 20, 32)])
def test_counts_are_those_of_the_plan(name: str, queries: int, keys: int, size: int) -> None:
    policy = POLICIES[name]
    head = run(normal(keys, queries, keys, size, spread=1.5), policy)
    lowered = lowered_like(head, queries, keys, size, policy)
    found, expected = head.counts, lowered.counters
    assert len(expected) == COUNTER_COUNT
    for count, column in (
        (found.macs_qk, MACS_QK), (found.macs_pv, MACS_PV), (found.exponentials, SCORES),
        (found.accumulations, ACCUMULATIONS), (found.recomputed, RECOMPUTED),
    ):  # fmt: skip
        assert count == expected[column]
    slices = lowered.plan.slices
    moved = np.bincount(slices.operand, np.add.reduceat(slices.size_bytes, slices.ptr[:-1]), len(OPERANDS))
    assert found.fetched_bytes == {OPERANDS[i]: n for i, n in enumerate(moved) if n}
    passes, used = queries + found.recomputed, values_kept(policy.value_keep, keys)
    assert (passes * keys, queries * used) == (expected[K_READ], expected[V_READ])
    assert found.key_lines_read == passes * query_key.cycles(keys, size, 512)
    assert found.value_lines_read == queries * query_key.cycles(used, size, 512)
    assert found.key_lines_written == expected[K_WRITE] // keys * query_key.cycles(keys, size, 512)
    assert found.value_lines_written == query_key.cycles(int(expected[V_WRITE]), size, 512)


@pytest.mark.parametrize("size", [16, 32, 64, 128, 256, 512])
@pytest.mark.parametrize("keys", [1, 7, 8, 9, 100])
def test_stage_times_are_those_of_the_plan(size: int, keys: int) -> None:
    used = max(1, keys // 2)
    lowered = plan_attention(spatten(), work([(0, 0, 0, keys, 1, keys, used)], head_size=size), 1024)
    plan, lanes = lowered.plan, spatten().units.softmax.lanes
    amount = {UNITS[u]: int(a) for u, a in zip(plan.unit, plan.amount, strict=True)}
    assert amount["query_key"] == query_key.cycles(keys, size, 512)
    assert amount["prob_value"] == prob_value.cycles(used, size, 512)
    assert amount["softmax"] == softmax.cycles(keys, lanes)
    assert amount["accumulator"] == accumulators.cycles(keys, lanes)


def test_pipelines_are_no_deeper_than_the_machine_says() -> None:
    """Its latencies are those of the whole stage, SRAM and FIFOs included."""
    u = spatten().units
    assert query_key.depth_cycles(64, u.query_key.multipliers) <= u.query_key.latency_cycles
    assert prob_value.depth_cycles(64, u.prob_value.multipliers) <= u.prob_value.latency_cycles


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_the_plan_refuses_what_the_sram_refuses(size: int) -> None:
    most = Datapath.of(spatten()).key_sram.capacity(size)
    plan_attention(spatten(), work([(0, 0, 0, most, 1, most, most)], head_size=size), 1024)
    with pytest.raises(ValueError, match="key_sram"):
        plan_attention(spatten(), work([(0, 0, 0, most + 1, 1, most + 1, 1)], head_size=size), 1024)
