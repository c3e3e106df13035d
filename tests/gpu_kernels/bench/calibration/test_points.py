"""Which points are held out: the rule as written, nothing leaks, and the bench's shapes are among the points."""

from itertools import pairwise

import pytest

from gpu_kernels.bench.calibration import batched, energy, ours, points, streams, transfers
from gpu_kernels.bench.calibration.points import product
from gpu_kernels.bench.shapes import gemms

FORMATS = (points.library_products, points.our_products, points.decodes, points.prefills, points.matrices)


@pytest.mark.parametrize("points_of", FORMATS, ids=lambda one: one.__name__)
def test_few_are_fitted_and_some_are_held_out(points_of: object) -> None:
    found = points_of()  # type: ignore[operator]
    fitted = [one for one in found if not one.held_out]
    assert 15 <= len(fitted) <= points.MOST
    assert len(found) - len(fitted) >= 15
    assert len({one.name for one in found}) == len(found)


def test_whole_pairs_and_whole_token_counts_are_held_out() -> None:
    for found in (points.library_products(), points.our_products()):
        fitted, held = ([one for one in found if one.held_out == out] for out in (False, True))
        pairs, tokens = {(one.n, one.k) for one in fitted}, {one.m for one in fitted}
        assert not pairs & points.held_pairs()
        assert not tokens & set(points.HELD_TOKENS)
        assert all((one.n, one.k) not in pairs or one.m not in tokens for one in held)


def test_the_rule_takes_two_of_five_pairs_by_size_and_neither_end() -> None:
    order = sorted(points.PAIRS, key=lambda pair: (pair[0] * pair[1], pair[0]))
    assert [pair in points.held_pairs() for pair in order] == [False, True, False, True, False] * 4
    assert set(points.OUR_HELD_PAIRS) <= points.held_pairs()
    assert not set(points.OUR_PAIRS) & points.held_pairs()
    assert set(points.OUR_HELD_TOKENS) <= set(points.HELD_TOKENS)
    assert all(n % 64 == 0 and k % 128 == 0 for n, k in points.OUR_PAIRS + points.OUR_HELD_PAIRS)
    assert product(8, 4096, 4096).held_out
    assert not product(16, 4096, 4096).held_out


def test_every_shape_of_the_bench_is_a_point() -> None:
    found = {(one.m, one.n, one.k) for one in points.library_products()}
    assert {(one.m, one.n, one.k) for one in gemms()} <= found
    assert max(one.operations for one in points.library_products()) <= points.MOST_OPERATIONS


def test_heads_contexts_and_lengths_are_held_out_whole() -> None:
    fitted = [one for one in points.decodes() if not one.held_out]
    assert not {(one.heads, one.kv_heads, one.size) for one in fitted} & set(points.HELD_HEADS)
    assert not {one.context for one in fitted} & set(points.HELD_CONTEXTS)
    assert max(one.cache_bytes(16) for one in points.decodes()) <= points.MOST_CACHE_BYTES
    assert not {one.queries for one in points.prefills() if not one.held_out} & set(points.HELD_LENGTHS)
    full, causal = (points.Prefill(1, 2, 64, 128, 128, one, False).operations for one in (False, True))
    assert full == 2 * causal == 4 * 2 * 128 * 128 * 64


def test_a_cache_counts_its_scales() -> None:
    one = points.Decode(2, 32, 8, 128, 100, False)
    assert [one.cache_bytes(bits) for bits in (4, 8, 16)] == [3200 * row for row in (68, 132, 256)]


def test_other_axes() -> None:
    assert [count for count, held in points.counts() if not held] == sorted(points.COUNTS)
    assert {one.width for one in points.matrices() if not one.held_out} == set(points.WIDTHS)
    assert {one.channels for one in points.convolutions()} == set(points.CHANNELS + points.HELD_CHANNELS)
    assert batched.held(("float32", 140, 33, 32, 9216))
    assert not batched.held(("float32", 140, 33, 32, 4096))
    assert len(set(batched.shapes())) == len(batched.shapes())
    assert set(transfers.sizes("h2d_pinned")) == set(points.TRANSFERS + points.HELD_TRANSFERS)
    assert {mode for mode, _, _ in streams.our_points()} == {"plain", "norm", "gate"}


def test_loops_come_in_pairs_of_which_the_second_is_held_out() -> None:
    assert len(set(energy.LOOPS)) == len(energy.LOOPS) >= 24
    assert len(energy.LOOPS) % 2 == 0
    assert {name.split()[0] for name in energy.LOOPS} >= {"dram", "l2", "bf16", "fp8", "int8", "decode", "prefill"}


def test_the_order_has_nothing_to_do_with_sizes_and_is_always_the_same() -> None:
    found = points.library_products()
    order = list(points.spread(found))
    assert set(order) == set(found)
    assert len(order) == len(found)
    assert order == list(points.spread(found[::-1]))
    rises = sum(a.operations < b.operations for a, b in pairwise(order))
    assert 0.4 * len(order) < rises < 0.6 * len(order)
    assert list(points.spread(found, 3)) == order[:3]


def test_a_quick_run_of_ours_has_every_kernel() -> None:
    assert set(ours.kinds("sm_90a")) == set(ours.KINDS)
    assert set(ours.kinds("sm_80")) == {"portable_channel", "portable_group"}
    some = list(points.spread(points.our_products(), 2))
    assert len({source for source, _ in ours.variants_of(some, "sm_90a", 132)}) == 2
