"""Attention of exported traces on the accelerators: shapes from the operands, dense, refused where it cannot be."""

import numpy as np
import pytest

from accel.machine import load_machine
from dataflow.simulate import simulate
from workloads.policy import Policy
from workloads.replay import attention_work
from workloads.trace import TABLES, TEXT_COLUMNS, Trace

MADE = {"kind": "exported"}


def trace(*calls, repeat=1) -> Trace:
    """One attention operator for each (query shape, key shape)."""
    known = {
        "kind": ["sdpa"] * len(calls),
        "repeat": [repeat] * len(calls),
        "module": [f"m.{i}" for i in range(len(calls))],
    }
    operators = _columns("operators", known, len(calls))
    shapes = [shape for query, key in calls for shape in (query, key, key, query)]
    rows = np.repeat(np.arange(len(calls)), 4)
    operands = _columns("operands", {"operator": rows, "shape": shapes}, len(shapes))
    return Trace("toy", {}, MADE, operators, operands=operands)


def _columns(table, known, count):
    return {name: np.array(known.get(name, ["" if name in TEXT_COLUMNS else 0] * count)) for name in TABLES[table]}


def test_rows_are_heads_of_layers_and_a_batch_is_a_repetition():
    [work] = attention_work(trace(("2x4x8x16", "2x2x12x16"), ("2x4x8x16", "2x2x12x16"), repeat=20), Policy())
    assert (work.head_size, work.group, work.repeat) == (16, 2, 40)
    assert work.layer.tolist() == [0, 0, 1, 1]
    assert work.head.tolist() == [0, 1, 0, 1]
    assert set(work.queries.tolist()) == {8}
    assert set(work.keys.tolist()) == {12}
    assert work.dense_operations == 2 * 4 * 4 * 8 * 12 * 16  # layers, 2 products x 2, heads, pairs, size
    assert len(work.needs_lsb) == work.queries.sum() * 2


def test_sizes_of_heads_and_batches_are_apart():
    works = attention_work(trace(("1x2x4x8", "1x2x4x8"), ("1x2x4x16", "1x2x4x16"), ("3x2x4x8", "3x2x4x8")), Policy())
    assert [(work.head_size, work.repeat, work.layer.tolist()) for work in works] == [
        (8, 1, [0, 0]),
        (16, 1, [1, 1]),
        (8, 3, [2, 2]),
    ]


@pytest.mark.parametrize(
    ("calls", "policy", "words"),
    [
        ([("1x2x9x8", "1x2x4x8")], Policy(), r"toy: m\.0: queries must be <= keys, got 9 and 4"),
        (
            [("1x2x4x8", "1x2x4x8")],
            Policy(token_keep=0.5),
            "toy: policy.token_keep: an exported trace has no importances",
        ),
        ([], Policy(), "toy: no scaled_dot_product_attention"),
    ],
)
def test_what_cannot_run_says_why(calls, policy, words):
    with pytest.raises(ValueError, match=words):
        attention_work(trace(*calls), policy)


@pytest.mark.parametrize("machine", ["spatten", "a3_base", "mnnfast"])
def test_layers_that_differ_are_all_simulated(machine):
    calls = [("1x2x16x64", "1x2x16x64"), ("1x2x64x64", "1x2x64x64")]
    whole, first, second = (
        simulate(load_machine(machine), trace(*some), Policy()).effective_operations
        for some in (calls, calls[:1], calls[1:])
    )
    assert whole == first + second > 0


def test_statistics_of_values_are_no_workload():
    with pytest.raises(ValueError, match="v: holds statistics"):
        attention_work(Trace("v", {}, {"kind": "values"}, {}), Policy())
