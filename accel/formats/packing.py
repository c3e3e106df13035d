"""4-bit codes two a byte: element 2i in the low nibble, 2i + 1 in the high one.

(bitsandbytes fills the high nibble first; the AWQ kernels have an order of their own within 32 bits.)
"""

from typing import Any

import numpy as np

from accel.formats.number import Codes


def pack_nibbles(codes: Any) -> Codes:
    """uint8 [..., ceil(D / 2)] of integers [..., D] in -8..15, negative ones as two's complement.

    Where D is odd the last high nibble is 0. Raises ValueError for other numbers.
    """
    numbers = np.asarray(codes)
    if numbers.ndim < 1 or numbers.dtype.kind not in "iu":
        raise ValueError(f"nibbles: codes must be integers [..., D], got {numbers.dtype} {numbers.shape}")
    if numbers.size and (numbers.min() < -8 or numbers.max() > 15):
        raise ValueError(f"nibbles: codes must lie in -8..15, got {numbers.min()}..{numbers.max()}")
    nibbles = (numbers & 15).astype(np.uint8)
    even = np.zeros((*nibbles.shape[:-1], -(-nibbles.shape[-1] // 2) * 2), np.uint8)
    even[..., : nibbles.shape[-1]] = nibbles
    found: Codes = even[..., 0::2] | (even[..., 1::2] << 4)
    return found


def unpack_nibbles(packed: Any, count: int | None = None, signed: bool = False) -> Any:
    """The codes [..., count] of bytes [..., B]: uint8 0..15, or int8 -8..7 if signed; count is 2B (default) or 2B - 1.

    Raises ValueError for another count, and for a byte that pack_nibbles cannot have written.
    """
    data = np.asarray(packed)
    if data.dtype != np.uint8 or data.ndim < 1:
        raise ValueError(f"nibbles: packed codes must be uint8 [..., B], got {data.dtype} {data.shape}")
    whole = 2 * data.shape[-1]
    size = whole if count is None else count
    if size not in (whole, whole - 1) or size < 0:
        raise ValueError(f"nibbles: {data.shape[-1]} bytes hold {whole} codes or one fewer, got count = {count}")
    codes = np.stack([data & 15, data >> 4], axis=-1).reshape(*data.shape[:-1], whole)
    if codes[..., size:].any():
        raise ValueError(f"nibbles: the unused nibble after code {size - 1} must be 0")
    found = codes[..., :size]
    return ((found ^ 8).astype(np.int8) - np.int8(8)) if signed else found
