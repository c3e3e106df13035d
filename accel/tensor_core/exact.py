"""The slow twin of `accel.tensor_core.product`: one element of a product, in exact fractions."""

from collections.abc import Sequence
from fractions import Fraction
from math import trunc

from accel.tensor_core.rules import LEAST_EXPONENT, Accumulation


def _exponent(x: Fraction) -> int:
    """floor(log2 |x|) of x != 0."""
    size = abs(x)
    found = size.numerator.bit_length() - size.denominator.bit_length()
    return found if Fraction(2) ** found <= size else found - 1


def _cut(x: Fraction, place: int) -> Fraction:
    """x towards zero to a multiple of 2^place."""
    unit = Fraction(2) ** place
    return trunc(x / unit) * unit


def add_block(a: Sequence[Fraction], b: Sequence[Fraction], c: Fraction, rule: Accumulation) -> Fraction:
    """c plus the products of one block; finite numbers whose sum stays below 2^128."""
    least = LEAST_EXPONENT[rule.operand]
    terms = [(x * y, max(_exponent(x), least) + max(_exponent(y), least)) for x, y in zip(a, b, strict=True) if x and y]
    terms.append((c, max(_exponent(c), -126) if c else -126))
    largest = max(exponent for _, exponent in terms)
    total = sum((_cut(term, largest - rule.fraction_bits) for term, _ in terms), Fraction(0))
    return _cut(total, max(_exponent(total), -126) - rule.result_bits) if total else total


def dot(a: Sequence[Fraction], b: Sequence[Fraction], c: Fraction, rule: Accumulation) -> Fraction:
    """c plus a times b, block by block upwards."""
    for start in range(0, len(a), rule.width):
        block = slice(start, start + rule.width)
        c = add_block(a[block], b[block], c, rule)
    return c


def scaled_dot(
    a: Sequence[Fraction], a_scale: Sequence[Fraction], b: Sequence[Fraction], b_scale: Sequence[Fraction]
) -> Fraction:
    """The slow twin of `accel.tensor_core.block_scaled`: one element, from zero; a, b of K, scales of K/16 numbers."""
    total = Fraction(0)
    for step in range(0, len(a), 64):
        terms = [(total, max(_exponent(total), -126) if total else -126)]
        for group in range(step // 16, step // 16 + 4):
            inside = range(group * 16, group * 16 + 16)
            value = sum((a[k] * b[k] for k in inside), Fraction(0)) * a_scale[group] * b_scale[group]
            if value:
                terms.append((value, sum(max(_exponent(scale[group]), -6) for scale in (a_scale, b_scale))))
        largest = max(exponent for _, exponent in terms)
        total = sum((_cut(term, largest - 35) for term, _ in terms), Fraction(0))
        total = _cut(total, max(_exponent(total), -126) - 23) if total else total
    return total
