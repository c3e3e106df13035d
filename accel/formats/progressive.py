"""QoQ's progressive groups: 16-bit scale of a row over 8-bit integers, integer scale and zero of a group over 4 bits.

Source: QServe, arXiv 2405.04532, section 4.1. Level 1 is integer arithmetic, so that a kernel gets back 8-bit operands
by one multiplication and one subtraction; `LIMIT` keeps these within -128..127 (`protective range`).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.formats.groups import Integers, round_scale, split
from accel.formats.number import Floats

LIMIT = 119  # QServe, section 4.1: the largest 8-bit weight
GROUP = 128


def level_zero(x: Any, limit: int = LIMIT, form: str = "float16") -> tuple[NDArray[np.int8], Floats]:
    """(w8 int8 [N, K] in -limit..limit, scale float32 [N]) with x ~ w8 * scale.

    1. scale = (largest |x| of the row) / limit, rounded to `form`
    2. w8 = x / scale rounded to nearest even, saturated
    """
    if not 1 <= limit <= 127:
        raise ValueError(f"progressive: limit must lie in 1..127, got {limit}")
    values = split(x, None)
    scale = round_scale(np.abs(values).max(axis=-1) / limit, form)
    w8 = np.clip(np.rint(values / scale[..., None]), -limit, limit).astype(np.int8)
    return w8.reshape(len(values), -1), scale[:, 0]


def group_parameters(low: Any, high: Any) -> tuple[Integers, Integers]:
    """(scale, at least 1; zero 0..15) of groups of 8-bit integers that span low..high; int64 arrays.

    scale = (high - low) / 15 and zero = -low / scale, both rounded to nearest even.
    """
    lows, highs = np.asarray(low, np.int64), np.asarray(high, np.int64)
    scale = np.maximum(np.rint((highs - lows) / 15), 1).astype(np.int64)
    zero = np.clip(np.rint(-lows / scale), 0, 15).astype(np.int64)
    return scale, zero


def level_one(w8: Any, group: int = GROUP) -> tuple[Integers, Integers, Integers]:
    """(codes uint8 0..15 [N, K], scale uint8 [N, K / group], zero uint8 0..15) with w8 ~ (codes - zero) scale.

    The range of a group is widened to hold 0: the published formula saturates groups of one sign without it.
    code = (w8 / scale rounded to nearest even) + zero, saturated to 0..15.
    Raises ValueError for what is no integer in -128..127.
    """
    values = split(w8, group)
    off = values[(values != np.rint(values)) | (np.abs(values + 0.5) > 127.5)]
    if len(off):
        raise ValueError(f"progressive: w8 must be integers in -128..127, got {off[0]:g}")
    low, high = np.minimum(values.min(axis=-1), 0), np.maximum(values.max(axis=-1), 0)
    scale, zero = group_parameters(low, high)
    codes = np.clip(np.rint(values / scale[..., None]) + zero[..., None], 0, 15)
    return codes.astype(np.uint8).reshape(len(values), -1), scale.astype(np.uint8), zero.astype(np.uint8)


def unwrapped(codes: Any, group_scale: Any, group_zero: Any) -> NDArray[np.int32]:
    """(codes - zero) scale as int32 [N, K]: what the 8-bit operand should be, before it is cut to 8 bits."""
    scale, zero = np.asarray(group_scale, np.int32), np.asarray(group_zero, np.int32)
    rows, groups = scale.shape if scale.ndim == 2 and scale.size else (0, 1)
    if np.ndim(codes) != 2 or len(codes) != rows or np.shape(codes)[1] % groups or zero.shape != scale.shape:
        shapes = f"{np.shape(codes)}, {scale.shape} and {zero.shape}"
        raise ValueError(f"progressive: codes must be [N, K], scales and zeros [N, groups of K], got {shapes}")
    grouped = np.asarray(codes, np.int32).reshape(*scale.shape, -1)
    found: NDArray[np.int32] = ((grouped - zero[..., None]) * scale[..., None]).reshape(len(scale), -1)
    return found


def weights8(codes: Any, group_scale: Any, group_zero: Any) -> NDArray[np.int8]:
    """The 8-bit operand of the kernel, int8 [N, K]: modulo 256, so what leaves -128..127 changes its sign."""
    return unwrapped(codes, group_scale, group_zero).astype(np.int8)


def quantize(
    x: Any, group: int = GROUP, limit: int = LIMIT, form: str = "float16"
) -> tuple[Integers, Integers, Integers, Floats]:
    """(codes, group scale, group zero, scale) of both levels."""
    w8, scale = level_zero(x, limit, form)
    return *level_one(w8, group), scale


def dequantize(codes: Any, group_scale: Any, group_zero: Any, scale: Any) -> Floats:
    """float32 [N, K]: the 8-bit operand times the scale of its row, exact."""
    found: Floats = weights8(codes, group_scale, group_zero) * np.asarray(scale, np.float32)[:, None]
    return found
