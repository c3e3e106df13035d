"""Tables of values with a scale for each block: NVFP4 (E2M1, blocks of 16, E4M3 scales) and NF4 (blocks of 64).

Input is float32 or float64; NaN and infinities are refused. A block of zeros has zero codes and a scale of 0.
"""

from typing import Any

import numpy as np

from accel.formats.groups import split
from accel.formats.number import Codes, Floats, Wide, number

NVFP4_GROUP = 16
NF4_BLOCK = 64
_E2M1, _E4M3, _NF4 = number("e2m1"), number("e4m3"), number("nf4")


def _over(values: Wide, scale: Wide) -> Wide:
    """values / scale, 0 where the scale is 0."""
    safe = np.where(scale == 0, 1.0, scale)[..., None]
    return np.where(scale[..., None] == 0, 0.0, values / safe)


def nvfp4_weights(x: Any) -> tuple[Codes, Codes, np.float32]:
    """(codes of E2M1 [N, K], scale codes of E4M3 [N, K / 16], tensor scale float32): x ~ E2M1 * E4M3 * tensor scale.

    1. tensor scale = largest |x| / (6 x 448), rounded to float32; 1 where that is 0
    2. scale = (largest |x| of the group) / 6 / tensor scale, encoded as E4M3
    3. code = x / (scale as decoded x tensor scale), encoded as E2M1
    Steps 2 and 3 are float64. Two levels as in NVFP4 checkpoints; that the tensor scale maps the largest group to 448
    is the usual choice (assumed: no source states another).
    """
    values = split(x, NVFP4_GROUP)
    largest = np.abs(values).max(axis=-1)
    whole = largest.max() / (_E2M1.largest * _E4M3.largest)
    if whole > np.finfo(np.float32).max:
        raise ValueError(f"nvfp4: the largest |x| {largest.max():.6g} is too large for a float32 tensor scale")
    tensor_scale = np.float32(whole) or np.float32(1)
    codes = _E4M3.encode(largest / _E2M1.largest / np.float64(tensor_scale))
    scale = _E4M3.decode(codes).astype(np.float64) * np.float64(tensor_scale)
    return _E2M1.encode(_over(values, scale)).reshape(len(values), -1), codes, tensor_scale


def nvfp4_activations(x: Any) -> tuple[Codes, Codes]:
    """(codes of E2M1 [M, K], scale codes of E4M3 [M, K / 16]): x ~ E2M1 * E4M3, without a tensor scale.

    1. scale = (largest |x| of the group) / 6, encoded as E4M3, which stops at 448
    2. code = x / scale as decoded, encoded as E2M1
    Both in float64; a kernel that multiplies by reciprocals in float32 differs near middles (its model says how).
    """
    values = split(x, NVFP4_GROUP)
    codes = _E4M3.encode(np.abs(values).max(axis=-1) / _E2M1.largest)
    scale = _E4M3.decode(codes).astype(np.float64)
    return _E2M1.encode(_over(values, scale)).reshape(len(values), -1), codes


def nvfp4_dequantize(codes: Any, scale_codes: Any, tensor_scale: Any = 1) -> Floats:
    """float32 [N, K]: E2M1 x E4M3, which is exact, times the tensor scale (float32, or one for each row), rounded."""
    scale = _E4M3.decode(scale_codes)
    values = _E2M1.decode(codes).reshape(*scale.shape, NVFP4_GROUP) * scale[..., None]
    rows = np.broadcast_to(np.asarray(tensor_scale, np.float32), len(values))
    found: Floats = values.reshape(len(values), -1) * rows[:, None]
    return found


def nf4_quantize(x: Any) -> tuple[Codes, Floats]:
    """(codes [N, K], absmax float32 [N K / 64]) over blocks of 64 in memory order.

    1. absmax = largest |x| of the block, float32
    2. code = x (1 / absmax), both steps rounded to float32, by the limits of nf4 (bitsandbytes' blockwise kernel)
    bitsandbytes gives a block of zeros code 0 (-1 x 0), here it has code 7 (0 x 0). A block so small that 1 / absmax
    is infinite (below 2^-128) is refused by nobody there; here ValueError.
    """
    values = split(x, None)
    if values.size % NF4_BLOCK:
        raise ValueError(f"nf4: the number of weights must be a multiple of {NF4_BLOCK}, got {values.size}")
    if np.abs(values).max() > np.finfo(np.float32).max:
        raise ValueError(f"nf4: x must be float32 numbers, got {values.flat[np.argmax(np.abs(values))]:.6g}")
    blocks = values.reshape(-1, NF4_BLOCK).astype(np.float32)
    absmax = np.abs(blocks).max(axis=1)
    if ((absmax > 0) & (absmax < 2.0**-126)).any():
        raise ValueError(f"nf4: absmax must be 0 or at least 2^-126, got {absmax[absmax > 0].min():.6g}")
    reciprocal = np.float32(1) / np.where(absmax == 0, np.float32(1), absmax)
    return _NF4.encode(blocks * reciprocal[:, None]).reshape(len(values), -1), absmax


def nf4_dequantize(codes: Any, absmax: Any) -> Floats:
    """float32 of the codes' shape: value x absmax, rounded to float32."""
    values, scales = _NF4.decode(codes), np.asarray(absmax, np.float32)
    if values.size != scales.size * NF4_BLOCK:
        raise ValueError(f"nf4: {values.size} codes need {values.size / NF4_BLOCK:g} absmax, got {scales.size}")
    found: Floats = (values.reshape(-1, NF4_BLOCK) * scales.reshape(-1, 1)).reshape(values.shape)
    return found
