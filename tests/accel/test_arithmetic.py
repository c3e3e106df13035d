"""16-bit floats and fused operations, against NumPy, torch-free tables and exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from accel.arithmetic import flush, fma, fma_bfloat16, fma_float16, round_to, to_bfloat16, to_float16

FORMATS = {"float16": (11, -14, 65504.0), "bfloat16": (8, -126, float(2**128 - 2**120))}
HALVES = np.arange(1 << 16, dtype=np.uint16)


@njit(cache=True)
def each(kind, a, b, c):  # type: ignore[no-untyped-def]
    found = np.empty(len(a), np.float32)
    for i in range(len(a)):
        if kind == 0:
            found[i] = to_float16(a[i])
        elif kind == 1:
            found[i] = to_bfloat16(a[i])
        elif kind == 2:
            found[i] = fma_float16(a[i], b[i], c[i])
        elif kind == 3:
            found[i] = fma_bfloat16(a[i], b[i], c[i])
        elif kind == 4:
            found[i] = fma(a[i], b[i], c[i])
        else:
            found[i] = flush(a[i])
    return found


def rounded(x: Fraction, bits: int, least: int, largest: float) -> float:
    """Nearest even, exactly."""
    if not x:
        return 0.0
    size = abs(x)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= Fraction(2) ** exponent > size
    unit = Fraction(2) ** (max(exponent, least) - bits + 1)
    found = round(size / unit) * unit
    value = float(found) if found <= largest else np.inf
    return value if x > 0 else -value


def around(values: np.ndarray) -> np.ndarray:
    """Each float32 with both neighbours."""
    return np.concatenate([values, np.nextafter(values, np.float32(np.inf)), np.nextafter(values, np.float32(-np.inf))])


def test_float16_at_every_value_and_middle() -> None:
    found = HALVES.view(np.float16).astype(np.float32)
    finite = np.sort(found[np.isfinite(found)])
    middles = ((finite[:-1].astype(np.float64) + finite[1:]) / 2).astype(np.float32)
    given = around(np.concatenate([finite, middles, np.array([65519.996, 65520, 1e30, -65520], np.float32)]))
    with np.errstate(over="ignore"):
        wanted = given.astype(np.float16).astype(np.float32)
    assert (each(0, given, given, given).view(np.uint32) == wanted.view(np.uint32)).all()


def test_bfloat16_at_every_value_and_middle() -> None:
    words = (HALVES.astype(np.uint32) << 16)[:, None] + np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    given = words.ravel().view(np.float32)
    given = given[~np.isnan(given)]
    found = each(1, given, given, given)
    below = (given.view(np.uint32) >> 16 << 16).view(np.float32)
    rest = given.view(np.uint32) & 0xFFFF
    up = (rest > 0x8000) | ((rest == 0x8000) & (given.view(np.uint32) >> 16 & 1 == 1))
    assert (found.view(np.uint32) == below.view(np.uint32) + np.where(up, 0x10000, 0).astype(np.uint32)).all()


def test_nan_stays_nan() -> None:
    odd = np.array([0x7F800001, 0xFFC00000, 0x7FFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(each(0, odd, odd, odd)).all()
    assert np.isnan(each(1, odd, odd, odd)).all()
    assert np.isnan(round_to(np.array([np.nan]), "float16")).all()


def ties(rng: np.random.Generator, form: str, count: int) -> tuple[np.ndarray, ...]:
    """Products, half of them beside an addend that makes the sum lie near a middle, or that nearly cancels it."""
    a, b = (round_to(rng.standard_normal(count) * 2.0 ** rng.integers(-9, 5, count), form) for _ in range(2))
    c = round_to(rng.standard_normal(count) * 2.0 ** rng.integers(-30, 12, count), form)
    near = round_to(-(a.astype(np.float64) * b)[: count // 2], form)
    c[: count // 2] = near
    return a, b, c


@pytest.mark.parametrize(("form", "kind"), [("float16", 2), ("bfloat16", 3)])
def test_fused_operations_round_once(form: str, kind: int) -> None:
    a, b, c = ties(np.random.default_rng(kind), form, 6000)
    found = each(kind, a, b, c)
    wanted = [
        rounded(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)), *FORMATS[form])
        for x, y, z in zip(a, b, c, strict=True)
    ]
    assert found.tolist() == wanted


@pytest.mark.parametrize(("form", "kind"), [("float16", 2), ("bfloat16", 3)])
def test_rounding_twice_would_be_wrong(form: str, kind: int) -> None:
    """1 + half a unit + a little: float32 drops the little, and the tie then goes to the even neighbour, 1."""
    unit = 2.0 ** (1 - FORMATS[form][0])
    little = 2.0**-24 if form == "float16" else 2.0**-60
    a, b = np.float32([1 + unit]), np.float32([1 + unit])  # (1 + u)^2 = 1 + 2 u + u^2
    c = np.float32([little])
    exact = Fraction(1 + unit) ** 2 + Fraction(little)
    assert each(kind, a, b, c)[0] == rounded(exact, *FORMATS[form])
    one, half = np.float32([1]), np.float32([unit / 2])
    assert each(kind, half, one, one)[0] == 1
    product = np.float32([1 + unit]), np.float32([unit / 2])  # half a unit and a little more
    assert each(kind, *product, one)[0] == 1 + unit


def test_products_of_bfloat16_that_leave_float32() -> None:
    big, small = np.float32([2.0**100]), np.float32([2.0**-100])
    assert each(3, big, np.float32([2.0**28]), np.float32([-(2.0**127)]))[0] == 2.0**127
    assert each(3, small, np.float32([2.0**-33]), np.float32([0]))[0] == 2.0**-133
    assert each(3, small, np.float32([2.0**-34]), np.float32([2.0**-133]))[0] == 2.0**-132  # a tie, to even


@settings(max_examples=200, deadline=None)
@given(*(st.floats(width=32, allow_nan=False, allow_infinity=False) for _ in range(3)))
def test_float32_fma_rounds_once(a: float, b: float, c: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    found = each(4, *(np.float32([x]) for x in (a, b, c)))[0]
    assert found == rounded(exact, 24, -126, float(np.finfo(np.float32).max))


def test_flush_keeps_the_sign() -> None:
    given = np.float32([1e-40, -1e-40, 2.0**-126, -0.0, 3])
    assert (
        each(5, given, given, given).view(np.uint32).tolist()
        == np.float32([0, -0.0, 2.0**-126, -0.0, 3]).view(np.uint32).tolist()
    )


def test_float64_is_rounded_once() -> None:
    """Through float32 the second would become a tie and go to 1."""
    given = np.array([1 + 2.0**-11, 1 + 2.0**-11 + 2.0**-40])
    assert round_to(given, "float16").tolist() == [1, 1 + 2.0**-10]
    given = np.array([1 + 2.0**-8, 1 + 2.0**-8 + 2.0**-40])
    assert round_to(given, "bfloat16").tolist() == [1, 1 + 2.0**-7]


def test_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="form: must be one of float16, bfloat16, got 'float32'"):
        round_to(np.ones(2), "float32")
