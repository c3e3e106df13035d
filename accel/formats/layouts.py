"""Layouts that kernels read, made from logical codes and scales when a model is loaded; files never hold them.

| layout | of | source |
| --- | --- | --- |
| QSERVE_WEIGHT, QSERVE_GROUP | W4A8: nibbles, scales and zeros of level 1 | omniserve 02b2925, W4A8 GEMM |
| NUNCHAKU_WEIGHT, _ACTIVATION, _WEIGHT_SCALE, _ACTIVATION_SCALE | W4A4, INT4 | Nunchaku v1.1 gemm_base.cuh |
| kv4_page | a page of keys, or of values | omniserve 02b2925, fused attention |

In the names of factors, r and q are a lane's row and column in its warp (lane = 4 r + q), e what it holds next to each
other; `fragments` has the same letters.
"""

from math import prod
from typing import Any

import numpy as np

from accel.formats.arrangement import Arrangement
from accel.formats.number import Codes, Floats
from accel.formats.packing import pack_nibbles, unpack_nibbles

PAGE_TOKENS = 64

# tiles of 32 x 32, along K first; 16 bytes a lane; the high nibble is 16 output channels further
QSERVE_WEIGHT = Arrangement("QServe weights [N, K]", "N h2 i2 r8 | K c2 q4 e4", "N K (r q) (c i e h)")
# each run of 32 output channels in the order 0, 8, 16, 24, 1, 9, ...
QSERVE_GROUP = Arrangement("QServe group scales [N, K / 128]", "N i4 r8 | K", "K (N r i)")
# tiles of 128 x 64; a lane's 16 bytes are both 8-column B fragments of m16n8k64 for 16 output channels
NUNCHAKU_WEIGHT = Arrangement("Nunchaku weights [N, K]", "N p8 i2 r8 | K c2 q4 e8", "N K p (r q) (i c e)")
# tiles of 256 x 64: 8 warps, 2 A fragments of m16n8k64 each
NUNCHAKU_ACTIVATION = Arrangement("Nunchaku activations [M, K]", "M w8 t2 i2 r8 | K c2 q4 e8", "M K w t (r q) (c i e)")
# lane 0 has output channels 0, 1, 8, 9, lane 1 has 2, 3, 10, 11, lane 4 has 16, 17, 24, 25
NUNCHAKU_WEIGHT_SCALE = Arrangement("Nunchaku weight scales [N, K / 64]", "N r8 i2 q4 e2 | K", "N K (r q) (i e)")
# lane 0 has rows 0 and 8 of 32, lane 8 rows 16 and 24; lanes from 16 on have none
NUNCHAKU_ACTIVATION_SCALE = Arrangement("Nunchaku activation scales [M, K / 64]", "M w8 t2 i2 r8 | K", "M K w (t r) i")


def pack_codes(layout: Arrangement, codes: Any) -> Codes:
    """uint8 bytes of 4-bit codes in a layout, two along its last axis."""
    return pack_nibbles(layout.pack(codes))


def unpack_codes(layout: Arrangement, packed: Any, signed: bool = False) -> Any:
    """The inverse of pack_codes."""
    return layout.unpack(unpack_nibbles(packed, signed=signed))


def qserve_zero_entries(group_scale: Any, group_zero: Any) -> Codes:
    """uint8 [N, K / 128]: -(zero scale) mod 256, what the kernel adds to each byte of code x scale."""
    product = np.asarray(group_zero, np.int64) * np.asarray(group_scale, np.int64)
    found: Codes = (-product % 256).astype(np.uint8)
    return found


def _half_bytes(values: Any) -> Codes:
    with np.errstate(over="ignore"):
        halves = np.asarray(values, np.float32).astype("<f2")
    if not np.array_equal(halves.astype(np.float32), np.asarray(values, np.float32), equal_nan=True):
        raise ValueError("kv4 page: scales and zeros must be float16 numbers")
    return halves.reshape(-1).view(np.uint8)


def kv4_page(codes: Any, scale: Any, zero: Any) -> Codes:
    """The bytes of one page: codes uint8 [heads, 64, D], D even; scale, zero float [heads, 64] on the float16 grid.

    [heads][64][D / 2] bytes, then [heads][64] float16 scales, then as many zeros: D / 2 + 4 bytes a token and head.
    """
    numbers = np.asarray(codes)
    if numbers.ndim != 3 or numbers.shape[1] != PAGE_TOKENS or numbers.shape[2] % 2:
        raise ValueError(f"kv4 page: codes must be [heads, {PAGE_TOKENS}, even D], got {numbers.shape}")
    for name, values in (("scale", scale), ("zero", zero)):
        if np.shape(values) != numbers.shape[:2]:
            raise ValueError(f"kv4 page: {name} must be {numbers.shape[:2]}, got {np.shape(values)}")
    return np.concatenate([pack_nibbles(numbers).reshape(-1), _half_bytes(scale), _half_bytes(zero)])


def read_kv4_page(page: Any, heads: int, dimension: int) -> tuple[Codes, Floats, Floats]:
    """(codes, scale, zero) of a page's bytes. Raises ValueError where their number is not that of the shape."""
    data = np.ascontiguousarray(page, np.uint8)
    shape = heads, PAGE_TOKENS, dimension // 2
    size, scales = prod(shape), 2 * heads * PAGE_TOKENS
    if dimension % 2 or data.shape != (size + 2 * scales,):
        raise ValueError(f"kv4 page: {heads} heads of {dimension} need {size + 2 * scales} bytes, got {data.shape}")
    halves = data[size:].view("<f2").astype(np.float32).reshape(2, heads, PAGE_TOKENS)
    return unpack_nibbles(data[:size].reshape(shape)), halves[0], halves[1]
