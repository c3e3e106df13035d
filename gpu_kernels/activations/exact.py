"""Twin of `model`: the same quantization, norm and gate in Fractions, a token at a time."""

from collections.abc import Sequence
from fractions import Fraction
from math import inf, isqrt
from typing import Any, NamedTuple

from gpu_kernels.exact_rounding import Exact, exact, to_float32, to_form


class Token(NamedTuple):
    codes: list[int]
    scale: Exact
    sum: Exact


def token_sum(row: Sequence[Fraction], squares: bool = False) -> Exact:
    """256 threads with pieces of 8, then lanes and warps in butterflies; float32 after every addition (or fma)."""
    threads: list[list[Fraction]] = [[] for _ in range(256)]
    for start in range(0, len(row), 8):
        threads[start // 8 % 256] += row[start : start + 8]
    parts: list[Exact] = []
    for values in threads:
        part: Exact = Fraction(0)
        for value in values:
            part = to_float32(part + (value * value if squares else value))
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
    """Codes, scale and sum of one token; none of its numbers is a NaN."""
    numbers = [exact(value) for value in row]
    values = [value for value in numbers if isinstance(value, Fraction)]
    if len(values) < len(numbers):  # something is infinite
        return Token([0] * len(numbers), inf, inf)
    amax = max(abs(value) for value in values)
    inverse = to_float32(127 / amax) if amax else Fraction(0)
    if isinstance(inverse, float):  # infinite
        inverse = Fraction(0)
    products = [exact(to_float32(value * inverse)) for value in values]
    codes = [max(-128, min(127, round(product))) for product in products]  # of a Fraction: ties to even
    return Token(codes, to_form(to_float32(amax / 127), form), to_form(token_sum(values), form))


def root(x: Fraction) -> Exact:
    """The square root as float32: cut 200 bits below the point, which is never a tie, then rounded."""
    return to_float32(Fraction(isqrt((x.numerator << 400) // x.denominator), 1 << 200))


def normalized(row: Sequence[Any], weight: Sequence[Any], epsilon: float, form: str) -> list[Exact]:
    """A token after the norm, on the grid of `form`; its sum of squares is finite."""
    values = [Fraction(float(value)) for value in row]
    mean = to_float32(Fraction(token_sum(values, squares=True)) / len(values))
    whole = Fraction(to_float32(mean + Fraction(to_float32(Fraction(epsilon)))))
    inverse_root = to_float32(1 / Fraction(root(whole)))
    products = [to_float32(value * inverse_root) for value in values]
    return [to_form(to_float32(p * Fraction(float(w))), form) for p, w in zip(products, weight, strict=True)]


def added(x: Sequence[Any], residual: Sequence[Any], form: str) -> list[Exact]:
    """Their sum on the grid of `form`: one rounding."""
    pairs = zip(x, residual, strict=True)
    return [to_form(Fraction(float(a)) + Fraction(float(b)), form) for a, b in pairs]


def gated(gates: Sequence[Any], others: Sequence[Any], form: str) -> list[Exact]:
    """silu(gate) other, on the grid of `form`."""
    return [_gated(Fraction(float(g)), Fraction(float(u)), form) for g, u in zip(gates, others, strict=True)]


def _gated(gate: Fraction, other: Fraction, form: str) -> Exact:
    return to_form(to_float32(Fraction(silu(gate)) * other), form)


POWERS = [  # of 2^f, as float32
    Fraction(1),
    Fraction(11629077, 2**24),
    Fraction(16121057, 2**26),
    Fraction(3725019, 2**26),
    Fraction(5192237, 2**29),
    Fraction(5699257, 2**32),
]


def silu(gate: Fraction) -> Exact:
    """gate / (1 + exp(-gate)) with all its roundings."""
    held = max(gate, Fraction(-87))
    exponent = -min(held, Fraction(87)) * Fraction(to_float32(Fraction("1.4426950408889634")))
    whole = round(exponent)
    power = Fraction(0)
    for coefficient in reversed(POWERS):
        power = Fraction(to_float32(power * Fraction(to_float32(exponent - whole)) + coefficient))
    share = to_float32(1 / Fraction(to_float32(1 + power * Fraction(2) ** whole)))
    return to_float32(held * share)
