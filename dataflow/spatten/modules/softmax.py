"""The softmax pipeline: integer scores to 12-bit probabilities (section IV-D), in float32 with a stated order.

    s - max(s)  ->  x = (s - max) x factor  ->  e = exp(x)  ->  sum of e  ->  e / sum  ->  word of prob_bits

The exponential is 2^n x P(r) with n = rint(x log2 e), r = x - n ln 2 in two FMAs (ln 2 in two parts), and P the
5th-order Taylor polynomial in Horner form, five FMAs. `factor` folds both scales and 1/sqrt(D). Each cycle the
exponentials of all lanes are added in a tree and the tree's sum to one accumulator. Every operation rounds to nearest
even; with n < -126 the exponential is 0. A word is rint(p x 2^prob_bits), at most all ones: one dominant key gets
4095/4096.

The paper does not mention the subtraction of the maximum. Without it float32 overflows from x = 88.7 on; with it an
integer maximum and a row of scores in front of the pipeline are needed, which the FIFO of 128 x 8 scores (Table I) is:
the row is stored and forwarded, as between all stages (docs/decisions/0003). So it is done here.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from accel.arithmetic import fma
from dataflow.spatten.modules.fixed_point import Ints

Float32s = NDArray[np.float32]
LOG2_E = np.float32(1 / math.log(2))
LN2_HIGH = np.float32(0.693145751953125)  # the first 16 bits of ln 2
LN2_LOW = np.float32(math.log(2) - 0.693145751953125)
ORDER = 5  # of the polynomial (section IV-D)
TAYLOR = np.array([1 / math.factorial(i) for i in range(ORDER + 1)], np.float32)
SMALLEST = -126  # exponent of the smallest normal float32
EXP_RELATIVE_ERROR = 3.4e-6  # of the polynomial with its rounding, over |r| <= ln(2) / 2: found by trying every float32


@njit(cache=True)
def polynomial(r):  # type: ignore[no-untyped-def]
    """The exponential of a float32 r within +-ln(2) / 2, by Horner's rule."""
    p = TAYLOR[ORDER]
    for i in range(ORDER - 1, -1, -1):
        p = fma(r, p, TAYLOR[i])
    return p


@njit(cache=True)
def exponential(x):  # type: ignore[no-untyped-def]
    """The exponential of a float32 x: range reduction, polynomial, exponent."""
    n = np.rint(np.float32(x * LOG2_E))
    if n < SMALLEST:
        return np.float32(0)
    if n > 128:
        return np.float32(np.inf)
    r = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, x))
    return np.float32(math.ldexp(polynomial(r), int(n)))


@njit(cache=True)
def exponentials(x):  # type: ignore[no-untyped-def]
    """`exponential` of each of float32 [m]."""
    found = np.empty(len(x), np.float32)
    for i in range(len(x)):
        found[i] = exponential(x[i])
    return found


@njit(cache=True)
def accumulate(values, lanes):  # type: ignore[no-untyped-def]
    """The sum in float32: `lanes` neighbours in a tree, the trees' sums one after another."""
    width = 1
    while width < lanes:
        width *= 2
    total = np.float32(0)
    for start in range(0, len(values), lanes):
        tree = np.zeros(width, np.float32)
        part = values[start : start + lanes]
        tree[: len(part)] = part
        half = width // 2
        while half > 0:
            for i in range(half):
                tree[i] = tree[2 * i] + tree[2 * i + 1]
            half //= 2
        total += tree[0]
    return total


@njit(cache=True, error_model="numpy")
def softmax(scores, factor, lanes, prob_bits, subtract):  # type: ignore[no-untyped-def]
    """Probabilities of a row: integer scores [m] to words 0..2^prob_bits - 1, int64 [m].

    factor     float32: what a score is multiplied with
    subtract   whether the maximum is subtracted first; without, a row that overflows gives no meaningful words
    """
    top = scores.max() if subtract else 0
    e = exponentials((scores - top).astype(np.float32) * np.float32(factor))
    total = accumulate(e, lanes)
    words = np.empty(len(scores), np.int64)
    for i in range(len(scores)):
        share = np.rint(e[i] / total * np.float32(1 << prob_bits))
        words[i] = min(np.int64(share), (1 << prob_bits) - 1) if share >= 0 else 0
    return words


def factor(query_scale: float, key_scale: float, size: int) -> np.float32:
    """What turns a score of words into the exponent: both words' scales and 1/sqrt(D), rounded once."""
    return np.float32(query_scale * key_scale / math.sqrt(size))


def cycles(scores: int, lanes: int) -> int:
    """Cycles for a row: `lanes` scores a cycle."""
    return -(-scores // lanes)


def probabilities(scores: Ints, scale: np.float32, lanes: int, prob_bits: int, subtract: bool = True) -> Ints:
    """`softmax` of one row, with types. Raises ValueError for an empty row."""
    if len(scores) == 0:
        raise ValueError("softmax: a row must have at least 1 score, got 0")
    found: Ints = softmax(scores, np.float32(scale), lanes, prob_bits, subtract)
    return found
