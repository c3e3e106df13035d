"""KV4: a head's key or value vector in 4 bits, with a float16 scale and a float16 zero that is not an integer.

Source: omniserve 02b2925, the fused attention kernel (format of QServe, arXiv 2405.04532, section 5.3).
"""

from typing import Any

import numpy as np
from numba import njit

from accel.arithmetic import fma, round_to
from accel.formats.number import Codes, Floats

LEVELS = 15


@njit(cache=True)
def _numbers(x, reciprocal, zero):  # type: ignore[no-untyped-def]
    """Nearest integers of x * reciprocal + zero, one float32 fma each, saturated to 0..255; x [n, D], others [n]."""
    found = np.empty(x.shape, np.uint8)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            near = np.rint(fma(x[i, j], reciprocal[i], zero[i]))
            found[i, j] = np.uint8(min(max(near, np.float32(0)), np.float32(255)))
    return found


def parameters(x: Any) -> tuple[Floats, Floats]:
    """(scale, zero) float32 [...] on the float16 grid, for vectors x [..., D] of float16 numbers.

    1. low, high = smallest and largest element; range = high - low, rounded to float32
    2. scale = range / 15, rounded to float32 and then float16
    3. zero = -(15 low) / range, rounded to float32 after each step and then to float16
    Guard (the kernel divides by 0 here): where the scale comes out as 0, as for a constant vector, scale = 1 and
    zero = -low; the constant then comes back exactly.
    """
    values = _checked(x)
    low, high = values.min(axis=-1), values.max(axis=-1)
    span = high - low
    scale = round_to(span / np.float32(LEVELS), "float16")
    guarded = scale == 0
    whole = np.where(guarded, np.float32(1), span)
    zero = round_to(-(np.float32(LEVELS) * low) / whole, "float16")
    return np.where(guarded, np.float32(1), scale), np.where(guarded, -low, zero)


def _checked(x: Any) -> Floats:
    values = np.asarray(x, np.float32)
    if values.ndim < 1 or values.shape[-1] < 1:
        raise ValueError(f"kv4: x must be [..., D], got shape {values.shape}")
    if not np.isfinite(values).all() or not np.array_equal(values, round_to(values, "float16")):
        raise ValueError("kv4: x must be finite float16 numbers; round first (accel.arithmetic.round_to)")
    return values


def numbers(x: Any, scale: Any, zero: Any) -> Codes:
    """uint8 of x [..., D]: x (1 / scale) + zero to nearest even, in 0..255, before the cut to 4 bits.

    1 / scale is rounded to float32, product and sum are one float32 fma (assumed: the order is the compiler's).
    Raises ValueError for scales and zeros of other shapes than [...], and a scale of 0.
    """
    values = _checked(x)
    for name, given in (("scale", scale), ("zero", zero)):
        if np.shape(given) != values.shape[:-1]:
            raise ValueError(f"kv4: {name} must have shape {values.shape[:-1]}, got {np.shape(given)}")
    if not np.all(scale):
        raise ValueError("kv4: scale must not be 0")
    reciprocal = np.float32(1) / np.asarray(scale, np.float32)
    flat = np.ascontiguousarray(values.reshape(-1, values.shape[-1]))
    found: Codes = _numbers(flat, reciprocal.ravel(), np.ascontiguousarray(zero, np.float32).ravel())
    return found.reshape(values.shape)


def quantize(x: Any, wrap: bool = False) -> tuple[Codes, Floats, Floats]:
    """(codes uint8 0..15 of x's shape, scale, zero [...]) with x ~ (codes - zero) scale.

    A number above 15 becomes 15; the kernel keeps its low nibble (wrap=True), so that 16 becomes 0. It happens to
    vectors on one side of 0 whose |x| exceeds some 500 steps: scale and zero each carry a relative error of up to
    2^-11, together the missing half step. It also happens where the scale is a subnormal float16. Vectors around 0 with
    a normal scale stay below 15.02.
    """
    scale, zero = parameters(x)
    found = numbers(x, scale, zero)
    codes: Codes = found & np.uint8(15) if wrap else np.minimum(found, np.uint8(15))
    return codes, scale, zero


def dequantize(codes: Any, scale: Any, zero: Any) -> Floats:
    """float32 on the float16 grid: codes * scale + offset as one float16 fma, with the offset -(scale zero) in float16.

    Exact in float64 before its one rounding (4 + 11 bits, and 11 bits at most 2^16 apart).
    """
    scales, zeros = np.asarray(scale, np.float64), np.asarray(zero, np.float64)
    offset = round_to(-(scales * zeros), "float16").astype(np.float64)
    return round_to(np.asarray(codes, np.float64) * scales[..., None] + offset[..., None], "float16")
