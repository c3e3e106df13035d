"""Weights in the order in which a thread of a warpgroup feeds them to wgmma. NumPy; each has its inverse.

Operand A of wgmma is 64 rows x 32 bytes of K: lane (g, c) of warp w holds, in four registers, 4 bytes of rows
16 w + g and 16 w + g + 8 at k = 4 c and 16 + 4 c (PTX ISA, "Register fragments for wgmma": matrix A).
"""

from typing import Any

import numpy as np

from accel.formats.arrangement import Arrangement
from accel.formats.number import Codes
from accel.formats.packing import pack_nibbles, unpack_nibbles
from gpu_kernels.operands import codes_of, matrix_shape
from gpu_kernels.w4a8_gemm.config import CHUNK
from gpu_kernels.w4a8_gemm.model import group_weights

# 16 bytes a thread are two steps of 32 inputs: low nibbles of channel g, high nibbles of channel g + 8
W4 = Arrangement("W4A8 weights [N, K]", "N w4 h2 g8 | K s2 i2 c4 e4", "N K (w g c) (s i e h)")
W8 = Arrangement("W8A8 weights [N, K]", "N w4 h2 g8 | K s2 i2 c4 e4", "N K s (w g c) (i h e)")
# 16 bytes a thread are four steps of 16 inputs: a word's nibbles i and i + 4 are neighbours along K
A16 = Arrangement("W4A16 weights [N, K]", "N w4 h2 g8 | K s4 i2 c4 e2", "N K (w g c) (s e i h)")
ROWS = Arrangement("scales [N, K / 128]", "N w4 h2 g8 | K", "N K (w g h)")


def pack_channel(codes: Any) -> Codes:
    """uint8 [N / 64, K 32] of codes [N, K] in 0..15. Raises ValueError unless N and K are multiples of 64."""
    q = codes_of("w4a8_channel: codes", codes, _shape("w4a8_channel", codes, 64), 0, 15)
    return pack_nibbles(W4.pack(q)).reshape(len(q) // 64, -1)


def unpack_channel(packed: Any, inputs: int) -> Codes:
    """The codes uint8 [N, K]."""
    found: Codes = W4.unpack(unpack_nibbles(np.asarray(packed).reshape(-1, inputs // 64, 128, 16)))
    return found


def pack_group(codes: Any, group_scale: Any, group_zero: Any) -> Codes:
    """uint8 [N / 64, K / 128 x 4224]: of 64 channels and a group the codes, then (scale, zero) of each channel.

    Raises ValueError for other shapes and ranges, and for a weight (q - z) s that is no int8 or whose q s exceeds 255:
    QServe's word arithmetic wraps or carries there, ours would do so elsewhere.
    """
    outputs, inputs = _shape("w4a8_group", codes, CHUNK)
    weights = group_weights(codes, group_scale, group_zero)  # checks shapes and ranges
    q, s, z = (np.asarray(part).astype(np.int32) for part in (codes, group_scale, group_zero))
    per_input = [np.repeat(part, CHUNK, axis=1) for part in (s, z)]
    _check_range(weights, q, *per_input)
    pairs = (ROWS.pack(s) | ROWS.pack(z) << 8).astype("<u2")
    halves = pack_nibbles(W4.pack(q)).reshape(outputs // 64, inputs // CHUNK, -1)
    both = np.concatenate([halves, pairs.view(np.uint8).reshape(*halves.shape[:2], -1)], axis=2)
    return both.reshape(outputs // 64, -1)


def _check_range(weights: Any, q: Any, s: Any, z: Any) -> None:
    off = np.argwhere(((q - z) * s != weights) | (q * s > 255))
    if len(off):
        n, k = off[0].tolist()
        value = f"code {q[n, k]}, zero {z[n, k]}, scale {s[n, k]}"
        raise ValueError(
            f"w4a8_group: channel {n}, input {k}: (code - zero) scale must lie in -128..127 and code x scale in "
            f"0..255, got {value}"
        )


def unpack_group(packed: Any, inputs: int) -> tuple[Codes, Codes, Codes]:
    """(codes [N, K], group_scale, group_zero [N, K / 128]), uint8."""
    data = np.asarray(packed).reshape(-1, inputs // CHUNK, 4096 + 128)
    codes = unpack_channel(np.ascontiguousarray(data[:, :, :4096]), inputs)
    pairs = ROWS.unpack(np.ascontiguousarray(data[:, :, 4096:]).view("<u2"))
    return codes, (pairs & 255).astype(np.uint8), (pairs >> 8).astype(np.uint8)


def pack_int8(weights: Any) -> Codes:
    """uint8 [N / 64, K 64] of int8 weights [N, K]; N and K multiples of 64."""
    w = codes_of("w8a8: codes", weights, _shape("w8a8", weights, 64), -128, 127)
    found: Codes = W8.pack(w).reshape(len(w) // 64, -1).view(np.uint8)
    return found


def unpack_int8(packed: Any, inputs: int) -> Any:
    """The weights int8 [N, K]."""
    return W8.unpack(np.asarray(packed).view(np.int8).reshape(-1, inputs // 64, 2, 128, 16))


def pack_a16(codes: Any, scale: Any, zero: Any, float16: bool = True) -> Codes:
    """uint8 [N / 64, K / 128 x 4352] of W4A16 with groups of 128: codes [N, K], then (scale, zero) a channel.

    scale [N, K / 128] on the 16-bit grid, zero integers 0..15 of that shape. The zero is kept as the 16-bit number
    1024 + zero (128 + zero in bfloat16), which the kernel subtracts.
    """
    outputs, inputs = _shape("w4a16", codes, CHUNK)
    q = codes_of("w4a16: codes", codes, (outputs, inputs), 0, 15)
    shape = (outputs, inputs // CHUNK)
    z = codes_of("w4a16: zero", zero, shape, 0, 15)
    words = ROWS.pack(_bits16(np.asarray(scale, np.float32), float16))
    zeros = ROWS.pack(_bits16(z.astype(np.float32) + (1024 if float16 else 128), float16))
    both = (words.astype(np.uint32) | zeros.astype(np.uint32) << 16).astype("<u4").view(np.uint8)
    halves = pack_nibbles(A16.pack(q)).reshape(outputs // 64, inputs // CHUNK, -1)
    return np.concatenate([halves, both.reshape(*halves.shape[:2], -1)], axis=2).reshape(outputs // 64, -1)


def _bits16(values: Any, float16: bool) -> Any:
    """uint16 bits of numbers that are on the grid."""
    if float16:
        return values.astype(np.float16).view(np.uint16)
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def _shape(kind: str, codes: Any, multiple: int) -> tuple[int, int]:
    outputs, inputs = matrix_shape(f"{kind}: codes", codes)
    if outputs % 64 or inputs % multiple or not outputs or not inputs:
        rule = f"N must be a multiple of 64 and K of {multiple}"
        raise ValueError(f"{kind}: codes: {rule}, got N = {outputs}, K = {inputs}")
    return outputs, inputs
