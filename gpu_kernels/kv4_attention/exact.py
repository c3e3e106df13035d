"""Twin of `model`: exact Fractions, a thread and an operation at a time. Shapes as there; nested lists in and out."""

from collections.abc import Sequence
from fractions import Fraction
from math import isqrt
from typing import Any

from gpu_kernels.exact_rounding import Exact, exact, to_float16, to_float32

Row = list[Exact]
EPSILON = to_float32(Fraction(1, 10**6))
LOG2_E = to_float32(Fraction("1.4426950408889634"))
_LN2 = Fraction("0.693147180559945309417232121458")


def rotated(x: Sequence[Any], cosine: Sequence[Any], sine: Sequence[Any]) -> Row:
    """A vector [D] after the rotary embedding."""
    half, found = len(x) // 2, [exact(v) for v in x]
    for i in range(half):
        c, s, first, second = exact(cosine[i]), exact(sine[i]), exact(x[i]), exact(x[i + half])
        found[i] = to_float16(to_float32(c * first - to_float32(s * second)))
        found[i + half] = to_float16(to_float32(c * second + to_float32(s * first)))
    return found


def quantized(x: Sequence[Any], steps: int = 15) -> tuple[list[int], Exact, Exact]:
    """(codes, scale, zero) of a vector [D]: what the cache will hold; 255 steps with 8 bits."""
    values = [exact(v) for v in x]
    low, high = min(values), max(values)
    span = to_float32(high - low)
    scale: Exact = to_float16(to_float32(span / steps))
    zero: Exact
    if scale == 0:  # the guard: nothing to divide by
        scale, zero = Fraction(1), -low
    else:
        zero = to_float16(to_float32(to_float32(-steps * low) / span))
    inverse = to_float32(1 / scale)
    numbers = [min(max(round(to_float32(v * inverse + zero)), 0), 255) for v in values]
    return [number % (steps + 1) for number in numbers], scale, zero


def dequantized(codes: Sequence[Any], scale: Any, zero: Any) -> Row:
    """The float16 vector of codes [D]."""
    s, z = exact(scale), exact(zero)
    offset = to_float16(-s * z)
    return [to_float16(int(code) * s + offset) for code in codes]


def butterfly(lanes: Row) -> Exact:
    """Each lane adds its partner's float32, at half the distance each time; all lanes hold the same in the end."""
    distance = len(lanes) // 2
    while distance:
        lanes = [to_float32(lanes[i] + lanes[i ^ distance]) for i in range(len(lanes))]
        distance //= 2
    assert len(set(lanes)) == 1
    return lanes[0]


def half_of_lane(q: Row, k: Row) -> Exact:
    """Four products in float16: a multiplication, three fma."""
    acc = to_float16(q[0] * k[0])
    for a, b in zip(q[1:], k[1:], strict=True):
        acc = to_float16(a * b + acc)
    return acc


def cached_score(q: Row, k: Row) -> Exact:
    """q k of a cached key, not yet scaled: 8 elements a lane."""
    lanes = []
    for start in range(0, len(q), 8):
        low = half_of_lane(q[start : start + 4], k[start : start + 4])
        high = half_of_lane(q[start + 4 : start + 8], k[start + 4 : start + 8])
        lanes.append(to_float16(low + high))
    return butterfly(lanes)


def new_score(q: Row, k: Row) -> Exact:
    """q k of the new key, not yet scaled: all in float32."""
    each = max(2, len(q) // 32)
    lanes: Row = []
    for start in range(0, len(q), each):
        acc: Exact = Fraction(0)
        for i in range(start, start + each):
            acc = to_float32(acc + q[i] * k[i])
        lanes.append(acc)
    return butterfly(lanes)


def factor(size: int) -> Exact:
    """1 / sqrt(D) with the root rounded first."""
    root = to_float32(Fraction(isqrt(size << 200), 1 << 100))  # the root cut at 100 bits: never a tie
    return to_float32(1 / root)


def exponential(x: Exact) -> Exact:
    """The model's exponential of x <= 0, with all its roundings."""
    t = to_float32(x * LOG2_E)
    if t < -126:
        return Fraction(0)
    n = round(t)
    coefficients, power = [], Fraction(1)
    for i in range(8):
        coefficients.append(to_float32(power))
        power = power * _LN2 / (i + 1)
    p = coefficients.pop()
    while coefficients:
        p = to_float32((t - n) * p + coefficients.pop())
    return p * Fraction(2) ** n


def softmax(scores: Row) -> Row:
    """Probabilities as float16: 256 threads, 8 warps."""
    top = max(scores)
    e = [exponential(to_float32(s - top)) for s in scores]
    threads: Row = [Fraction(0)] * 256
    for i, value in enumerate(e):
        threads[i % 256] = to_float32(threads[i % 256] + value)
    total = butterfly([butterfly(threads[start : start + 32]) for start in range(0, 256, 32)])
    inverse = to_float32(1 / to_float32(total + EPSILON))
    return [to_float16(to_float32(value * inverse)) for value in e]


def weighted(probabilities: Row, values: list[Row]) -> Row:
    """The output [D] of tokens' probabilities and float16 values."""
    size = len(values[0])
    groups: list[Row] = [[Fraction(0)] * size for _ in range(2048 // size)]
    for i, (p, v) in enumerate(zip(probabilities, values, strict=True)):
        own = i % len(groups)
        groups[own] = [to_float32(p * x + acc) for x, acc in zip(v, groups[own], strict=True)]
    while len(groups) > 1:
        half = len(groups) // 2
        pairs = zip(groups[:half], groups[half:], strict=True)
        groups = [[to_float32(a + to_float16(b)) for a, b in zip(low, up, strict=True)] for low, up in pairs]
    return [to_float16(x) for x in groups[0]]


def head(query: Any, key: Any, value: Any, key_cache: Any, value_cache: Any, tokens: Any) -> Row:
    """One query head; query and key are rotated; caches are (codes [T][D], scale [T], zero [T])."""
    q, k, v = ([exact(x) for x in vector] for vector in (query, key, value))
    keys = [dequantized(*(part[t] for part in key_cache)) for t in tokens]
    values = [dequantized(*(part[t] for part in value_cache)) for t in tokens]
    scores = [cached_score(q, one) for one in keys] + [new_score(q, k)]
    c = factor(len(q))
    return weighted(softmax([to_float32(s * c) for s in scores]), [*values, v])
