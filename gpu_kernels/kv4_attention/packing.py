"""Bytes of the cache that `cache.cuh` describes, and back. NumPy only.

A page is 64 tokens of one kv head, keys and values: 4 groups of 16 tokens. A group is
keys [16 rows][row bytes] | values [16 rows][row bytes] | 16 x float16 {key scale, key zero, value scale, value zero};
with 16 bits there are no scales. Rows are in natural order; of two 4-bit codes the even element is in the low nibble.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accel.formats.packing import pack_nibbles, unpack_nibbles
from gpu_kernels.kv4_attention.config import GROUP_TOKENS, PAGE_TOKENS, group_bytes, page_bytes, row_bytes

Bytes = NDArray[np.uint8]
GROUPS = PAGE_TOKENS // GROUP_TOKENS


class Part(NamedTuple):
    """Keys or values of whole pages. codes u8 [N, heads, 64, D], scale and zero [N, heads, 64] on the float16 grid.

    With 16 bits the codes are float16 numbers, scale and zero are None.
    """

    codes: Any
    scale: Any
    zero: Any


@cache
def key_places(size: int, bits: int) -> NDArray[np.int64]:
    """[16, row bytes]: where in a group byte b of token r's key lies."""
    row = row_bytes(size, bits)
    r, b = np.ogrid[:GROUP_TOKENS, :row]
    places: NDArray[np.int64] = r * row + (b ^ ((r & 1) << 6) if row >= 128 else b)
    return places


@cache
def value_places(size: int, bits: int) -> NDArray[np.int64]:
    """[16, row bytes]: where in a group byte b of token r's value lies."""
    row = row_bytes(size, bits)
    r, b = np.ogrid[:GROUP_TOKENS, :row]
    line = (r & 8) | ((r & 1) << 2) | ((r & 6) >> 1)
    exchange = (line & 3) << 5 if row >= 128 else (line & 2) << 4 if row == 64 else np.zeros_like(line)
    places: NDArray[np.int64] = GROUP_TOKENS * row + line * row + (b ^ exchange)
    return places


@cache
def token_places(size: int, bits: int) -> NDArray[np.int64]:
    """[16, bytes of a token]: all bytes of token r in a group."""
    scales = 2 * GROUP_TOKENS * row_bytes(size, bits) + 8 * np.arange(GROUP_TOKENS)[:, None] + np.arange(8)
    return np.hstack([key_places(size, bits), value_places(size, bits), *([scales] if bits < 16 else [])])


def _rows(codes: Any, bits: int) -> Bytes:
    """[..., row bytes] of [..., D]."""
    if bits == 4:
        return pack_nibbles(np.ascontiguousarray(codes, np.uint8))
    if bits == 8:
        return np.ascontiguousarray(codes, np.uint8)
    return np.ascontiguousarray(codes, "<f2").view(np.uint8)


def _codes(rows: Bytes, bits: int) -> Any:
    if bits == 4:
        return unpack_nibbles(rows)
    return rows if bits == 8 else rows.view("<f2").astype(np.float32)


def pack(key: Part, value: Part, bits: int) -> Bytes:
    """uint8 [N, heads, page bytes]."""
    shape = np.shape(key.codes)
    if len(shape) != 4 or shape[2] != PAGE_TOKENS or np.shape(value.codes) != shape:
        raise ValueError(f"kv cache: codes must be [N, heads, {PAGE_TOKENS}, D], got {shape}, {np.shape(value.codes)}")
    pages, heads, _, size = shape
    found = np.empty((pages, heads, GROUPS, group_bytes(size, bits)), np.uint8)
    for part, places in ((key, key_places(size, bits)), (value, value_places(size, bits))):
        found[..., places] = _rows(part.codes, bits).reshape(pages, heads, GROUPS, GROUP_TOKENS, -1)
    if bits < 16:
        scales = np.stack([np.asarray(x, "<f2") for x in (key.scale, key.zero, value.scale, value.zero)], axis=-1)
        scales = scales + np.float16(0)  # -0 is written as 0
        found[..., 2 * GROUP_TOKENS * row_bytes(size, bits) :] = scales.view(np.uint8).reshape(pages, heads, GROUPS, -1)
    return found.reshape(pages, heads, page_bytes(size, bits))


def unpack(pages: Any, size: int, bits: int) -> tuple[Part, Part]:
    """The inverse of `pack`: keys and values."""
    data = np.ascontiguousarray(pages, np.uint8)
    if data.ndim != 3 or data.shape[2] != page_bytes(size, bits):
        raise ValueError(f"kv cache: pages must be [N, heads, {page_bytes(size, bits)}] bytes, got {data.shape}")
    whole = (*data.shape[:2], PAGE_TOKENS)
    groups = data.reshape(*data.shape[:2], GROUPS, -1)
    rows = [groups[..., places(size, bits)].reshape(*whole, -1) for places in (key_places, value_places)]
    codes = [_codes(np.ascontiguousarray(x), bits) for x in rows]
    if bits == 16:
        return Part(codes[0], None, None), Part(codes[1], None, None)
    tail = np.ascontiguousarray(groups[..., 2 * GROUP_TOKENS * row_bytes(size, bits) :])
    scales = np.moveaxis(tail.view("<f2").astype(np.float32).reshape(*whole, 4), 3, 0)
    return Part(codes[0], scales[0], scales[1]), Part(codes[1], scales[2], scales[3])
