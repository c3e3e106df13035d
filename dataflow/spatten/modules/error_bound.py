"""How far a statically quantized head may be from exact attention, derived from its formats alone.

Rounding of Q and K moves a score by at most d, and so a probability mass P to at most P e^d / (P e^d + (1 - P) e^-d):
the total variation between the two softmaxes is at most tanh(d / 2), nor can what is not the largest probability grow
by more than e^2d; a weighted mean of V moves by at most the variation times the range of V. A probability word is off
by half a unit (by one where all ones stand for 1), or by all of a probability that rounds to 0. V and the output are
off by half a unit of V. `softmax_relative` is what float32 adds.
"""

import numpy as np

from dataflow.spatten.modules.fixed_point import Floats, largest
from dataflow.spatten.modules.softmax import EXP_RELATIVE_ERROR

EPSILON = 2.0**-24  # half a unit in the last place of float32, relative


def exact_attention(query: Floats, key: Floats, value: Floats) -> tuple[Floats, Floats]:
    """(probabilities [n, m], outputs [n, D]) in float64."""
    score = query @ key.T / np.sqrt(query.shape[1])
    share = np.exp(score - score.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    return share, share @ value


def _steps(query: Floats, key: Floats, value: Floats, bits: int) -> tuple[float, float, float]:
    """The value of one code of each operand."""
    return tuple(float(np.abs(a).max()) / largest(bits) for a in (query, key, value))  # type: ignore[return-value]


def score_bound(query: Floats, key: Floats, bits: int) -> Floats:
    """The largest change of any score of each query by rounding Q and K, [n]."""
    q, k, _ = _steps(query, key, key, bits)
    size = query.shape[1]
    own = np.abs(query).sum(axis=1) * k / 2 + size * q * k / 4
    found: Floats = (own + np.abs(key).sum(axis=1).max() * q / 2) / np.sqrt(size)
    return found


def softmax_relative(query: Floats, key: Floats) -> Floats:
    """Relative error of a float32 probability, [n]: the exponent's rounding, the exponential, sum and division."""
    score = query @ key.T / np.sqrt(query.shape[1])
    reach = 2 * np.abs(score).max(axis=1)  # what the largest exponent can be, before and after the subtraction
    found: Floats = 2 * (4 * EPSILON * reach + EXP_RELATIVE_ERROR) + (len(key) + 8) * EPSILON
    return found


def output_bound(query: Floats, key: Floats, value: Floats, bits: int) -> Floats:
    """Largest |output - exact attention| that the formats allow, [n, D], with `bits` for Q, K, V and probabilities."""
    share, _ = exact_attention(query, key, value)
    unit, v = 2.0**-bits, _steps(query, key, value, bits)[2]
    growth = np.exp(np.minimum(2 * score_bound(query, key, bits), 700))[:, None]  # of one probability, at most
    share = np.maximum(share, 1e-300)  # and what float64 has lost may grow too
    rest = np.sort(share, axis=1)[:, :-1].sum(axis=1, keepdims=True)
    variation = np.minimum((np.sqrt(growth) - 1) / (np.sqrt(growth) + 1), rest * (growth - 1))
    moved = variation * np.ptp(value, axis=0) + softmax_relative(query, key)[:, None] * np.abs(value).max(axis=0)
    rounded = np.minimum(unit / 2, share * growth) @ (np.abs(value) + v / 2) + unit / 2 * np.abs(value).max()
    total = 1 + len(key) * unit / 2  # what the words of a row may add up to
    found: Floats = moved + rounded + total * v / 2 + v / 2
    return found


def output_deviation(query: Floats, key: Floats, value: Floats, bits: int) -> Floats:
    """The same with every rounding an independent uniform error: expected root mean square over D, [n].

    First order in the errors of Q and K; nothing where roundings are alike (equal probabilities).
    """
    share, exact = exact_attention(query, key, value)
    steps, size, unit = _steps(query, key, value, bits), query.shape[1], 2.0**-bits
    spread = value[None] - exact[:, None]  # [n, m, D]
    weight = share[:, :, None] * spread
    of_key = (weight**2).sum(1) * (query**2).sum(1, keepdims=True) * steps[1] ** 2 / size
    of_query = ((weight.transpose(0, 2, 1) @ key) ** 2).sum(2) * steps[0] ** 2 / size
    of_share = np.minimum(unit, share * np.sqrt(12)) ** 2 @ value**2
    of_value = (share**2).sum(1, keepdims=True) * steps[2] ** 2 + steps[2] ** 2
    found: Floats = np.sqrt(((of_key + of_query + of_share + of_value) / 12).mean(axis=1))
    return found
