"""Matrix products as a tensor core adds them (`accel.tensor_core.rules`), in Numba on all cores."""

from dataclasses import replace
from typing import Any

import numpy as np
from numba import njit, prange, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from accel.arithmetic import bits32, bits64, float_of64, narrow_to_odd, to_float16
from accel.tensor_core.rules import LEAST_EXPONENT, Accumulation

Floats = NDArray[np.float32]
_NOTHING = -(1 << 20)  # the exponent of zero: it never is the largest
_STRIP = 256  # columns whose sums stay in the first cache


@intrinsic
def trunc(typing_context: Any, x: Any) -> Any:
    """A float64 cut to a whole number, as one instruction on vectors (np.trunc is a call in Numba)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = builder.module.declare_intrinsic("llvm.trunc", [arguments[0].type])
        return builder.call(function, arguments)

    return types.float64(types.float64), generate


@njit(cache=True)
def _exponent(x, least):  # type: ignore[no-untyped-def]
    """The exponent of a float32, at least `least`; far below all for zero."""
    found = max(((bits32(x) >> 23) & 0xFF) - 127, least)
    return np.int32(_NOTHING if x == 0 else found)


@njit(cache=True)
def exponents(values, least):  # type: ignore[no-untyped-def]
    """`_exponent` of each of float32 [rows, columns], int32."""
    found = np.empty(values.shape, np.int32)
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            found[i, j] = _exponent(values[i, j], least)
    return found


@njit(cache=True)
def power(exponent):  # type: ignore[no-untyped-def]
    """2^exponent in float64, -1022..1023."""
    return float_of64((np.int64(exponent) + 1023) << 52)


@njit(cache=True)
def cut(x, bits):  # type: ignore[no-untyped-def]
    """A float64 cut towards zero to 1 + bits significant bits, as float32; below 2^-126 to a fixed grid."""
    grid = power(126 + bits)
    near = trunc(x * grid) / grid  # subnormal results
    kept = float_of64(bits64(x) & ~((np.int64(1) << (52 - bits)) - 1))
    finite = near if abs(x) < power(-126) else kept
    return np.float32(finite if np.isfinite(x) else x)


@njit(cache=True)
def _block(a, a_exponent, b, b_exponent, total, top, scale, wide, numbers):  # type: ignore[no-untyped-def]
    """Add one block to `total`, float32 [n]: a [width] times b [width, n]. top, scale, wide: room for [n]."""
    n, (least_sum, fraction_bits, result_bits) = len(total), numbers
    for j in range(n):
        top[j] = max(((bits32(total[j]) >> 23) & 0xFF) - 127, least_sum)
    for i in range(len(a)):
        if a[i] != 0:
            for j in range(n):
                top[j] = max(top[j], a_exponent[i] + b_exponent[i, j])
    for j in range(n):
        scale[j] = power(fraction_bits - top[j])
        wide[j] = trunc(np.float64(total[j]) * scale[j])
    for i in range(len(a)):
        for j in range(n):  # zeros too: with an infinity they give NaN
            wide[j] += trunc(np.float64(a[i]) * np.float64(b[i, j]) * scale[j])
    for j in range(n):
        found = wide[j] / scale[j]
        narrow = cut(found, result_bits) if result_bits else to_float16(narrow_to_odd(found))
        total[j] = narrow + np.float32(0)  # what comes to zero is +0


@njit(cache=True, parallel=True)
def _matmul(a, b, c, least, width, numbers):  # type: ignore[no-untyped-def]
    """c + a b, in strips of columns; a [M, K], b [K, N], c [M, N]."""
    rows, columns = c.shape
    depth = a.shape[1]
    a_exponents, b_exponents = exponents(a, least), exponents(b, least)
    found = c.copy()
    strips = (columns + _STRIP - 1) // _STRIP
    for job in prange(rows * strips):
        row, first = job // strips, job % strips * _STRIP
        last = min(first + _STRIP, columns)
        top = np.empty(last - first, np.int32)
        scale, wide = np.empty(last - first, np.float64), np.empty(last - first, np.float64)
        total = found[row, first:last]
        for k in range(0, depth, width):
            end = min(k + width, depth)
            _block(
                a[row, k:end], a_exponents[row, k:end], b[k:end, first:last], b_exponents[k:end, first:last],
                total, top, scale, wide, numbers,
            )  # fmt: skip
    return found


def _by_float16(a: Floats, b: Floats, c: Floats, rule: Accumulation) -> Floats:
    """8-bit floats without an instruction: of every 4 neighbours in K the first two go into one float16 product, the
    others into the next, which starts from it; c is added at last. K in steps of 32."""
    half, total = replace(rule, operand="float16", emulated=False), c
    for k in range(0, a.shape[1], 32):
        part = np.arange(k, min(k + 32, a.shape[1]))
        first, second = part[part % 4 < 2], part[part % 4 >= 2]
        found = matmul(a[:, second], b[:, second], matmul(a[:, first], b[:, first], None, half), half)
        with np.errstate(all="ignore"):
            total = found + total
    return total


def matmul(a: Any, b: Any, c: Any, rule: Accumulation) -> Floats:
    """c + a b^T as the tensor core adds it, float32 [M, N]; K upwards in blocks, the last one filled with zeros.

    a [M, K], b [N, K]   values on the grid of `rule.operand`; c float32 [M, N], or None for zeros
    NaN and infinities go through; the bits of a NaN are the CPU's (an H200 writes 0x7fffffff).
    Raises ValueError for shapes that do not fit.
    """
    left, right = np.ascontiguousarray(a, np.float32), np.asarray(b, np.float32)
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise ValueError(f"matmul: must get a [M, K] and b [N, K], got {left.shape} and {right.shape}")
    shape = len(left), len(right)
    start = np.zeros(shape, np.float32) if c is None else np.ascontiguousarray(c, np.float32)
    if start.shape != shape:
        raise ValueError(f"matmul: c must be {shape}, got {start.shape}")
    if rule.emulated:
        return _by_float16(left, right, start, rule)
    least = LEAST_EXPONENT[rule.operand]
    least_sum = LEAST_EXPONENT[rule.sums]
    numbers = least_sum, rule.fraction_bits, rule.result_bits
    found: Floats = _matmul(left, np.ascontiguousarray(right.T), start, least, rule.width, numbers)
    return found
