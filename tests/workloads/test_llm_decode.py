"""Decoding steps by name: what the name says, and what a policy changes."""

import pytest

from workloads.llm_decode import PRUNED, decode_names, decode_work
from workloads.policy import Policy
from workloads.replay import attention_work
from workloads.trace import load_workload


def test_a_name_says_context_batch_pruning_and_bits() -> None:
    trace = load_workload("llama3_8b_decode_2k_b8_pruned_kv4")
    found, expected = attention_work(trace, None), decode_work(2048, batch=8, kv_bits=4, policy=PRUNED)
    assert [one.keys.tolist() for one in found] == [one.keys.tolist() for one in expected]
    assert {one.key_msb_bits for one in found} == {4}
    assert sum(one.repeat for one in found) == trace.model["layers"]


def test_another_policy_replaces_its_own() -> None:
    trace = load_workload("llama3_8b_decode_1k_pruned")
    assert {int(one.keys.max()) for one in attention_work(trace, Policy())} == {1024}


def test_every_name_of_the_grid_resolves() -> None:
    assert len({load_workload(name).name for name in decode_names()}) == 48


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="workload: must be one of"):
        load_workload("llama3_8b_decode_2k_kv5")
