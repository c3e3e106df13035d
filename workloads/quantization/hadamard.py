"""Hadamard matrices: +-1, rows orthogonal. Sylvester's doubling over Paley's constructions.

A size is m 2^k with m = 1, q + 1 (q = 3 mod 4) or 2 (q + 1) (q = 1 mod 4), where q is a prime or the square of one:
12, 20, 28, 36, 52, 60, 76, 100, 108, 124, 140, 148 and so on, so that 768 = 12 x 64, 5120 = 20 x 256, 6656 = 52 x 128
and 14336 = 28 x 512 are possible (and 11008 = 2 x 5504, as 5503 is prime). Left out: sizes that need other
constructions (92, 116, 156, 172), which are refused. Source: R. Paley, "On orthogonal matrices", 1933.
"""

from functools import cache
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Signs = NDArray[np.int8]


@cache
def hadamard(size: int) -> Signs:
    """H [size, size] of +-1 with H H^T = size I. Raises ValueError for a size that cannot be built."""
    for doublings in range((size & -size).bit_length() if size > 0 else 0):
        core = _paley(size >> doublings)
        if core is not None:
            for _ in range(doublings):
                core = np.block([[core, core], [core, -core]])
            return core
    raise ValueError(
        f"hadamard: no matrix of size {size}: it must be m 2^k with m = 1, q + 1 (q = 3 mod 4) or 2 (q + 1)"
        " (q = 1 mod 4) for a prime q or the square of one"
    )


def rotation(size: int, seed: int | None = None, dtype: Any = None, device: Any = None) -> Any:
    """Orthogonal torch matrix [size, size], float64 if no other dtype: H / sqrt(size); seed: its rows times +-1."""
    import torch

    matrix = hadamard(size) / np.sqrt(size)
    if seed is not None:
        matrix = np.random.default_rng(seed).choice([-1.0, 1.0], size)[:, None] * matrix
    return torch.from_numpy(matrix).to(device, dtype)


def _paley(size: int) -> Signs | None:
    """The matrix of size 1, or Paley's first or second; None where neither exists."""
    if size == 1:
        return np.ones((1, 1), np.int8)
    if size % 4:
        return None
    if (size - 1) % 4 == 3 and _root(size - 1):
        return _first(size - 1)
    q = size // 2 - 1
    return _second(q) if q % 4 == 1 and _root(q) else None


def _root(q: int) -> int:
    """p for q = p or p^2 with p an odd prime, else 0."""
    for p in (q, isqrt(q)):
        if p > 2 and p in (q, isqrt(q)) and q in (p, p * p) and all(p % d for d in range(2, isqrt(p) + 1)):
            return p
    return 0


def _first(q: int) -> Signs:
    """I + S with S skew: q = 3 mod 4."""
    return np.eye(q + 1, dtype=np.int8) + _bordered(q, -1)


def _second(q: int) -> Signs:
    """S x [[1, 1], [1, -1]] + I x [[1, -1], [-1, -1]] with S symmetric: q = 1 mod 4."""
    off = np.array([[1, 1], [1, -1]], np.int8)
    on = np.array([[1, -1], [-1, -1]], np.int8)
    found: Signs = np.kron(_bordered(q, 1), off) + np.kron(np.eye(q + 1, dtype=np.int8), on)
    return found


def _bordered(q: int, sign: int) -> Signs:
    """Jacobsthal's matrix of GF(q) with a border of ones, `sign` times that in the first column; diagonal 0."""
    found = np.zeros((q + 1, q + 1), np.int8)
    found[0, 1:], found[1:, 0] = 1, sign
    found[1:, 1:] = _jacobsthal(q)
    return found


def _jacobsthal(q: int) -> Signs:
    """chi(i - j) over GF(q): 1 for squares, -1 for others, 0 for 0."""
    p = _root(q)
    number = np.arange(q)
    low, high = number % p, number // p  # low + high t, with t^2 = the least number that is no square mod p
    character = np.full(q, -1, np.int8)
    no_square = next(n for n in range(2, p) if pow(n, (p - 1) // 2, p) == p - 1) if q > p else 0
    character[(low * low + no_square * high * high) % p + p * (2 * low * high % p if q > p else 0)] = 1
    character[0] = 0
    apart = (low[:, None] - low) % p + p * ((high[:, None] - high) % p)
    return character[apart]
