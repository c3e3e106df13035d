"""Decode attention over a KV4 cache, as QServe's fused kernel computes it (omniserve 02b2925; arXiv 2405.04532, 4.4).

One block of 256 threads a query head and sequence; D is 32, 64, 128 or 256. rn is float32, r16 is float16, both to
nearest even. The cached tokens, of which `count` are read, come first, the new token last.

1. Rotation of q and the new k, pairs i and i + D/2:  x' = r16(fma(c, x, -rn(s y))),  y' = r16(fma(c, y, rn(s x)))
2. The new k and v are quantized for the cache (`accel.formats.kv4`, low nibble kept), but used here as they are.
3. k16 = fma16(code, scale, r16(-scale zero)): one float16 rounding of code x scale + offset.
4. A cached key has D/8 lanes of 8 elements; its words hold the pairs 04, 15, 26, 37, so that each half of a lane is
   r16(q k), then three fma16, in ascending order; r16(low + high); float32 butterfly, distance D/16 down to 1; times
   rn(1 / rn(sqrt D)). The new key has min(32, D/2) lanes, all in float32: products (exact) added in order, butterfly.
5. e = exp(rn(s - max)); thread t adds e of tokens t, t + 256, ... ascending; butterfly over the 32 lanes of each of the
   8 warps (16 down to 1), then over the warps (4, 2, 1); p16 = r16(rn(e x rn(1 / rn(sum + 1e-6)))).
6. v16 as k16. 2048/D groups: token i belongs to group i mod groups, acc = fma(p16, v16, acc) in float32, ascending, the
   new token last. Groups are added in a tree: the upper half goes through float16, lower = rn(lower + r16(upper)).
   Output r16.

The exponential of the original is ex2.approx, its division __fdividef, sine and cosine are fast-math too: approximate,
so outside of bit for bit. Here: `exponential`, IEEE division, and sine and cosine as operands.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange

from accel.arithmetic import butterfly, float_of32, fma, fma_float16, to_float16
from accel.formats import kv4
from gpu_kernels.kv4_attention.operands import Floats, Vectors, angles_of, cache_of, check_shapes, floats_of, tokens_of

THREADS, WARP, PIECE = 256, 32, 8
EPSILON = np.float32(1e-6)
LOG2_E = np.float32(1.4426950408889634)
ORDER = 7
POWER = np.array([math.log(2) ** i / math.factorial(i) for i in range(ORDER + 1)], np.float32)  # of 2^f, |f| <= 1/2


class Step(NamedTuple):
    """What a decode step gives: the output, and what it appends to the cache."""

    output: Floats  # [B, query heads, D], on the float16 grid
    key: Vectors  # [B, kv heads, D]
    value: Vectors


def quantize(x: Any) -> Vectors:
    """Vectors of float16 numbers x [..., D] as the kernel stores them: of a number above 15 the low nibble only."""
    return Vectors(*kv4.quantize(x, wrap=True))


@njit(cache=True)
def exponential(x):  # type: ignore[no-untyped-def]
    """exp of a float32 x <= 0, from t = rn(x log2 e): 2^t within 2^-23.5, relative, as 2^n P(f), 7 fma."""
    t = np.float32(x * LOG2_E)
    if not t >= -126:
        return np.float32(0)  # results below the normal range are flushed
    n = np.rint(t)
    f = np.float32(t - n)  # exact
    p = POWER[ORDER]
    for i in range(ORDER - 1, -1, -1):
        p = fma(f, p, POWER[i])
    return np.float32(p * float_of32(np.int32(n + 127) << np.int32(23)))


@njit(cache=True)
def _dequantize(codes, scale, zero, found):  # type: ignore[no-untyped-def]
    offset = to_float16(-np.float32(scale * zero))  # the product is exact in float32
    for i in range(len(codes)):
        found[i] = fma_float16(np.float32(codes[i]), scale, offset)


@njit(cache=True)
def _cached_dot(q, k, parts):  # type: ignore[no-untyped-def]
    """Score of a cached key, not scaled; parts [D / 4]: the halves of each lane."""
    halves = len(q) // 4
    for i in range(halves):
        parts[i] = to_float16(np.float32(q[4 * i] * k[4 * i]))
    for j in range(1, 4):
        for i in range(halves):
            parts[i] = fma_float16(q[4 * i + j], k[4 * i + j], parts[i])
    for lane in range(halves // 2):  # a float32 sum of two float16 may be rounded again: 24 >= 2 x 11 + 2 bits
        parts[lane] = to_float16(np.float32(parts[2 * lane] + parts[2 * lane + 1]))
    return butterfly(parts, halves // 2)


@njit(cache=True)
def _new_dot(q, k, parts):  # type: ignore[no-untyped-def]
    """Score of the new key, not scaled."""
    lanes = min(WARP, len(q) // 2)
    each = len(q) // lanes
    for lane in range(lanes):
        parts[lane] = q[lane * each] * k[lane * each]
        for i in range(lane * each + 1, (lane + 1) * each):
            parts[lane] = fma(q[i], k[i], parts[lane])
    return butterfly(parts, lanes)


@njit(cache=True, error_model="numpy")
def _softmax(scores):  # type: ignore[no-untyped-def]
    """Scores float32 [n] to probabilities on the float16 grid, in place."""
    top, threads = scores[0], np.zeros(THREADS, np.float32)
    for i in range(1, len(scores)):
        top = max(top, scores[i])
    for i in range(len(scores)):
        scores[i] = exponential(np.float32(scores[i] - top))
        threads[i % THREADS] += scores[i]
    for warp in range(THREADS // WARP):
        threads[warp] = butterfly(threads[warp * WARP : (warp + 1) * WARP], WARP)
    inverse = np.float32(1) / np.float32(butterfly(threads, THREADS // WARP) + EPSILON)
    for i in range(len(scores)):
        scores[i] = to_float16(np.float32(scores[i] * inverse))


@njit(cache=True)
def _reduced(groups, output):  # type: ignore[no-untyped-def]
    """Sum of groups [groups, D] to the output [D]."""
    half = len(groups) // 2
    while half > 0:
        for g in range(half):
            for i in range(len(output)):
                groups[g, i] += to_float16(groups[g + half, i])
        half //= 2
    for i in range(len(output)):
        output[i] = to_float16(groups[0, i])


@njit(cache=True)
def _weigh(p, v, groups):  # type: ignore[no-untyped-def]
    for i in range(len(v)):
        groups[i] = fma(p, v[i], groups[i])


@njit(cache=True)
def _attend(n, queries, key, value, key_cache, value_cache, tokens, count, factor, outputs):  # type: ignore[no-untyped-def]
    """Kv head n of all; shapes as in `_decode`."""
    query, output, (heads, size) = queries[n], outputs[n], queries.shape[1:]
    scores, parts = np.empty((heads, count + 1), np.float32), np.empty(size, np.float32)
    vector, groups = np.empty(size, np.float32), np.zeros((heads, THREADS * PIECE // size, size), np.float32)
    for i in range(count):
        t = tokens[n, i]
        _dequantize(key_cache[0][n, t], key_cache[1][n, t], key_cache[2][n, t], vector)
        for h in range(heads):
            scores[h, i] = _cached_dot(query[h], vector, parts) * factor
    for h in range(heads):
        scores[h, count] = _new_dot(query[h], key[n], parts) * factor
        _softmax(scores[h])
    for i in range(count):
        t = tokens[n, i]
        _dequantize(value_cache[0][n, t], value_cache[1][n, t], value_cache[2][n, t], vector)
        for h in range(heads):
            _weigh(scores[h, i], vector, groups[h, i % groups.shape[1]])
    for h in range(heads):
        _weigh(scores[h, count], value[n], groups[h, count % groups.shape[1]])
        _reduced(groups[h], output[h])


@njit(cache=True, parallel=True)
def _decode(query, key, value, key_cache, value_cache, tokens, counts, factor, output):  # type: ignore[no-untyped-def]
    """Fill output [n, query heads each, D] for n kv heads of all sequences: query as output, key, value [n, D],
    caches (codes [n, T, D], scale [n, T], zero [n, T]), tokens [n, T]."""
    for n in prange(len(query)):
        _attend(n, query, key, value, key_cache, value_cache, tokens, counts[n], factor, output)


@njit(cache=True)
def _rotate(x, cosine, sine):  # type: ignore[no-untyped-def]
    """x [B, heads, D], cosine and sine [B, D / 2]."""
    found, half = np.empty(x.shape, np.float32), x.shape[2] // 2
    for b in range(x.shape[0]):
        for h in range(x.shape[1]):
            for i in range(half):
                c, s, first, second = cosine[b, i], sine[b, i], x[b, h, i], x[b, h, i + half]
                found[b, h, i] = to_float16(fma(c, first, -np.float32(s * second)))
                found[b, h, i + half] = to_float16(fma(c, second, np.float32(s * first)))
    return found


def rotation(positions: Any, size: int, base: float = 10000.0) -> tuple[Floats, Floats]:
    """(cosine, sine) float32 [B, D / 2] of positions [B]: float64, rounded; the original's are fast-math float32."""
    angle = np.asarray(positions, np.float64)[:, None] / base ** (np.arange(0, size, 2) / size)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def rotate(x: Any, cosine: Any, sine: Any) -> Floats:
    """x [B, heads, D] of float16 numbers, rotated by angles of that cosine and sine [B, D / 2] and rounded again."""
    found: Floats = _rotate(*(np.ascontiguousarray(v, np.float32) for v in (x, cosine, sine)))
    return found


def factor(size: int) -> np.float32:
    """What a score is multiplied with: 1 / sqrt(D), in float32 after each step."""
    return np.float32(1) / np.sqrt(np.float32(size))


def decode(
    query: Any,
    key: Any,
    value: Any,
    key_cache: Vectors,
    value_cache: Vectors,
    lengths: Any,
    rotated: tuple[Any, Any] | None = None,
    kept: Sequence[Sequence[Any]] | None = None,
) -> Step:
    """One decode step of B sequences.

    query                    [B, query heads, D], a whole multiple of kv heads: head h reads kv head h // multiple
    key, value               [B, kv heads, D] of the new token; all three on the float16 grid
    key_cache, value_cache   codes [B, kv heads, T, D], scale and zero [B, kv heads, T]
    lengths                  [B] tokens of the cache that each sequence has, 0..T
    rotated                  (cosine, sine) [B, D / 2] for query and key; None: they have been rotated before
    kept                     positions of the cache that are read, ascending, for each sequence and kv head (cascade
                             token pruning); the result is that of a cache that holds only them. None: all
    Raises ValueError for operands of other shapes, off the grid or not finite.
    """
    operands = [floats_of(name, x) for name, x in (("query", query), ("key", key), ("value", value))]
    check_shapes(*operands)
    q, k, v = operands
    batch, heads, size = k.shape
    caches = [cache_of(name, c, k.shape) for name, c in (("key_cache", key_cache), ("value_cache", value_cache))]
    tokens, counts = tokens_of(lengths, kept, k.shape, caches[0].codes.shape[1])
    if rotated is not None:
        cosine, sine = (angles_of(x, batch, size) for x in rotated)
        q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
    one = batch * heads
    flat = q.reshape(one, -1, size), k.reshape(one, size), v.reshape(one, size)
    output = np.empty_like(q)
    _decode(*flat, tuple(caches[0]), tuple(caches[1]), tokens, counts, factor(size), output.reshape(one, -1, size))
    return Step(output, quantize(k), quantize(v))
