"""Operands of a decode step: their shapes, checked, and the heads of all sequences as one axis."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accel.arithmetic import round_to

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]
Integers = NDArray[np.int64]
SIZES = (32, 64, 128, 256)


class Vectors(NamedTuple):
    """Quantized key or value vectors, x ~ (codes - zero) scale."""

    codes: Codes  # [..., D], 0..15
    scale: Floats  # [...], on the float16 grid
    zero: Floats  # [...], on the float16 grid, not an integer


def floats_of(name: str, x: Any) -> Floats:
    """float32 [B, heads, D] on the float16 grid."""
    values = np.ascontiguousarray(x, np.float32)
    if values.ndim != 3:
        raise ValueError(f"kv4_attention: {name}: must be [B, heads, D], got shape {values.shape}")
    if not np.isfinite(values).all() or not np.array_equal(values, round_to(values, "float16")):
        raise ValueError(f"kv4_attention: {name}: must be finite float16 values")
    return values


def check_shapes(query: Floats, key: Floats, value: Floats) -> None:
    """Query [B, query heads, D], key and value [B, kv heads, D]."""
    batch, heads, size = key.shape
    if size not in SIZES:
        raise ValueError(f"kv4_attention: D must be one of {', '.join(map(str, SIZES))}, got {size}")
    if value.shape != key.shape:
        raise ValueError(f"kv4_attention: value: must have key's shape {key.shape}, got {value.shape}")
    if query.shape[::2] != (batch, size) or not heads or query.shape[1] % heads:
        raise ValueError(
            f"kv4_attention: query: must be [{batch}, a multiple of {heads} heads, {size}], got {query.shape}"
        )


def cache_of(name: str, cache: Vectors, shape: tuple[int, ...], most: int = 15) -> Vectors:
    """A cache with batch and heads as one axis, checked; codes are within 0..most."""
    codes = np.ascontiguousarray(cache.codes)
    if codes.dtype != np.uint8 or codes.ndim != 4 or (*codes.shape[:2], codes.shape[3]) != shape:
        want = f"uint8 [{shape[0]}, {shape[1]}, T, {shape[2]}]"
        raise ValueError(f"kv4_attention: {name}: codes must be {want}, got {codes.dtype} {codes.shape}")
    if codes.max(initial=0) > most:
        raise ValueError(f"kv4_attention: {name}: codes must be within 0..{most}, got {codes.max()}")
    one, many = shape[0] * shape[1], codes.shape[2]
    scales = [np.ascontiguousarray(x, np.float32) for x in (cache.scale, cache.zero)]
    for part, x in zip(("scale", "zero"), scales, strict=True):
        if x.shape != codes.shape[:3] or not np.array_equal(x, round_to(x, "float16")) or not np.isfinite(x).all():
            raise ValueError(f"kv4_attention: {name}: {part} must be float16 values {codes.shape[:3]}, got {x.shape}")
    return Vectors(codes.reshape(one, many, shape[2]), scales[0].reshape(one, many), scales[1].reshape(one, many))


def angles_of(x: Any, batch: int, size: int) -> Floats:
    """float32 [B, D / 2]."""
    values = np.ascontiguousarray(x, np.float32)
    if values.shape != (batch, size // 2):
        raise ValueError(f"kv4_attention: rotated: must be two of [{batch}, {size // 2}], got {values.shape}")
    return values


def tokens_of(lengths: Any, kept: Any, shape: tuple[int, ...], room: int) -> tuple[Integers, Integers]:
    """(positions int64 [B x heads, T], how many of them [B x heads])."""
    long = np.asarray(lengths)
    if long.shape != shape[:1] or long.dtype.kind not in "iu" or long.min() < 0 or long.max() > room:
        raise ValueError(f"kv4_attention: lengths: must be {shape[0]} integers in 0..{room}, got {lengths}")
    counts = np.repeat(long.astype(np.int64), shape[1])
    tokens = np.tile(np.arange(room), (len(counts), 1))
    for n in range(len(counts) if kept is not None else 0):
        own = np.asarray(kept[n // shape[1]][n % shape[1]], np.int64)
        if np.any(np.diff(own) <= 0) or np.any(own < 0) or np.any(own >= counts[n]):
            where = f"sequence {n // shape[1]}, kv head {n % shape[1]}"
            raise ValueError(f"kv4_attention: kept: {where}: must ascend within 0..{counts[n] - 1}, got {own.tolist()}")
        counts[n] = len(own)
        tokens[n, : len(own)] = own
    return tokens, counts
