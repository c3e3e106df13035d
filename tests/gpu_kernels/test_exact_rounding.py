"""Exact rounding against values worked by hand, NumPy's conversions and Python's own."""

import itertools
import math
import random
import struct
from fractions import Fraction

import numpy as np
import pytest

from gpu_kernels.exact_rounding import exact, flush, to_bfloat16, to_float16, to_float32, to_form

TINY = Fraction(1, 2**60)


def power(e: int) -> Fraction:
    return Fraction(2) ** e


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (Fraction(2049), Fraction(2048)),  # a tie goes to the even neighbour
        (Fraction(2051), Fraction(2052)),
        (2049 + TINY, Fraction(2050)),
        (Fraction(65519), Fraction(65504)),
        (Fraction(65520), math.inf),  # a tie with what would be 2^16
        (Fraction(-65520), -math.inf),
        (power(-25), Fraction(0)),  # half of the smallest
        (power(-25) + TINY, power(-24)),
        (3 * power(-25), power(-23)),
        (power(-14) - power(-26), power(-14)),  # from the subnormals up to the smallest normal
        (-math.inf, -math.inf),
        (Fraction(0), Fraction(0)),
    ],
)
def test_float16_by_hand(value, rounded):
    assert to_float16(value) == rounded


def test_float32_and_bfloat16_at_their_ends():
    assert to_float32(power(-150)) == 0
    assert to_float32(power(-150) * (1 + TINY)) == power(-149)
    assert to_float32(power(128) - power(103)) == math.inf
    assert to_float32(power(128) - power(103) - 1) == power(128) - power(104)
    assert to_bfloat16(Fraction(257)) == 256
    assert to_bfloat16(Fraction(259)) == 260
    assert to_bfloat16(power(-134) * 3) == power(-132)
    assert to_bfloat16(power(128) - power(119)) == math.inf


def test_every_float16_is_a_fixed_point_and_middles_go_to_even():
    bits = np.arange(0x7BFF, dtype=np.uint16)
    values = [Fraction(float(v)) for v in bits.view(np.float16)]
    assert all(to_float16(v) == v for v in values)
    middles = [to_float16((low + high) / 2) for low, high in itertools.pairwise(values)]
    assert middles == [values[i + i % 2] for i in range(len(middles))]


def test_against_conversions_of_the_processor():
    draw = random.Random(5)
    for _ in range(3000):
        x = math.ldexp(draw.getrandbits(53), draw.randint(-205, 70)) * draw.choice([1, -1])
        single = struct.unpack("f", struct.pack("f", x))[0] if abs(x) < 3.4e38 else x
        if abs(x) < 3.4e38:
            assert to_float32(Fraction(x)) == Fraction(single)
        with np.errstate(over="ignore"):
            assert to_float16(Fraction(x)) == exact(np.float64(x).astype(np.float16))


def test_forms_flush_and_refusals():
    assert to_form(Fraction(257), "bfloat16") == 256
    assert to_form(Fraction(257), "float16") == 257
    assert flush(power(-126)) == power(-126)
    assert flush(-power(-127)) == 0
    assert flush(-math.inf) == -math.inf
    assert exact(np.float32(0.1)) == Fraction(13421773, 2**27)
    assert exact(np.int8(-128)) == -128
    with pytest.raises(ValueError, match=r"takes a Fraction or an infinity, got the float 0\.5"):
        to_float16(0.5)
    with pytest.raises(ValueError):
        exact(math.nan)
