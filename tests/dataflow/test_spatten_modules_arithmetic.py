"""SpAtten's modules that compute: arrays, softmax, decision, accumulators, each against an obvious exact twin."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from accel.arithmetic import fma
from dataflow.spatten.modules import accumulators, decision, prob_value, query_key, softmax
from dataflow.spatten.modules.fixed_point import Fixed
from dataflow.spatten.modules.softmax import EXP_RELATIVE_ERROR, TAYLOR, exponential, polynomial

# Q x K and prob x V

SIZES = (32, 64, 128, 256, 512)


def words(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """12-bit words, the most negative one among them."""
    return np.where(rng.random(shape) < 0.1, -2048, rng.integers(-2048, 2048, shape))


@pytest.mark.parametrize("size", [*SIZES, 1, 48, 80, 1000])
def test_scores_are_exact(size: int) -> None:
    rng = np.random.default_rng(size)
    query, keys = words(rng, size), words(rng, 9, size)
    assert query_key.scores(query, keys, 12).tolist() == [
        sum(int(a) * int(b) for a, b in zip(query, key, strict=True)) for key in keys
    ]


def test_the_widest_sums_need_every_bit_of_their_level() -> None:
    """(-2048)^2 has 24 bits with its sign; each level adds one."""
    found = query_key.levels(np.full(512, 2048**2))
    assert [len(sums) for sums in found] == [512 >> level for level in range(10)]
    assert [int(sums[0]).bit_length() + 1 for sums in found] == [24 + level for level in range(10)]
    assert {size: query_key.sum_bits(12, size) for size in SIZES} == {32: 29, 64: 30, 128: 31, 256: 32, 512: 33}
    assert int(query_key.scores(np.full(512, -2048), np.full((1, 512), -2048), 12)[0]) == 512 * 2048**2


def test_a_word_too_wide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"query must be words of 12 bits, got 2048\.\.2048"):
        query_key.scores(np.array([2048]), np.array([[1]]), 12)
    with pytest.raises(ValueError, match=r"keys must be words of 12 bits"):
        query_key.scores(np.array([1]), np.array([[-2049]]), 12)


@pytest.mark.parametrize(
    ("size", "rate", "depth", "cycles"),
    [(32, 16, 6, 64), (64, 8, 7, 128), (128, 4, 8, 256), (256, 2, 9, 512), (512, 1, 10, 1024), (48, 8, 7, 128),
     (1024, 0, 10, 2048), (1000, 0, 10, 2048), (768, 0, 10, 2048)],
)  # fmt: skip
def test_time_of_1024_scores(size: int, rate: int, depth: int, cycles: int) -> None:
    """512 / D scores a cycle, D rounded up to a power of two; a longer vector takes several cycles."""
    assert query_key.scores_a_cycle(size, 512) == rate
    assert query_key.depth_cycles(size, 512) == depth
    assert query_key.cycles(1024, size, 512) == prob_value.cycles(1024, size, 512) == cycles
    assert query_key.cycles(1017, size, 512) == -(-1017 * cycles // 1024)


def test_depth_of_prob_value() -> None:
    """Multiplier, levels of a tree of 512 / D leaves, accumulator."""
    assert {size: prob_value.depth_cycles(size, 512) for size in (32, 64, 512, 1024)} == {32: 6, 64: 5, 512: 2, 1024: 2}


@pytest.mark.parametrize(("size", "multipliers"), [(64, 512), (48, 512), (8, 16), (512, 512), (600, 512), (3, 7)])
def test_weighted_sums_are_exact(size: int, multipliers: int) -> None:
    rng = np.random.default_rng(size)
    p, v = rng.integers(0, 4096, 37), words(rng, 37, size)
    expected = [sum(int(a) * int(b) for a, b in zip(p, column, strict=True)) for column in v.T]
    assert prob_value.weighted_sum(p, v, multipliers, 12, 12).tolist() == expected


def test_the_widest_weighted_sum_needs_every_bit() -> None:
    for count in (1, 8, 1000, 1024):
        total = int(prob_value.weighted_sum(np.full(count, 4095), np.full((count, 64), -2048), 512, 12, 12)[0])
        assert total == -2048 * 4095 * count
        assert (-total - 1).bit_length() + 1 <= prob_value.accumulator_bits(12, 12, count)
    assert prob_value.accumulator_bits(12, 12, 1024) == 34


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(st.integers(-(2**25), 2**25), min_size=1, max_size=20))
def test_output_words_are_the_nearest_and_saturate(totals: list[int]) -> None:
    found = prob_value.output(np.array(totals), 0.5, 12, 12)
    nearest = [math.floor(Fraction(t, 4096) + Fraction(1, 2)) for t in totals]
    assert found.code.tolist() == [min(max(n, -2047), 2047) for n in nearest]
    assert (found.scale, found.bits) == (0.5, 12)


# softmax


def exact_fma(a: float, b: float, c: float) -> np.float32:
    """Round the exact value once: the nearest of three neighbours, the even one of two."""
    value = Fraction(a) * Fraction(b) + Fraction(c)
    near = np.float32(float(value))
    options = [near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))]
    return min(options, key=lambda x: (abs(Fraction(float(x)) - value), int(x.view(np.int32)) & 1))


@njit
def call_fma(a, b, c):  # type: ignore[no-untyped-def]
    return fma(a, b, c)


def test_fma_rounds_once() -> None:
    """Also where a float64 multiply-add, rounded again, is wrong: 1 + 2^-24 + 2^-60 lies above the middle."""
    hard = (np.float32(2.0**-30), np.float32(2.0**-30), np.float32(1 + 2.0**-23))
    tie = [(np.float32(1 + 2.0**-23), np.float32(1 + 2.0**-12), np.float32(2.0**-36)), hard]
    twice = (np.float32(2.0**-24 * (1 + 2.0**-20)), np.float32(1 - 2.0**-20), np.float32(1 + 2.0**-23))
    rng = np.random.default_rng(0)
    cases = [*tie, twice, *rng.normal(size=(500, 3)).astype(np.float32)]
    assert [call_fma(*case) for case in cases] == [exact_fma(*map(float, case)) for case in cases]
    a, b, c = twice
    assert np.float32(float(a) * float(b) + float(c)) != call_fma(a, b, c)  # the counterexample is one


def test_coefficients_are_those_of_taylor() -> None:
    assert [float(c) for c in TAYLOR] == [float(np.float32(1 / math.factorial(i))) for i in range(6)]
    assert float(softmax.LN2_HIGH) + float(softmax.LN2_LOW) == pytest.approx(math.log(2), rel=2**-38)


@njit
def worst_polynomial(first, last, step):  # type: ignore[no-untyped-def]
    """Largest relative error of the polynomial over the float32 with those bits, and their negatives."""
    worst = 0.0
    bits = np.zeros(1, np.int32)
    value = bits.view(np.float32)
    for pattern in range(first, last, step):
        bits[0] = pattern
        for r in (value[0], -value[0]):
            true = math.exp(np.float64(r))
            worst = max(worst, abs(np.float64(polynomial(r)) - true) / true)
    return worst


def bits_of(value: float) -> int:
    return int(np.float32(value).view(np.int32))


def test_relative_error_of_the_exponential_over_the_whole_reduced_range() -> None:
    """Every float32 from 2^-6 to ln(2) / 2, where the sixth-order rest matters, and every 499th below.

    The rest is r^6 / 720 / e^r at r = -ln(2) / 2, 3.2e-6: a polynomial of order 4 is off by 5e-5.
    """
    top, low = bits_of(math.log(2) / 2) + 1, bits_of(2.0**-6)
    worst = worst_polynomial(low, top, 1)
    assert 0.95 * EXP_RELATIVE_ERROR < worst < EXP_RELATIVE_ERROR
    assert worst_polynomial(0, low, 499) < 1.01 * 2.0**-24


def test_exponential_of_all_it_is_given() -> None:
    """Down to the smallest normal number; below it is zero; above 128 ln 2 there is no float32."""
    x = -np.linspace(0, 87.3, 200_001).astype(np.float32)
    found, true = softmax.exponentials(x).astype(float), np.exp(x.astype(float))
    assert np.abs(found / true - 1).max() < EXP_RELATIVE_ERROR
    assert found[0] == 1
    assert [float(exponential(np.float32(v))) for v in (-88, -1e6, -np.inf, 89, 1e6)] == [0, 0, 0, np.inf, np.inf]
    assert float(exponential(np.float32(88))) == pytest.approx(math.exp(88), rel=1e-5)


def slow_sum(values: list[np.float32], lanes: int) -> np.float32:
    """A tree over the lanes of each cycle, then one accumulator."""
    total, width = np.float32(0), 1 << (lanes - 1).bit_length()
    for start in range(0, len(values), lanes):
        part = values[start : start + lanes]
        part = part + [np.float32(0)] * (width - len(part))
        while len(part) > 1:
            part = [np.float32(part[i] + part[i + 1]) for i in range(0, len(part), 2)]
        total = np.float32(total + part[0])
    return total


@pytest.mark.parametrize("lanes", [1, 3, 8])
def test_sums_are_taken_in_the_order_of_the_lanes(lanes: int) -> None:
    """Bit for bit; about half of these sums come out otherwise in another order."""
    rows = np.random.default_rng(lanes).lognormal(0, 1, (30, 45)).astype(np.float32)
    assert [softmax.accumulate(row, lanes) for row in rows] == [slow_sum(list(row), lanes) for row in rows]


def exact_softmax(scores: np.ndarray, factor: float) -> np.ndarray:
    e = np.exp((scores - scores.max()) * factor)
    return e / e.sum()


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.lists(st.integers(-(2**29), 2**29), min_size=1, max_size=200), st.floats(-32, -8), st.integers(1, 16))
def test_probability_words_are_the_rounded_ones(scores: list[int], exponent: float, lanes: int) -> None:
    """Within half a unit and what float32 may be off: x by 2^-22 of itself, the rest as stated."""
    factor = np.float32(2.0**exponent)
    found = softmax.probabilities(np.array(scores), factor, lanes, 12)
    p = exact_softmax(np.array(scores, float), float(factor))
    reach = (max(scores) - np.array(scores)) * float(factor)
    relative = 2 * EXP_RELATIVE_ERROR + (reach + (p * reach).sum()) * 2.0**-22 + (len(p) + 8) * 2.0**-24
    error = np.abs(found - np.minimum(4096 * p, 4095))
    assert (error <= 0.5 + 4096 * p * relative).all()
    assert found.min() >= 0
    assert found.max() <= 4095


def test_words_by_hand() -> None:
    """ln 3 apart: 1/4 and 3/4. Equal ones: 1/8 each. Alone: all ones. Half a unit goes to the even word."""
    third = np.float32(math.log(3) / 1000)
    assert softmax.probabilities(np.array([0, 1000]), third, 8, 12).tolist() == [1024, 3072]
    assert softmax.probabilities(np.full(8, -77), third, 8, 12).tolist() == [512] * 8
    assert softmax.probabilities(np.array([5]), third, 8, 12).tolist() == [4095]
    assert softmax.probabilities(np.zeros(8192, np.int64), third, 8, 12).max() == 0  # 0.5
    assert softmax.probabilities(np.zeros(5461, np.int64), third, 8, 12).min() == 1  # 0.75, not cut off
    with pytest.raises(ValueError, match="at least 1 score, got 0"):
        softmax.probabilities(np.zeros(0, np.int64), third, 8, 12)


def test_without_the_maximum_large_scores_overflow() -> None:
    """Why it is subtracted: the same row, in and beyond the reach of float32."""
    row, one = np.array([3, 1, 2]), np.float32(1)
    plain = softmax.probabilities(row, one, 8, 12, subtract=False)
    assert plain.tolist() == softmax.probabilities(row, one, 8, 12).tolist() == [2725, 369, 1002]
    assert softmax.probabilities(row + 100, one, 8, 12).tolist() == plain.tolist()
    assert softmax.probabilities(row + 100, one, 8, 12, subtract=False).tolist() == [0, 0, 0]


def test_factor_holds_both_scales_and_the_root() -> None:
    assert softmax.factor(0.5, 0.25, 64) == 0.5 * 0.25 / 8
    assert [softmax.cycles(n, 8) for n in (1, 8, 9, 1024)] == [1, 1, 2, 128]


# decision and accumulators


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.1, 0.25, 1.0])
def test_decision_at_every_maximum(threshold: float) -> None:
    """Strictly below the threshold as it is rounded to 12 bits."""
    limit = round(Fraction(threshold) * 4096)
    assert decision.threshold_word(threshold, 12) == limit
    for top in range(4096):
        assert decision.needs_lsb(np.array([0, top, top // 2]), threshold, 12) == (top < limit)


def test_the_row_is_held_until_its_last_probability() -> None:
    assert [decision.cycles(n, 8) for n in (1, 8, 1024)] == [4, 4, 131]
    assert decision.cycles(5, 1) == 5


def test_token_sums_never_overflow_in_32_bits() -> None:
    """A token that gets all of every probability, in the largest published model: 1024 queries, 16 heads, 24 layers."""
    assert accumulators.token_bits(12, 1024, 16, 24) == (1024 * 16 * 24 * 4095).bit_length() == 31
    assert accumulators.head_bits(12, 1024, 64) == (1024 * 64 * 2047).bit_length() == 27
    bits = accumulators.token_bits(12, 1024, 1, 2)
    sums = accumulators.Importance(np.zeros(3, np.int64), np.zeros(1, np.float32), bits)
    for _ in range(2048):
        sums.add_probabilities(np.array([0, 2]), np.array([4095, 1]))
    assert sums.tokens.tolist() == [2048 * 4095, 0, 2048]
    sums.bits -= 1
    with pytest.raises(OverflowError, match="more than 22 bits, got 83"):
        sums.add_probabilities(np.array([0]), np.array([4095]))


def test_head_scores_add_numbers_not_codes() -> None:
    """Outputs of two layers with different scales."""
    sums = accumulators.Importance.of(4, 2)
    sums.add_output(1, Fixed(np.array([[3, -2], [0, -5]]), 12, 0.5))
    sums.add_output(1, Fixed(np.array([[-1, 1]]), 12, 0.25))
    assert sums.heads.tolist() == [0, 5.5]
    assert accumulators.cycles(1024, 8) == 128
