"""The same attention in float64, and how far `model` may be from it.

Both see the same float16 numbers: the rotated query and new key, the dequantized cache, the new value. With u = 2^-11
and w = 2^-24, the relative errors of a float16 and a float32 rounding, and t = 2^-25, half a float16 subnormal:

score      s c: a product passes up to 5 float16 roundings (chain of 4, halves added) and log2(D/8) + 3 float32 ones;
           delta = c (((1 + u)^5 (1 + w)^(log2(D/8) + 3) - 1) sum |q k| + 9 D/8 t); the new key float32 ones only
exponent   x off by delta + 3 w |x|, x down to -88; the exponential by 2^-23.5
share      p: its own exponent and, through the sum, the worst one; n/256 + 8 float32 additions, 1e-6, 4 more roundings,
           and one float16 rounding, t at least
output     n/groups + log2(groups) + 1 float32 roundings, log2(groups) + 1 float16 ones (a group's sum may be in the
           upper half each time), t for each of them

Rounding errors add up at random, not all one way: the largest error seen is 50 to 1000 times below this bound.
`output_deviation` is what independent roundings give, and is met within 10 % unless few tokens have all the weight.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_kernels.kv4_attention.model import PIECE, THREADS, WARP

Wide = NDArray[np.float64]
U, W, TINY = 2.0**-11, 2.0**-24, 2.0**-25


def attention(query: Any, keys: Any, values: Any) -> tuple[Wide, Wide]:
    """(shares [n], output [D]) in float64: query [D], keys and values [n, D], the new token last."""
    q, k, v = (np.asarray(x, np.float64) for x in (query, keys, values))
    scores = k @ q / np.sqrt(len(q))
    shares = np.exp(scores - scores.max())
    shares /= shares.sum() + 1e-6
    return shares, shares @ v


def _grown(half: int, single: int) -> float:
    """Relative error of so many float16 and float32 roundings."""
    return float(np.expm1(half * np.log1p(U) + single * np.log1p(W)))


def score_bound(query: Any, keys: Any) -> Wide:
    """The largest error of each score, [n]."""
    q, k = np.asarray(query, np.float64), np.asarray(keys, np.float64)
    size = len(q)
    lanes, new_lanes = size // PIECE, min(WARP, size // 2)
    error = np.abs(k) @ np.abs(q) * _grown(5, int(np.log2(lanes)) + 3) + 9 * lanes * TINY
    error[-1] = np.abs(k[-1]) @ np.abs(q) * _grown(0, size // new_lanes + int(np.log2(new_lanes)) + 3)
    found: Wide = error / np.sqrt(size)
    return found


def output_bound(query: Any, keys: Any, values: Any) -> Wide:
    """The largest |model - attention| of each output element, [D], as long as nothing overflows."""
    shares, _ = attention(query, keys, values)
    count, groups = len(shares), THREADS * PIECE // len(np.asarray(query))
    v, scores = np.abs(np.asarray(values, np.float64)), np.asarray(keys, np.float64) @ np.asarray(query, np.float64)
    reach = np.minimum((scores.max() - scores) / np.sqrt(len(np.asarray(query))), 88)
    exponent = score_bound(query, keys) + 3 * W * reach + 2.0**-23.5
    worst = exponent + exponent.max() + np.log1p(_grown(1, count // THREADS + 13)) + 1e-6
    moved = shares * np.expm1(worst) + TINY
    steps = int(np.log2(groups))
    summed = _grown(steps + 1, count // groups + steps + 2) * (shares + moved) @ v
    found: Wide = moved @ v + summed + (groups + 1) * TINY
    return found


def _variance(x: Any) -> Wide:
    """Of the error of rounding x to float16: uniform over a unit in the last place."""
    unit = 2.0 ** np.maximum(np.floor(np.log2(np.maximum(np.abs(x), 2.0**-14))) - 10, -24)
    found: Wide = unit**2 / 12
    return found


def score_deviation(query: Any, keys: Any) -> Wide:
    """Expected root mean square error of each score, [n]; float32 roundings are neglected."""
    q, k = np.asarray(query, np.float64), np.asarray(keys, np.float64)
    chains = np.cumsum((k * q).reshape(len(k), -1, 2, 4), axis=3)  # partial sums of the halves of each lane
    variance = _variance(chains).sum(axis=(1, 2, 3)) + _variance(chains[..., -1].sum(axis=2)).sum(axis=1)
    variance[-1] = 0
    found: Wide = np.sqrt(variance / len(q))
    return found


def output_deviation(query: Any, keys: Any, values: Any) -> Wide:
    """Expected root mean square error of each output element, [D], to first order."""
    shares, output = attention(query, keys, values)
    v = np.asarray(values, np.float64)
    groups = np.zeros((THREADS * PIECE // len(output), len(output)))
    np.add.at(groups, np.arange(len(v)) % len(groups), shares[:, None] * v)
    of_scores = (shares * score_deviation(query, keys)) ** 2 @ (v - output) ** 2
    variance = of_scores + _variance(shares) @ v**2 + _variance(output)
    while len(groups) > 1:
        low, up = np.split(groups, 2)
        variance += np.where(up == 0, 0, _variance(up)).sum(axis=0)
        groups = low + up
    found: Wide = np.sqrt(variance)
    return found
