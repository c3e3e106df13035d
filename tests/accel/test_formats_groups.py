"""Group quantization against exact fractions: integers, NVFP4, NF4; bounds of the error, edge cases, refusals."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.arithmetic import round_to
from accel.formats import blocks, groups, kv4, number, progressive
from gpu_kernels.exact_rounding import exact, to_float32, to_form

FORMS = ("float16", "bfloat16")
Draw = np.random.Generator


def weights(draw: Draw, shape: tuple[int, int] = (3, 96), spread: float = 2.0) -> Any:
    """float32 with rows and outliers of different sizes."""
    sizes = 2.0 ** draw.uniform(-spread, spread, (shape[0], 1))
    return (draw.standard_t(3, shape) * sizes).astype(np.float32)


def scale_of(span: Fraction, steps: int, form: str) -> Fraction:
    return to_form(span / steps, form) or Fraction(1)


def clamp(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


def symmetric_twin(group: Any, largest: int, low: int, form: str) -> tuple[list[int], Fraction]:
    values = [exact(v) for v in group]
    scale = scale_of(max(abs(v) for v in values), largest, form)
    return [clamp(round(v / scale), low, largest) for v in values], scale


def asymmetric_twin(group: Any, form: str) -> tuple[list[int], Fraction, int]:
    values = [exact(v) for v in group]
    low, high = min([*values, 0]), max([*values, 0])
    scale = scale_of(Fraction(high - low), 15, form)
    zero = clamp(round(-low / scale), 0, 15)
    return [clamp(round(v / scale) + zero, 0, 15) for v in values], scale, zero


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "largest", "low"), [("int4", 7, -7), ("uint4", 15, 0), ("int8", 127, -127), ("uint8", 255, 0)]
)
@pytest.mark.parametrize("group", [32, None])
def test_symmetric_groups_are_those_of_the_twin(form, name, largest, low, group):
    x = weights(np.random.default_rng(1))
    x = np.abs(x) if low == 0 else x
    codes, scale = groups.symmetric(x, name, group, form)
    assert codes.dtype == (np.uint8 if low == 0 else np.int8)
    for row, found, scales in zip(x, codes, scale, strict=True):
        parts = zip(np.split(row, len(scales)), np.split(found, len(scales)), scales, strict=True)
        for part, q, s in parts:
            assert (q.tolist(), exact(s)) == symmetric_twin(part, largest, low, form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("group", [32, None])
def test_asymmetric_groups_are_those_of_the_twin(form, group):
    x = weights(np.random.default_rng(2))
    x[0, :32] = np.abs(x[0, :32]) + 3  # a group without 0
    x[1, :32] = -np.abs(x[1, :32])
    codes, scale, zero = groups.asymmetric(x, group, form)
    count = scale.shape[1]
    for row, found, scales, zeros in zip(x, codes, scale, zero, strict=True):
        for part, q, s, z in zip(np.split(row, count), np.split(found, count), scales, zeros, strict=True):
            assert (q.tolist(), exact(s), int(z)) == asymmetric_twin(part, form)


seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.sampled_from(FORMS), st.sampled_from([16, 64, None]))
@settings(max_examples=30, deadline=None)
def test_error_is_at_most_half_a_step(seed, form, group):
    """A scale that was rounded down costs the ends of the range up to 15 parts in 2^12 (float16) or 2^9 more."""
    x = weights(np.random.default_rng(seed), (2, 64))
    slack = 15 * 2.0 ** (-11 if form == "float16" else -8)
    for codes, scale, *zero in (groups.symmetric(x, "int4", group, form), groups.asymmetric(x, group, form)):
        error = np.abs(groups.dequantize(codes, scale, *zero) - x).reshape(*scale.shape, -1)
        assert (error <= (0.5 + slack) * scale[..., None]).all()
    codes, scale = groups.symmetric(x, "int8", None, form)
    assert (np.abs(groups.dequantize(codes, scale) - x) <= 0.51 * scale).all()


@given(seeds, st.sampled_from(FORMS))
@settings(max_examples=30, deadline=None)
def test_quantizing_again_changes_nothing(seed, form):
    x = weights(np.random.default_rng(seed), (2, 64))
    codes, scale = groups.symmetric(x, "int4", 32, form)
    again, same = groups.symmetric(groups.dequantize(codes, scale), "int4", 32, form)
    assert np.array_equal(again, codes)
    assert np.array_equal(same, scale)
    q, s, z = groups.asymmetric(x, 64, form)
    if (q.min(axis=1) == 0).all() and (q.max(axis=1) == 15).all():  # else the range was not used up
        q2, s2, z2 = groups.asymmetric(groups.dequantize(q, s, z), 64, form)
        assert np.array_equal(q2, q)
        assert np.array_equal(s2, s)
        assert np.array_equal(z2, z)


def test_groups_of_zeros_constants_and_tiny_numbers():
    x = np.array([[0.0] * 4 + [3.0] * 4 + [-3.0] * 4 + [1e-9] * 4])
    codes, scale = groups.symmetric(x, "int4", 4)
    assert codes[0].tolist() == [0] * 4 + [7] * 4 + [-7] * 4 + [0] * 4
    assert scale[0, [0, 3]].tolist() == [1.0, 1.0]
    q, s, z = groups.asymmetric(x, 4)
    assert q[0].tolist() == [0] * 4 + [15] * 4 + [0] * 8
    assert z[0].tolist() == [0, 0, 15, 0]
    assert np.abs(groups.dequantize(q, s, z) - x).max() < 3 * 2.0**-11 + 1e-9


def test_ties_are_decided_before_the_zero_is_added():
    codes, scale, zero = groups.asymmetric([[-7.0, 8.0, 0.5, 1.5, 2.5, -0.5]], 6)
    assert (scale[0, 0], zero[0, 0]) == (1, 7)
    assert (codes - 7.0).tolist() == [[-7, 8, 0, 2, 2, 0]]


def test_nf4_multiplies_by_a_reciprocal():
    """A division would give code 0: found by trying."""
    x = np.zeros((1, 64), np.float32)
    x[0, :2] = 0.18389905989170074, -0.15596412122249603
    assert blocks.nf4_quantize(x)[0][0, :3].tolist() == [15, 1, 7]


def test_scaled_zero_is_rounded_once():
    scale, zero = round_to([[0.01, 3.0]], "float16"), np.array([[13, 4]], np.uint8)
    found = groups.scaled_zero(scale, zero)
    assert [exact(v) for v in found[0]] == [to_form(-13 * exact(scale[0, 0]), "float16"), -12]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: groups.symmetric(np.ones((2, 6)), "int4", 4),
            "K must be a multiple of the group, got K = 6, group = 4",
        ),
        (lambda: groups.symmetric(np.ones(4)), r"x must be \[N, K\], at least 1 x 1, got shape \(4,\)"),
        (lambda: groups.symmetric(np.ones((0, 64))), "at least 1 x 1"),
        (lambda: groups.asymmetric([[np.nan, 1.0]], 2), "x must be finite, got nan"),
        (lambda: groups.symmetric([[1e6, 1.0]], "int4", 2), "scale 142857 is too large for float16"),
        (lambda: groups.symmetric([[-1.0, 1.0]], "uint4", 2), "x must not be negative for uint4, got -1"),
        (lambda: groups.symmetric([[1.0]], "e2m1", 1), "must be one of int4, uint4, int8, uint8, got 'e2m1'"),
        (lambda: groups.symmetric([[1.0]], "int5", 1), r"got 'int5'; did you mean 'int\d'"),
        (lambda: groups.dequantize(np.ones((2, 6)), np.ones((2, 4))), r"scales \(2, 4\) do not fit codes \(2, 6\)"),
        (lambda: groups.symmetric([["1"]]), "x must be real numbers, got <U1"),
        (lambda: groups.dequantize(np.ones((2, 6)), np.ones((2, 0))), r"scales \(2, 0\) do not fit codes \(2, 6\)"),
        (lambda: blocks.nvfp4_weights(np.full((1, 16), 1e300)), "1e.300 is too large for a float32 tensor scale"),
        (lambda: blocks.nf4_quantize(np.full((1, 64), -1e39)), "nf4: x must be float32 numbers, got -1e.39"),
        (lambda: progressive.level_one(np.full((1, 128), 128)), r"w8 must be integers in -128\.\.127, got 128"),
        (lambda: progressive.level_one(np.full((1, 128), 0.5)), r"w8 must be integers in -128\.\.127, got 0\.5"),
        (lambda: progressive.unwrapped(np.ones((2, 128)), [[1]], [[0]]), r"got \(2, 128\), \(1, 1\) and \(1, 1\)"),
        (lambda: kv4.numbers(np.ones((2, 4)), [1.0], [0.0, 0.0]), r"kv4: scale must have shape \(2,\), got \(1,\)"),
        (lambda: kv4.numbers(np.ones((1, 4)), [0.0], [0.0]), "kv4: scale must not be 0"),
        (lambda: number("e4m3").encode(None), "e4m3: must encode real numbers, got object"),
        (lambda: groups.symmetric([[1.0]], "int4", 1, "float32"), "form: must be one of float16, bfloat16"),
    ],
)
def test_refusals(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def nearest_e4m3(x: Fraction) -> Fraction:
    """By trying all positive ones; ties to the even code."""
    values = [Fraction(float(v)) for v in number("e4m3").values[:0x7F]]
    return values[min(range(0x7F), key=lambda c: (abs(x - values[c]), c % 2))]


def nearest_e2m1(x: Fraction) -> Fraction:
    sizes = [Fraction(v) / 2 for v in (0, 1, 2, 3, 4, 6, 8, 12)]
    size = sizes[min(range(8), key=lambda c: (abs(abs(x) - sizes[c]), c % 2))]
    return -size if x < 0 else size


def test_nvfp4_weights_are_those_of_the_twin():
    x = weights(np.random.default_rng(3), (2, 64), spread=6)
    x[0, :16] = 0
    codes, scale, tensor_scale = blocks.nvfp4_weights(x)
    largest = max(abs(exact(v)) for v in x.ravel())
    assert exact(tensor_scale) == to_float32(largest / (6 * 448))
    for part, q, s in zip(x.reshape(-1, 16), codes.reshape(-1, 16), scale.ravel(), strict=True):
        block = nearest_e4m3(max(abs(exact(v)) for v in part) / 6 / exact(tensor_scale))
        assert exact(number("e4m3").decode(s)) == block
        whole = block * exact(tensor_scale)
        expected = [nearest_e2m1(exact(v) / whole) if block else 0 for v in part]
        assert [exact(v) for v in number("e2m1").decode(q)] == expected


def test_nvfp4_activations_have_no_tensor_scale_and_stop_at_448():
    x = np.concatenate([np.linspace(-6, 6, 16), np.full(16, 2688.0), np.full(16, 1e5), np.zeros(16), [2**-9] * 16])
    codes, scale = blocks.nvfp4_activations(x[None])
    assert number("e4m3").decode(scale)[0].tolist() == [1.0, 448.0, 448.0, 0.0, 0.0]  # 2^-9 / 6 is below half of 2^-9
    found = blocks.nvfp4_dequantize(codes, scale)[0]
    assert found[:16].tolist() == [-6, -6, -4, -4, -3, -2, -1, -0.5, 0.5, 1, 2, 3, 4, 4, 6, 6]
    assert found[16:32].tolist() == found[32:48].tolist() == [2688.0] * 16
    assert not found[48:].any()


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_nvfp4_error_is_at_most_one_block_scale(seed):
    """Half of the widest gap, 4 to 6, is one; the block scale itself is normal here."""
    x = weights(np.random.default_rng(seed), (2, 32), spread=0)
    codes, scale, tensor_scale = blocks.nvfp4_weights(x)
    step = number("e4m3").decode(scale) * tensor_scale
    error = np.abs(blocks.nvfp4_dequantize(codes, scale, tensor_scale) - x).reshape(*scale.shape, 16)
    normal = number("e4m3").decode(scale) >= 2.0**-6
    assert (error <= 1.001 * step[..., None])[normal].all()


def test_nvfp4_dequantizes_with_a_scale_for_each_row():
    codes, scale = np.full((2, 16), 2, np.uint8), np.full((2, 1), 0x38, np.uint8)  # 1 x 1
    found = blocks.nvfp4_dequantize(codes, scale, np.float32([0.5, 3.0]))
    assert found[:, 0].tolist() == [0.5, 3.0]


def test_all_zero_nvfp4_and_nf4():
    codes, scale, tensor_scale = blocks.nvfp4_weights(np.zeros((1, 16)))
    assert (codes.any(), scale.any(), tensor_scale) == (False, False, 1)
    codes, absmax = blocks.nf4_quantize(np.zeros((1, 64)))
    assert (set(codes.ravel().tolist()), absmax.tolist()) == ({7}, [0.0])
    assert not blocks.nf4_dequantize(codes, absmax).any()


def test_nf4_is_that_of_the_twin():
    """Blocks run over the ends of rows; both steps are rounded to float32."""
    x = weights(np.random.default_rng(4), (4, 96))
    codes, absmax = blocks.nf4_quantize(x)
    limits = [exact(np.float32(v)) for v in number("nf4").limits]
    found, values = codes.ravel(), blocks.nf4_dequantize(codes, absmax).ravel()
    assert absmax.shape == (6,)
    for b, part in enumerate(x.reshape(-1, 64)):
        largest = max(abs(exact(v)) for v in part)
        reciprocal = to_float32(1 / largest)
        expected = [sum(to_float32(exact(v) * reciprocal) > limit for limit in limits) for v in part]
        assert exact(absmax[b]) == largest
        assert found[b * 64 : b * 64 + 64].tolist() == expected
        table = [exact(v) for v in number("nf4").values]
        assert [exact(v) for v in values[b * 64 : b * 64 + 64]] == [to_float32(table[q] * largest) for q in expected]


def test_nf4_refusals():
    with pytest.raises(ValueError, match="number of weights must be a multiple of 64, got 96"):
        blocks.nf4_quantize(np.ones((1, 96)))
    with pytest.raises(ValueError, match=r"absmax must be 0 or at least 2\^-126"):
        blocks.nf4_quantize(np.full((1, 64), 1e-39))
    with pytest.raises(ValueError, match="128 codes need 2 absmax, got 3"):
        blocks.nf4_dequantize(np.zeros((2, 64), np.uint8), np.ones(3))
