"""QServe's recipes: progressive groups and their protective range, KV4 with its real zero."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.arithmetic import round_to
from accel.formats import kv4, progressive
from gpu_kernels.exact_rounding import exact, to_float16, to_float32

seeds = st.integers(0, 2**32 - 1)


def ranges(limit: int) -> Any:
    """All pairs low <= high of integers within -limit..limit."""
    return np.array([(low, high) for low in range(-limit, limit + 1) for high in range(low, limit + 1)])


def ends(limit: int) -> Any:
    """What the ends of each range come back as, before they are cut to 8 bits: int64 [ranges, 2]."""
    pairs = ranges(limit)
    scale, zero = progressive.group_parameters(*pairs.T)
    codes = np.clip(np.rint(pairs / scale[:, None]) + zero[:, None], 0, 15)
    return ((codes - zero[:, None]) * scale[:, None]).astype(int)


@pytest.mark.parametrize(
    ("limit", "count", "leaves", "worst"), [(119, 28680, 0, 121), (120, 29161, 7, 128), (127, 32640, 278, 132)]
)
def test_protective_range(limit, count, leaves, worst):
    """QServe, section 4.1: 119 is the largest limit at which no weight leaves int8; rounding is monotonic, so that the
    ends of a range are the worst."""
    found = ends(limit)
    outside = (found < -128) | (found > 127)
    assert len(found) == count
    assert (outside.any(axis=1).sum(), np.abs(found).max()) == (leaves, worst)


def test_the_papers_example_of_an_overflow():
    w8 = np.array([[-113, 120]])
    codes, scale, zero = progressive.level_one(w8, 2)
    assert (scale[0, 0], zero[0, 0], codes[0].tolist()) == (16, 7, [0, 15])
    assert progressive.unwrapped(codes, scale, zero)[0, 1] == 128
    assert progressive.weights8(codes, scale, zero)[0, 1] == -128


def test_a_raised_limit_overflows():
    x = np.array([[-113.0, 120.0] * 64])
    for limit, wrapped in ((119, False), (120, True)):
        codes, scale, zero, _ = progressive.quantize(x, limit=limit)
        same = np.array_equal(progressive.unwrapped(codes, scale, zero), progressive.weights8(codes, scale, zero))
        assert same is not wrapped


def level_one_twin(group: list[int]) -> tuple[list[int], int, int]:
    low, high = min([*group, 0]), max([*group, 0])
    scale = max(round(Fraction(high - low, 15)), 1)
    zero = min(max(round(Fraction(-low, scale)), 0), 15)
    return [min(max(round(Fraction(w, scale)) + zero, 0), 15) for w in group], scale, zero


@given(seeds, st.integers(1, 127))
@settings(max_examples=60, deadline=None)
def test_level_one_is_that_of_the_twin(seed, limit):
    """Groups around 0, of one sign, and constant."""
    draw = np.random.default_rng(seed)
    low, high = sorted(draw.integers(-limit, limit + 1, 2))
    w8 = draw.integers(low, high + 1, (1, 16))
    codes, scale, zero = progressive.level_one(w8, 16)
    assert (codes[0].tolist(), int(scale[0, 0]), int(zero[0, 0])) == level_one_twin(w8[0].tolist())
    if limit <= 119:
        back = progressive.weights8(codes, scale, zero)
        assert np.array_equal(back, progressive.unwrapped(codes, scale, zero))
        assert np.abs(back.astype(int) - w8).max() <= scale[0, 0] / 2 + 7  # the end: 15 scale may be 7 short of a range


def test_error_within_both_half_steps():
    """Ranges are at most 7 longer than 15 scales, so that a saturated code is at most that far off."""
    draw = np.random.default_rng(5)
    x = (draw.standard_t(4, (8, 256)) * 2.0 ** draw.uniform(-8, 2, (8, 1))).astype(np.float32)
    codes, group_scale, zero, scale = progressive.quantize(x)
    back = progressive.dequantize(codes, group_scale, zero, scale)
    steps = np.repeat(group_scale / 2 + 0.5, 128, axis=1)
    inner = (codes > 0) & (codes < 15)
    error = np.abs(back - x) / scale[:, None]
    assert (error <= steps)[inner].all()
    assert error.max() <= (steps + 7).max()


def test_level_zero_is_that_of_the_twin_and_keeps_its_limit():
    x = np.random.default_rng(6).normal(size=(4, 64)).astype(np.float32)
    x[3] = 0
    w8, scale = progressive.level_zero(x, 100)
    for row, found, s in zip(x, w8, scale, strict=True):
        expected = to_float16(max(abs(exact(v)) for v in row) / 100) or 1
        assert exact(s) == expected
        assert found.tolist() == [round(exact(v) / expected) for v in row]
    assert np.abs(w8).max(axis=1).tolist() == [100, 100, 100, 0]
    with pytest.raises(ValueError, match=r"limit must lie in 1\.\.127, got 128"):
        progressive.level_zero(x, 128)


def kv4_twin(vector: Any) -> tuple[list[int], Fraction, Fraction]:
    values = [exact(v) for v in vector]
    low, high = min(values), max(values)
    span = to_float32(high - low)
    scale = to_float16(to_float32(span / 15))
    if scale == 0:
        scale, zero = Fraction(1), -low
    else:
        zero = to_float16(to_float32(to_float32(-15 * low) / span))
    reciprocal = to_float32(1 / scale)
    return [max(round(to_float32(v * reciprocal + zero)), 0) for v in values], scale, zero


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_kv4_is_that_of_the_twin(seed):
    draw = np.random.default_rng(seed)
    x = round_to(draw.normal(draw.choice([0.0, 1.0, 30.0]), 2.0 ** draw.integers(-20, 5), 16), "float16")
    scale, zero = kv4.parameters(x)
    assert (kv4.numbers(x, scale, zero).tolist(), exact(scale), exact(zero)) == kv4_twin(x)


def test_kv4_rounds_product_and_sum_at_once():
    """With a product that is rounded before the sum the last code would be 4: found by trying."""
    x = np.float32([0.31201171875, -1.0244140625, 0.266845703125, -0.712890625])
    assert kv4.quantize(x)[0].tolist() == [15, 0, 14, 3]


def test_kv4_dequantizes_with_one_rounding():
    codes = np.arange(16)
    scale, zero = round_to([0.0371, 5.43], "float16")
    offset = to_float16(-exact(scale) * exact(zero))
    expected = [to_float16(int(q) * exact(scale) + offset) for q in codes]
    assert [exact(v) for v in kv4.dequantize(codes, scale, zero)] == expected


def test_a_constant_vector_comes_back():
    x = np.float32([[3.0] * 8, [-0.125] * 8, [0.0] * 8, [2.0**-24] * 8])
    codes, scale, zero = kv4.quantize(x)
    assert np.array_equal(kv4.dequantize(codes, scale, zero), x)
    assert scale.tolist() == [1.0] * 4
    assert not codes.any()


def test_a_scale_of_0_is_guarded_where_the_vector_is_not_constant():
    codes, scale, zero = kv4.quantize(np.float32([0.0, 2.0**-24]))  # a fifteenth of it rounds to 0
    assert (codes.tolist(), scale, zero) == ([0, 0], 1, 0)


def test_code_16_is_possible_and_wraps_to_0():
    far = round_to([0.20751953, 0.21154785], "float16")  # 788 steps from 0
    subnormal = np.float32([0.0, 22 * 2.0**-24])  # 22 / 15 rounds to a scale of 1 x 2^-24
    assert kv4.quantize(far)[0].tolist() == [1, 15]
    assert kv4.quantize(far, wrap=True)[0].tolist() == [1, 0]
    assert kv4.numbers(subnormal, *kv4.parameters(subnormal)).tolist() == [0, 22]
    assert kv4.quantize(subnormal, wrap=True)[0].tolist() == [0, 6]


def test_no_vector_around_0_wraps():
    """Two elements decide scale and zero: a sample of all pairs of float16 with a normal scale."""
    draw = np.random.default_rng(7)
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    x = np.stack([-draw.choice(halves, 100_000), draw.choice(halves, 100_000)], axis=1)
    scale, zero = kv4.parameters(x)
    normal = scale >= 2.0**-14
    assert normal.mean() > 0.5
    assert kv4.numbers(x, scale, zero)[normal].max() == 15


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_kv4_error_is_at_most_half_a_step(seed):
    x = round_to(np.random.default_rng(seed).standard_t(3, (4, 32)), "float16")
    codes, scale, zero = kv4.quantize(x)
    error = np.abs(kv4.dequantize(codes, scale, zero) - x)
    assert (error <= 0.53 * scale[:, None]).all()


def test_kv4_refusals():
    with pytest.raises(ValueError, match="must be finite float16 numbers"):
        kv4.quantize([0.1])
    with pytest.raises(ValueError, match="must be finite float16 numbers"):
        kv4.quantize([np.inf, 0.0])
    with pytest.raises(ValueError, match=r"x must be \[\.\.\., D\], got shape \(\)"):
        kv4.parameters(1.0)
