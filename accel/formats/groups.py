"""Integers with a scale for each group of weights: symmetric, and asymmetric with an integer zero point.

x is float [N, K]; a group is `group` neighbours of a row, or the whole row (group=None). The arithmetic is float64,
step by step as each function says; for float32 input no step but the named roundings changes a bit of the result.
Where a rounded scale is 0 (a group of zeros, or of numbers too small for the 16-bit form) it becomes 1 and the codes
are those of 0. NaN and infinite input, and scales beyond the 16-bit form, are refused.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.arithmetic import round_to
from accel.formats.number import Floats, Wide, number

Integers = NDArray[Any]
LARGEST = {"int4": 7, "uint4": 15, "int8": 127, "uint8": 255}  # of the codes of a symmetric group


def split(x: Any, group: int | None) -> Wide:
    """float64 [N, K / group, group] of x [N, K]. Raises ValueError for a shape that does not fit, or no number."""
    if np.asarray(x).dtype.kind not in "fiu":
        raise ValueError(f"groups: x must be real numbers, got {np.asarray(x).dtype}")
    values = np.asarray(x, np.float64)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"groups: x must be [N, K], at least 1 x 1, got shape {values.shape}")
    size = values.shape[1] if group is None else group
    if size < 1 or values.shape[1] % size:
        raise ValueError(f"groups: K must be a multiple of the group, got K = {values.shape[1]}, group = {group}")
    if not np.isfinite(values).all():
        raise ValueError(f"groups: x must be finite, got {values[~np.isfinite(values)][0]}")
    return values.reshape(len(values), -1, size)


def round_scale(scale: Any, form: str) -> Floats:
    """Scales on the grid of `form`, 1 where they come out as 0. Raises ValueError where one is too large for it."""
    rounded = round_to(scale, form)
    if not np.isfinite(rounded).all():
        raise ValueError(f"groups: the largest scale {np.max(scale):.6g} is too large for {form}")
    return np.where(rounded == 0, np.float32(1), rounded)


def _coded(values: Wide, scale: Floats, zero: Any, low: int, high: int, kind: Any) -> Integers:
    codes = np.clip(np.rint(values / scale[..., None]) + zero, low, high)
    return codes.astype(kind).reshape(len(values), -1)


def symmetric(x: Any, name: str = "int4", group: int | None = 64, form: str = "float16") -> tuple[Integers, Floats]:
    """(codes [N, K], scale float32 [N, K / group]) with x ~ codes * scale.

    1. scale = (largest |x| of the group) / 7 (int4), 15 (uint4), 127 (int8) or 255 (uint8), rounded to `form`
    2. code = x / scale rounded to nearest even, int8 in -7..7 or -127..127; unsigned (x >= 0): uint8 from 0
    """
    if name not in LARGEST:
        raise ValueError(f"symmetric: format must be one of {', '.join(LARGEST)}, got {number(name).name!r}")
    values, largest = split(x, group), LARGEST[name]
    signed = name.startswith("int")
    if not signed and values.min() < 0:
        raise ValueError(f"symmetric: x must not be negative for {name}, got {values.min():.6g}")
    scale = round_scale(np.abs(values).max(axis=-1) / largest, form)
    return _coded(values, scale, 0, -largest if signed else 0, largest, np.int8 if signed else np.uint8), scale


def asymmetric(x: Any, group: int | None = 128, form: str = "float16") -> tuple[Integers, Floats, Integers]:
    """(codes uint8 [N, K], scale float32 [N, K / group], zero uint8 as scale) with x ~ (codes - zero) scale, all 0..15.

    1. low, high = smallest and largest of the group and of 0: a zero point in 0..15 cannot serve a range without 0
    2. scale = (high - low) / 15, rounded to `form`
    3. zero = -low / scale rounded to nearest even, at most 15
    4. code = (x / scale rounded to nearest even) + zero, saturated to 0..15
    With group=None this is QServe's per-channel recipe (arXiv 2405.04532, section 4.1).
    """
    values = split(x, group)
    low, high = np.minimum(values.min(axis=-1), 0), np.maximum(values.max(axis=-1), 0)
    scale = round_scale((high - low) / 15, form)
    zero = np.clip(np.rint(-low / scale), 0, 15)
    return _coded(values, scale, zero[..., None], 0, 15, np.uint8), scale, zero.astype(np.uint8)


def scaled_zero(scale: Any, zero: Any, form: str = "float16") -> Floats:
    """The real zero of `q * scale + zero`: -(zero * scale) rounded to `form`."""
    return round_to(-np.asarray(zero, np.float64) * np.asarray(scale, np.float64), form)


def dequantize(codes: Any, scale: Any, zero: Any = 0) -> Floats:
    """float32 [N, K] of (codes - zero) scale, not rounded: 9 bits times 11 fit into a float32."""
    numbers = np.asarray(codes, np.float32)
    scales = np.asarray(scale, np.float32)
    fit = numbers.ndim == 2 == scales.ndim and scales.shape[1] > 0 and numbers.shape[1] % scales.shape[1] == 0
    if not fit or len(numbers) != len(scales):
        raise ValueError(f"dequantize: scales {scales.shape} do not fit codes {numbers.shape}")
    zeros = np.broadcast_to(np.asarray(zero, np.float32), scales.shape)
    grouped = numbers.reshape(*scales.shape, -1) - zeros[..., None]
    found: Floats = (grouped * scales[..., None]).reshape(numbers.shape)
    return found
