"""Twin of `model`: the same quantization in Fractions, a token at a time."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from gpu_kernels.exact_rounding import Exact, exact, to_float32, to_form


class Token(NamedTuple):
    codes: list[int]
    scale: Exact
    sum: Exact


def token_sum(row: Sequence[Fraction]) -> Exact:
    """256 threads with pieces of 8, then lanes and warps in butterflies; float32 after every addition."""
    threads: list[list[Fraction]] = [[] for _ in range(256)]
    for start in range(0, len(row), 8):
        threads[start // 8 % 256] += row[start : start + 8]
    parts: list[Exact] = []
    for values in threads:
        part: Exact = Fraction(0)
        for value in values:
            part = to_float32(part + value)
        parts.append(part)
    warps = [_butterfly(parts[at : at + 32]) for at in range(0, 256, 32)]
    return _butterfly(warps)


def _butterfly(parts: list[Exact]) -> Exact:
    """Every lane adds the lane at half the distance, until all hold the sum."""
    distance = len(parts) // 2
    while distance:
        parts = [to_float32(part + parts[lane ^ distance]) for lane, part in enumerate(parts)]
        distance //= 2
    assert len(set(parts)) == 1
    return parts[0]


def quantize_token(row: Sequence[Any], form: str) -> Token:
    """Codes, scale and sum of one token of finite numbers."""
    values = [Fraction(float(value)) for value in row]
    amax = max(abs(value) for value in values)
    inverse = to_float32(127 / amax) if amax else Fraction(0)
    if isinstance(inverse, float):  # infinite
        inverse = Fraction(0)
    products = [exact(to_float32(value * inverse)) for value in values]
    codes = [max(-128, min(127, round(product))) for product in products]  # of a Fraction: ties to even
    return Token(codes, to_form(to_float32(amax / 127), form), to_form(token_sum(values), form))
