"""A head of SpAtten's attention in exact fractions: twin of `dataflow.spatten.modules.attention`, words of 12 bits.

Only the roundings are named: float64 where codes and scales are made, float32 in the softmax; all else is exact.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, factorial, floor, sqrt
from typing import Any

from gpu_kernels.exact_rounding import Exact, to_float32
from workloads.policy import Policy

LN2 = Fraction("0.69314718055994530941723212145818")
LOG2_E = to_float32(1 / LN2)
LN2_HIGH = Fraction(floor(LN2 * 2**16), 2**16)
LN2_LOW = to_float32(LN2 - LN2_HIGH)
TAYLOR = [to_float32(Fraction(1, factorial(i))) for i in range(6)]
LANES = 8
Rows = Sequence[Sequence[float]]


def quantized(values: Rows, bits: int) -> tuple[list[list[int]], Fraction]:
    """(codes, scale) of all rows with one scale; quotients are float64."""
    top = 2 ** (bits - 1) - 1
    scale = Fraction(float(Fraction(max(abs(v) for row in values for v in row)) / top)) or Fraction(1)
    return [[round(Fraction(float(Fraction(v) / scale))) for v in row] for row in values], scale


def words(code: int, bits: int) -> int:
    """A code at the upper end of 12 bits."""
    return floor(code * Fraction(2) ** (12 - bits))


def exponential(x: Exact) -> Exact:
    n = round(to_float32(x * LOG2_E))
    if n < -126:
        return Fraction(0)
    r = to_float32(-LN2_LOW * n + to_float32(-LN2_HIGH * n + x))
    p = TAYLOR[5]
    for coefficient in TAYLOR[4::-1]:
        p = to_float32(r * p + coefficient)
    return to_float32(p * Fraction(2) ** n)


def lanes_sum(e: list[Exact]) -> Exact:
    """Neighbours in a tree of 8 lanes, cycle after cycle."""
    total: Exact = Fraction(0)
    for start in range(0, len(e), LANES):
        tree = e[start : start + LANES]
        tree += [Fraction(0)] * (LANES - len(tree))
        while len(tree) > 1:
            tree = [to_float32(a + b) for a, b in zip(tree[::2], tree[1::2], strict=True)]
        total = to_float32(total + tree[0])
    return total


def probabilities(query: list[int], keys: list[list[int]], factor: Exact) -> list[int]:
    """Probability words 0..4095 of a query."""
    scores = [sum(a * b for a, b in zip(query, key, strict=True)) for key in keys]
    e = [exponential(to_float32(to_float32(Fraction(s - max(scores))) * factor)) for s in scores]
    total = lanes_sum(e)
    return [min(round(to_float32(to_float32(one / total) * 4096)), 4095) for one in e]


def used(words_: list[int], keep: float) -> list[int]:
    """Keys whose V is used: the largest words, of equal ones the first."""
    count = max(1, ceil(keep * len(words_) - 1e-9))
    return sorted(sorted(range(len(words_)), key=lambda i: (-words_[i], i))[:count])


def rounded(total: int) -> int:
    """Half up, saturating."""
    return min(max(floor(Fraction(total, 4096) + Fraction(1, 2)), -2047), 2047)


def head(query: Rows, key: Rows, value: Rows, policy: Policy) -> dict[str, Any]:
    """What the modules give, as numbers and lists."""
    msb, lsb = policy.key_msb_bits, policy.key_lsb_bits
    q, q_scale = quantized(query, policy.query_bits)
    k, k_scale = quantized(key, msb + lsb)
    v, v_scale = quantized(value, policy.value_bits)
    scales = [q_scale * Fraction(2) ** (policy.query_bits - 12), k_scale * Fraction(2) ** (msb + lsb - 12)]
    both = Fraction(float(scales[0] * scales[1]))
    factor = to_float32(Fraction(float(both / Fraction(sqrt(len(q[0]))))))
    upper = [[words(code >> lsb, msb) for code in row] for row in k]
    whole = [[words(code, msb + lsb) for code in row] for row in k]
    values = [[words(code, policy.value_bits) for code in row] for row in v]
    found: dict[str, Any] = {"output": [], "probabilities": [], "recomputed": [], "values_used": []}
    for row in q:
        own = [words(code, policy.query_bits) for code in row]
        p = probabilities(own, upper, factor)
        again = lsb > 0 and max(p) < round(Fraction(policy.lsb_threshold) * 4096)
        p = probabilities(own, whole, factor) if again else p
        which = used(p, policy.value_keep)
        sums = [sum(p[i] * values[i][d] for i in which) for d in range(len(own))]
        found["output"].append([rounded(total) for total in sums])
        found["probabilities"].append(p)
        found["recomputed"].append(again)
        found["values_used"].append(which)
    found["importance"] = [sum(column) for column in zip(*found["probabilities"], strict=True)]
    scale = v_scale * Fraction(2) ** (policy.value_bits - 12)
    size = to_float32(Fraction(sum(abs(x) for row in found["output"] for x in row)))
    return found | {"scale": float(scale), "head_score": float(to_float32(size * to_float32(scale)))}
