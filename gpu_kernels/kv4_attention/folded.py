"""Our kernel's order of operations: scales and zeros of cached tokens are folded into scores and weights.

Not QServe's order (`model`), which rounds each key and value to float16. Codes stay integers on the tensor cores:

1. Rotation and quantization as in `model`, bit for bit, KV8 with 255 steps for 15. The new key and value are used as
   they are.
2. score = rn(rn(sum_d q (code + bias) - rn(zero + bias) sum_d q) rn(scale factor)), the difference one fma; factor =
   log2(e) / sqrt(D), so that powers are of two; bias 64 (KV4), -128 (KV8), 0 (FP16: no scale, no zero).
3. e = 2^rn(score - top); weight = rn(e scale_v). `top` lies 8 below the largest score + log2(scale_v), so that weights
   fit float16 and the largest has 31 binary digits above the smallest number.
4. output = r16((sum r16(weight) (code - c) + sum weight (c - zero) + e_new v_new) / (sum e + e_new)); c = 8, 128, 0.

Sums are outside of exactness: the tensor core cuts, `ex2` is approximate, and `top` is each warp's own. Here sums are
float64 and powers are correctly rounded; `bounds.folded_bound` says how far the kernel may be from float64.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accel.arithmetic import round_to
from accel.formats import kv4
from gpu_kernels.kv4_attention.config import CENTER, HEADROOM, KEY_BIAS, LOG2_E
from gpu_kernels.kv4_attention.model import rotate
from gpu_kernels.kv4_attention.operands import Floats, Vectors, angles_of, cache_of, check_shapes, floats_of, tokens_of

Wide = NDArray[np.float64]


class Step(NamedTuple):
    """What a decode step gives; with 16 bits `key` and `value` are the vectors themselves."""

    output: Floats  # [B, query heads, D], on the float16 grid
    key: Vectors | Floats  # [B, kv heads, D]
    value: Vectors | Floats


def quantize(x: Any, bits: int) -> Vectors | Floats:
    """Vectors of float16 numbers x [..., D] as the cache holds them: Vectors, or with 16 bits x itself."""
    if bits == 16:
        return np.ascontiguousarray(x, np.float32)
    return Vectors(*kv4.quantize(x, wrap=True)) if bits == 4 else _quantize8(np.asarray(x, np.float32))


def _quantize8(x: Floats) -> Vectors:
    """As `accel.formats.kv4`, with 255 steps, without the cut to a nibble. |low| may be 256 times the range; above that
    zero leaves float16, is held at its largest number, and the codes mean nothing."""
    low, high = x.min(axis=-1), x.max(axis=-1)
    span, steps = high - low, np.float32(255)
    scale = round_to(span / steps, "float16")
    guarded = scale == 0
    far = np.clip(-(steps * low) / np.where(guarded, np.float32(1), span), -65504, 65504)
    scale, zero = np.where(guarded, np.float32(1), scale), np.where(guarded, -low, round_to(far, "float16"))
    return Vectors(kv4.numbers(x, scale, zero), scale, zero)


class Head(NamedTuple):
    """One kv head of one sequence: what is read. Codes float64 [n, D], scale and zero [n]; 16 bits: scale 1, zero 0."""

    query: Wide  # [G, D]
    key: Wide  # [D], the new token's, rotated; empty if there is none
    value: Wide
    keys: tuple[Wide, Wide, Wide]
    values: tuple[Wide, Wide, Wide]


def _single(x: Any) -> Any:
    return np.asarray(x, np.float32).astype(np.float64)


def scores(head: Head, bits: int) -> Wide:
    """[G, n (+ 1)] in units of bits, the new token last."""
    codes, scale, zero = head.keys
    bias, factor = KEY_BIAS[bits], np.float32(LOG2_E / np.sqrt(head.query.shape[1]))
    dot = _single(head.query @ (codes + bias).T)
    moved = _single(dot - _single(zero + bias) * _single(head.query.sum(1))[:, None])
    cached = _single(moved * _single(scale * factor))
    return cached if not head.key.size else np.c_[cached, _single(_single(head.query @ head.key) * factor)]


def _output(head: Head, bits: int) -> Wide:
    """[G, D] before its last rounding."""
    x, (codes, scale, zero), n = scores(head, bits), head.values, len(head.values[0])
    top = np.max(np.c_[x[:, :n] + np.log2(scale), x[:, n:]], axis=1, keepdims=True, initial=-(2.0**100)) - HEADROOM
    e = _single(np.exp2(_single(x - top)))
    weight = _single(e[:, :n] * scale)
    found = (
        round_to(weight, "float16").astype(np.float64) @ (codes - CENTER[bits])
        + (weight @ (CENTER[bits] - zero))[:, None]
    )
    if head.key.size:
        found += e[:, n:] * head.value
    total = e.sum(1, keepdims=True)
    result: Wide = np.divide(found, total, out=np.zeros_like(found), where=total > 0)  # 0 of an empty cache
    return result


def heads_of(query: Floats, key: Any, value: Any, caches: Sequence[Any], tokens: Any, counts: Any) -> list[Head]:
    """Of all sequences; shapes as `decode` has them once batch and heads are one axis."""
    found = []
    for n, own in enumerate(query):
        at = tokens[n, : counts[n]]
        new = [np.empty(0) if x is None else x[n].astype(np.float64) for x in (key, value)]
        parts = [tuple(np.asarray(part[n, at], np.float64) for part in cache) for cache in caches]
        found.append(Head(own.astype(np.float64), *new, *parts))  # type: ignore[arg-type]
    return found


def _cache(name: str, cache: Any, shape: tuple[int, ...], bits: int) -> Vectors:
    if bits != 16:
        return cache_of(name, cache, shape, most=2**bits - 1)
    flat = floats_of(name, np.reshape(cache, (shape[0], -1, shape[2])))
    flat = flat.reshape(shape[0] * shape[1], -1, shape[2])
    ones: Any = np.ones(flat.shape[:2], np.float32)
    codes: Any = flat
    return Vectors(codes, ones, 0 * ones)


def operands(
    query: Any,
    key: Any,
    value: Any,
    key_cache: Any,
    value_cache: Any,
    lengths: Any,
    rotated: tuple[Any, Any] | None = None,
    kept: Sequence[Sequence[Any]] | None = None,
    bits: int = 4,
) -> tuple[list[Head], Any, Any]:
    """(heads, the new keys rotated, the new values), checked; operands as `decode` has them."""
    plain = [floats_of(name, x) for name, x in (("query", query), ("key", key), ("value", value))]
    check_shapes(*plain)
    q, k, v = plain
    batch, heads, size = k.shape
    caches = [_cache(name, c, k.shape, bits) for name, c in (("key_cache", key_cache), ("value_cache", value_cache))]
    tokens, counts = tokens_of(lengths, kept, k.shape, caches[0].codes.shape[1])
    if rotated is not None:
        cosine, sine = (angles_of(x, batch, size) for x in rotated)
        q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
    flat = q.reshape(batch * heads, -1, size), k.reshape(-1, size), v.reshape(-1, size)
    return heads_of(*flat, caches, tokens, counts), k, v


def decode(query: Any, key: Any, value: Any, key_cache: Any, value_cache: Any, lengths: Any, **how: Any) -> Step:
    """One decode step as `model.decode`, in our order; with bits=8 codes go to 255, with bits=16 a cache is
    [B, kv heads, T, D] of float16 numbers."""
    heads, k, v = operands(query, key, value, key_cache, value_cache, lengths, **how)
    bits = how.get("bits", 4)
    return Step(outputs(heads, bits).reshape(np.shape(query)), quantize(k, bits), quantize(v, bits))


def without_new(heads: Sequence[Head]) -> list[Head]:
    """The same, of the cache alone."""
    return [head._replace(key=np.empty(0), value=np.empty(0)) for head in heads]


def outputs(heads: Sequence[Head], bits: int) -> Floats:
    """[heads, G, D] on the float16 grid."""
    found: Floats = round_to(np.stack([_output(head, bits) for head in heads]), "float16")
    return found
