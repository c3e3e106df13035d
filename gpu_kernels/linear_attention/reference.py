"""Linear attention in float64, and how far `model` may be from it.

With w = 2^-24: a sum of n terms by fma is off by at most n w times the sum of their magnitudes (to first order; the
bound takes (1 + w)^n - 1). A numerator goes through at most 256 + chunks + D roundings, and so does the divisor, all of
whose terms are positive; then three more (epsilon, division), and the rounding to 16 bits.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_kernels.linear_attention.model import CHUNK

Wide = NDArray[np.float64]
W = 2.0**-24
UNITS = {"float16": (2.0**-11, 2.0**-25), "bfloat16": (2.0**-8, 2.0**-134)}  # relative, half a subnormal


def _sums(query: Any, key: Any, value: Any) -> tuple[Wide, Wide]:
    """(numerators [..., tokens, D], divisors [..., tokens, 1])."""
    q, k = (np.maximum(np.asarray(x, np.float64), 0) for x in (query, key))
    v = np.asarray(value, np.float64)
    return q @ (k.swapaxes(-1, -2) @ v), q @ k.sum(axis=-2)[..., None]


def attention(query: Any, key: Any, value: Any, epsilon: float = 1e-6) -> Wide:
    """Outputs [B, heads, tokens, D] in float64."""
    numerator, divisor = _sums(query, key, value)
    found: Wide = numerator / (divisor + epsilon)
    return found


def bound(query: Any, key: Any, value: Any, epsilon: float = 1e-6, form: str = "float16") -> Wide:
    """The largest |model - attention| of each element, as long as no float32 overflows or is subnormal."""
    tokens, size = np.shape(key)[-2:]
    roundings = min(tokens, CHUNK) + -(-tokens // CHUNK) + size + 4
    off = np.expm1(roundings * np.log1p(W))
    reach, divisor = _sums(query, key, np.abs(np.asarray(value, np.float64)))
    share = np.abs(attention(query, key, value, epsilon))
    moved = 2 * off * reach / (divisor + epsilon)  # by the numerator's and by the divisor's errors
    relative, tiny = UNITS[form]
    found: Wide = moved + (share + moved) * relative + tiny
    return found
