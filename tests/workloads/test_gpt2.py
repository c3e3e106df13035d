"""Operators of GPT-2 against counts made another way."""

import numpy as np
import pytest

from workloads.gpt2 import operators
from workloads.trace import Trace

LAYERS, HEADS, HIDDEN, PROMPT, STEPS = 2, 4, 32, 5, 3


def multiply_adds(queries: int, length: int) -> tuple[int, int]:
    """Of one layer, by walking heads, queries, keys and elements: (attention, linear)."""
    attention = sum(2 * (HIDDEN // HEADS) for _ in range(HEADS) for _ in range(queries) for _ in range(length))
    linear = sum(rows * columns for rows, columns in ((1, 3), (1, 1), (1, 4), (4, 1))) * HIDDEN * HIDDEN
    return attention, queries * linear


@pytest.mark.parametrize("step", range(STEPS + 1))
def test_flops_of_products_match_a_naive_count(step: int) -> None:
    table = operators(LAYERS, HEADS, HIDDEN, PROMPT, STEPS)
    queries, length = (PROMPT, PROMPT) if step == 0 else (1, PROMPT + step)
    attention, linear = multiply_adds(queries, length)
    of_step = table["step"] == step
    assert table["flops"][of_step & (table["kind"] == "bmm")].sum() == 2 * attention * LAYERS
    assert table["flops"][of_step & (table["kind"] == "linear")].sum() == 2 * linear * LAYERS


def test_medium_model_counts_what_the_paper_counts() -> None:
    table = operators(24, 16, 1024, 992, 32)
    generated = table["step"] > 0
    fc = table["flops"][generated & (table["kind"] == "linear")].sum() / 1e9
    attention = table["flops"][generated & (table["part"] == "attention")].sum() / 1e9
    assert (round(fc, 1), round(attention, 1)) == (19.3, 3.3)


def test_generated_token_copies_the_whole_cache_twice() -> None:
    table = operators(1, HEADS, HIDDEN, PROMPT, 1, parts=("attention",))
    copies = (table["step"] == 1) & np.isin(table["kind"], ("cat", "stack"))
    cache = 2 * (PROMPT + 1) * HIDDEN * 4
    assert table["read_bytes"][copies].sum() == table["write_bytes"][copies].sum() == 2 * cache


def test_one_token_merges_heads_without_a_copy() -> None:
    table = operators(1, HEADS, HIDDEN, PROMPT, 1)
    assert table["launches"][table["kind"] == "contiguous"].tolist() == [1, 0]


def test_views_move_nothing_and_columns_make_a_trace() -> None:
    table = operators(LAYERS, HEADS, HIDDEN, PROMPT, STEPS)
    views = table["launches"] == 0
    for column in ("flops", "read_bytes", "write_bytes"):
        assert not table[column][views].any()
    assert (table["read_bytes"][~views] > 0).all()
    assert Trace("gpt2", {}, {}, table).operators is table


def test_parts_are_selected_and_keep_their_order() -> None:
    whole, fc = operators(1, HEADS, HIDDEN, PROMPT, 1), operators(1, HEADS, HIDDEN, PROMPT, 1, parts=("fc",))
    assert whole["kind"][whole["part"] == "fc"].tolist() == fc["kind"].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "heads must divide hidden"),
        ({"steps": -1}, "steps must be >= 0"),
        ({"layers": 0}, "layers"),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, int], message: str) -> None:
    shape = {"layers": 1, "heads": 4, "hidden": 32, "prompt": 5, "steps": 1} | change
    with pytest.raises(ValueError, match=message):
        operators(**shape)  # type: ignore[arg-type]
