"""A decode layer in float64: in its own arithmetic (16-bit results, INT8 tokens, KV4), or without any rounding. NumPy.

    h  = residual + x                          the sum that is handed on
    q, k, v = norm(h) Wqkv,  attention over the cache and the new token,  h' = h + attention Wo
    x' = (silu(gate) up) Wdown  of  gate, up = norm(h') Wgate_up          (x', h') goes to the next layer

With `exactly` everything is float64. Otherwise the roundings between the kernels are theirs: `activations.model` bit
for bit, matrix products as integers with one rounding to float16 (theirs has one or two more in float32), attention
in float64 over the quantized cache and rounded to float16. What is left between this and the kernels is the attention's
own arithmetic and what it moves across a rounding.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accel.arithmetic import round_to
from accel.formats import kv4
from gpu_kernels.activations import model
from gpu_kernels.decode_layer.config import EPSILON, Sizes
from gpu_kernels.decode_layer.operands import Matrix, Weights

Wide = NDArray[np.float64]
STAGES = ("projected", "mixed", "attended", "residual", "gates", "x")  # of qkv, attention, o, norm, gate and up, down


class Cache(NamedTuple):
    """Keys, rotated, and values of the tokens before: [B, kv heads, T, D] on the float16 grid."""

    keys: Any
    values: Any


def step(
    given: Weights,
    x: Any,
    residual: Any,
    cache: Cache,
    angles: Any,
    exactly: bool = False,
    seen: Mapping[str, Any] | None = None,
) -> dict[str, Wide]:
    """What each kernel of one decode step gives, float64, by its name in STAGES.

    x, residual [B, hidden], angles as `rotation`; sequences have as many cached tokens each. With `seen`, results of a
    GPU by the same names, each kernel is recomputed from what those in front of it gave there: INT8 tokens make of one
    differing unit a differing code, and of that a visible difference further on, which says nothing about the kernels.
    """
    own: dict[str, Wide] = {}

    def taken(name: str, value: Any) -> Any:
        own[name] = np.asarray(value, np.float64)
        return own[name] if seen is None else np.asarray(seen[name], np.float64)

    product: Callable[[Matrix, Any], Wide] = _exact_product if exactly else _product
    norm: Callable[[Any, Any, Any], tuple[Any, Any]] = _exact_norm if exactly else _norm
    tokens, h = norm(x, residual, given.norms[0])
    projected = taken("projected", product(given.matrices["qkv"], tokens))
    mixed = taken("mixed", attention(given.sizes, projected, cache, angles, exactly))
    attended = taken("attended", product(given.matrices["o"], mixed if exactly else model.quantize(mixed)))
    tokens, h = norm(attended, h, given.norms[1])
    taken("residual", h)
    gates = taken("gates", product(given.matrices["gate_up"], tokens))
    taken("x", product(given.matrices["down"], _exact_gate(gates) if exactly else model.quantize_gate(gates)))
    return own


# ---- INT8 tokens, float16 between the kernels ----------------------------------------------------------------


def _norm(x: Any, residual: Any, weight: Any) -> tuple[Any, Any]:
    return model.quantize_norm(x, weight, EPSILON, residual=residual)


def _product(matrix: Matrix, tokens: model.Tokens) -> Wide:
    sums = matrix.times(tokens.codes.astype(np.float64))
    scale = tokens.scale.astype(np.float64)[:, None] * matrix.scales()
    return round_to(sums * scale, "float16").astype(np.float64)


# ---- no rounding ----------------------------------------------------------------


def _exact_norm(x: Any, residual: Any, weight: Any) -> tuple[Wide, Wide]:
    h = np.asarray(x, np.float64) + residual
    return h / np.sqrt((h * h).mean(axis=1, keepdims=True) + EPSILON) * weight, h


def _exact_product(matrix: Matrix, x: Wide) -> Wide:
    return matrix.times(x) * matrix.scales()


def _exact_gate(gates: Wide) -> Wide:
    gate, up = np.split(gates, 2, axis=1)
    return gate / (1 + np.exp(-gate)) * up


# ---- attention ----------------------------------------------------------------


def attention(sizes: Sizes, projected: Wide, cache: Cache, angles: Any, exactly: bool) -> Wide:
    """[B, heads x D] of query, key and value in one [B, N]."""
    batch, size = len(projected), sizes.head_size
    parts = np.split(projected.reshape(batch, -1, size), [sizes.heads, sizes.heads + sizes.kv_heads], axis=1)
    query, key = (_rotated(part, angles, exactly) for part in parts[:2])
    keys, values = (np.asarray(part, np.float64) if exactly else _stored(part) for part in cache)
    keys = np.concatenate([keys, key[:, :, None]], axis=2)
    values = np.concatenate([values, parts[2][:, :, None]], axis=2)
    grouped = query.reshape(batch, sizes.kv_heads, -1, size)
    score = grouped @ keys.swapaxes(2, 3) / np.sqrt(size)
    weight = np.exp(score - score.max(axis=3, keepdims=True))
    mixed = (weight / weight.sum(axis=3, keepdims=True) @ values).reshape(batch, -1)
    return mixed if exactly else round_to(mixed, "float16").astype(np.float64)


def _stored(vectors: Any) -> Wide:
    """What the cache gives back of vectors [..., D], before any rounding."""
    codes, scale, zero = (np.asarray(part, np.float64) for part in kv4.quantize(vectors))
    return (codes - zero[..., None]) * scale[..., None]


def _rotated(x: Wide, angles: Any, exactly: bool) -> Wide:
    """Pairs i and i + D / 2 of x [B, heads, D]."""
    first, second = np.split(x, 2, axis=2)
    c, s = (np.asarray(part, np.float64)[:, None] for part in angles)
    turned = np.concatenate([c * first - s * second, c * second + s * first], axis=2)
    return turned if exactly else round_to(turned, "float16").astype(np.float64)
