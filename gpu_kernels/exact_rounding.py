"""Rounding in exact arithmetic, for the twins that check the functional models: slow, obvious, no float anywhere.

A number is a Fraction, or an infinite float once it has overflowed; zeros have no sign. All roundings are to nearest,
ties to even (IEEE 754-2019, 4.3.1), with subnormals. Nothing here is shared with `accel.arithmetic`.
"""

import math
from fractions import Fraction
from typing import Any

Exact = Fraction | float  # a float only where it is infinite


def _exponent(x: Fraction) -> int:
    """The e with 2^e <= x < 2^(e + 1), of a positive x."""
    e = x.numerator.bit_length() - x.denominator.bit_length()
    return e if Fraction(2) ** e <= x else e - 1


def _rounded(x: Exact, digits: int, lowest: int, highest: int) -> Exact:
    """x to `digits` significant bits; 2^lowest is the smallest subnormal, 2^highest the largest power of two."""
    if isinstance(x, float):
        if not math.isinf(x):
            raise ValueError(f"exact rounding: takes a Fraction or an infinity, got the float {x!r}")
        return x
    if x == 0:
        return x
    unit = Fraction(2) ** max(_exponent(abs(x)) - digits + 1, lowest)
    near = round(x / unit) * unit  # of a Fraction: to nearest, ties to even, exact
    if abs(near) >= Fraction(2) ** (highest + 1):
        return math.inf if x > 0 else -math.inf
    return near


def to_float32(x: Exact) -> Exact:
    """x as float32: 24 bits, 2^-149 to 2^128 (1 - 2^-24)."""
    return _rounded(x, 24, -149, 127)


def to_float16(x: Exact) -> Exact:
    """x as float16: 11 bits, 2^-24 to 65504."""
    return _rounded(x, 11, -24, 15)


def to_bfloat16(x: Exact) -> Exact:
    """x as bfloat16: 8 bits, 2^-133 to 2^128 (1 - 2^-8)."""
    return _rounded(x, 8, -133, 127)


def to_form(x: Exact, form: str) -> Exact:
    """x as `form`, "float16" or "bfloat16" (KeyError otherwise)."""
    return {"float16": to_float16, "bfloat16": to_bfloat16}[form](x)


def flush(x: Exact) -> Exact:
    """0 for a float32 below 2^-126."""
    smallest = Fraction(1, 2**126)
    return Fraction(0) if -smallest < x < smallest else x


def exact(x: Any) -> Exact:
    """The number that a float or an integer (of Python or NumPy) is; a NaN has none: ValueError."""
    value = float(x) if not isinstance(x, int | Fraction) else x
    return value if isinstance(value, float) and math.isinf(value) else Fraction(value)
