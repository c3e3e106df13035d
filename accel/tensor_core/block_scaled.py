"""Products of 4-bit floats with a scale for every 16 of them, as Blackwell's tensor cores add them (NVFP4), in Numba.

Assumed: published by MMA-Sim (arXiv 2511.10909, group-scaled truncated sums) for mma.sync m16n8k64 kind::mxf4nvf4 and
tcgen05; nobody has run a Blackwell GPU for us. K upwards in steps of 64:

1. The 16 products of a group are added exactly (multiples of 1/4). Times the significands of both scales that is the
   group's term; its exponent is the sum of the scales' exponents (subnormal scales: -6).
2. Four terms and the accumulator (exponent at least -126) are aligned to the largest exponent, cut towards zero after
   35 bits, and added exactly; the sum is cut to float32.
"""

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from accel.arithmetic import bits32
from accel.formats import number
from accel.tensor_core.product import cut, power, trunc

Floats = NDArray[np.float32]
GROUP, STEP = 16, 64
FRACTION_BITS = 35
_STRIP = 256
_LARGEST_SCALE = 0x7E  # the E4M3 code of 448; NaN and negative numbers are above


@njit(cache=True)
def _add_group(a, b, term):  # type: ignore[no-untyped-def]
    """term [n] = a [16] times b [16, n], exact."""
    term[:] = 0
    for i in range(0, GROUP, 4):
        for j in range(len(term)):
            term[j] += (a[i] * b[i, j] + a[i + 1] * b[i + 1, j]) + (a[i + 2] * b[i + 2, j] + a[i + 3] * b[i + 3, j])


@njit(cache=True)
def _add_step(a, a_scale, a_exponent, b, b_scale, b_exponent, total, term, exponent, top):  # type: ignore[no-untyped-def]
    """One step of 64: a [64], its scales [4]; b [64, n], its scales [4, n]; float32 total [n]. The last three: room."""
    n, groups = len(total), STEP // GROUP
    for g in range(groups):
        _add_group(a[g * GROUP : (g + 1) * GROUP], b[g * GROUP : (g + 1) * GROUP], term[g])
    for j in range(n):
        top[j] = max(((bits32(total[j]) >> 23) & 0xFF) - 127, -126)
    for g in range(groups):
        for j in range(n):
            exponent[g, j] = a_exponent[g] + b_exponent[g, j]
            if term[g, j] * a_scale[g] * b_scale[g, j] != 0:
                top[j] = max(top[j], exponent[g, j])
    for j in range(n):
        scale = power(FRACTION_BITS - top[j])
        found = trunc(np.float64(total[j]) * scale)
        for g in range(groups):
            found += trunc(np.float64(term[g, j]) * np.float64(a_scale[g] * b_scale[g, j]) * scale)
        total[j] = cut(found / scale, 23) + np.float32(0)


@njit(cache=True, parallel=True)
def _matmul(a, a_scale, a_exponent, b, b_scale, b_exponent):  # type: ignore[no-untyped-def]
    """a [M, K], scales [M, K/16]; b [K, N], scales [K/16, N]."""
    rows, columns, depth = len(a), b.shape[1], a.shape[1]
    found = np.zeros((rows, columns), np.float32)
    strips, groups = (columns + _STRIP - 1) // _STRIP, STEP // GROUP
    for job in prange(rows * strips):
        m, first = job // strips, job % strips * _STRIP
        last = min(first + _STRIP, columns)
        n = last - first
        term, exponent, top = np.empty((groups, n), np.float32), np.empty((groups, n), np.int32), np.empty(n, np.int32)
        for k in range(0, depth, STEP):
            g = k // GROUP
            four = slice(g, g + groups)
            _add_step(
                a[m, k : k + STEP], a_scale[m, four], a_exponent[m, four],
                b[k : k + STEP, first:last], b_scale[four, first:last], b_exponent[four, first:last],
                found[m, first:last], term, exponent, top,
            )  # fmt: skip
    return found


def _exponents(scale: Floats) -> NDArray[np.int32]:
    return np.maximum(np.frexp(scale)[1] - 1, -6).astype(np.int32)


def matmul(codes_a: Any, scale_a: Any, codes_b: Any, scale_b: Any) -> Floats:
    """a b^T, float32 [M, N]: E2M1 codes [M, K] and [N, K], E4M3 scale codes [M, K/16] and [N, K/16] without sign.

    Raises ValueError where K is no multiple of 64, shapes do not fit, or a scale has a sign or is NaN.
    """
    values, scales = number("e2m1"), number("e4m3")
    a, b = values.decode(codes_a), values.decode(codes_b)
    left, right = scales.decode(scale_a), scales.decode(scale_b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.shape[1] % STEP:
        raise ValueError(
            f"matmul: codes must be [M, K] and [N, K], K a multiple of {STEP}, got {a.shape} and {b.shape}"
        )
    for name, scale, codes in (("a", left, a), ("b", right, b)):
        if scale.shape != (len(codes), codes.shape[1] // GROUP):
            raise ValueError(f"matmul: scales of {name} must be [{len(codes)}, K/{GROUP}], got {scale.shape}")
    for name, given in (("a", np.asarray(scale_a)), ("b", np.asarray(scale_b))):
        if given.size and given.max() > _LARGEST_SCALE:
            raise ValueError(f"matmul: scales of {name} must be codes 0..{_LARGEST_SCALE}, got {given.max()}")
    turned, scale_t = np.ascontiguousarray(b.T), np.ascontiguousarray(right.T)
    found: Floats = _matmul(a, left, _exponents(left), turned, scale_t, _exponents(scale_t))
    return found
