"""Eager operators of GPT-2 in closed form: float32, batch 1, with a cache of K and V.

What `modeling_gpt2.py` of Hugging Face transformers 3.0 (2020) calls, one row for each call that reaches the
framework: `Conv1D` is view, addmm, view; a generated token concatenates the whole K and V and stacks a second
copy of them for the next step; the causal mask is made bool and applied by `where`; `gelu_new` is eight
elementwise operators; dropout is called but launches nothing.  Left out: embeddings, the last layer norm, the
language-model head, sampling, and the views inside `matmul`.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_BYTES = 4  # float32
SOFTMAX_FLOPS = 5  # convention: maximum, subtract, exponential, sum, divide; one operation each an element
LAYERNORM_FLOPS = 8  # convention: mean, subtract, square, sum, root, divide, scale, shift
Columns = dict[str, NDArray[Any]]


class Operator(NamedTuple):
    """One eager call; a view moves nothing and launches nothing."""

    kind: str
    part: str
    flops: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    launches: int = 0


def operators(
    layers: int,
    heads: int,
    hidden: int,
    prompt: int,
    steps: int,
    *,
    parts: Sequence[str] = ("attention", "fc"),
) -> Columns:
    """Columns of `Trace.operators`: step 0 is the prompt, steps 1..steps are one generated token each.

    `hidden` is the model width, a multiple of `heads`; step t attends to prompt + t tokens. ValueError.
    """
    _check(layers=layers, heads=heads, hidden=hidden, prompt=prompt)
    if steps < 0 or hidden % heads:
        raise ValueError(f"steps must be >= 0 and heads must divide hidden, got {steps}, {heads}, {hidden}")
    shapes = [(prompt, prompt), *((1, prompt + step) for step in range(1, steps + 1))]
    tables = [_step(step, *shape, heads, hidden, layers, parts) for step, shape in enumerate(shapes)]
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def _check(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be >= 1, got {count}")


def _step(step: int, queries: int, length: int, heads: int, hidden: int, layers: int, parts: Sequence[str]) -> Columns:
    layer = [op for op in _layer(queries, length, heads, hidden) if op.part in parts]
    rows = len(layer) * layers
    fields = {name: np.array([getattr(op, name) for op in layer] * layers) for name in Operator._fields}
    return fields | {
        "sequence": np.zeros(rows, np.int64),
        "step": np.full(rows, step, np.int64),
        "layer": np.repeat(np.arange(layers), len(layer)),
        "repeat": np.ones(rows, np.int64),
        "format": np.full(rows, "float32"),
    }


def _layer(queries: int, length: int, heads: int, hidden: int) -> Iterable[Operator]:
    width = queries * hidden
    yield _layernorm(width, hidden)
    yield from _conv1d(queries, hidden, 3 * hidden)
    yield from _attention(queries, length, heads, hidden)
    yield from _conv1d(queries, hidden, hidden)
    yield Operator("dropout", "fc")
    yield _elementwise("add", "fc", width, inputs=2)
    yield _layernorm(width, hidden)
    yield from _conv1d(queries, hidden, 4 * hidden)
    yield from _gelu_new(4 * width)
    yield from _conv1d(queries, 4 * hidden, hidden)
    yield Operator("dropout", "fc")
    yield _elementwise("add", "fc", width, inputs=2)


def _attention(queries: int, length: int, heads: int, hidden: int) -> Iterable[Operator]:
    yield Operator("split", "attention")
    for _ in ("query", "key", "value"):
        yield Operator("view", "attention")
        yield Operator("permute", "attention")
    cached = length - queries
    if cached:
        yield from _append(cached, length, hidden)
    yield Operator("transpose", "attention")
    yield _copy("stack", 2 * length * hidden)
    yield _product(queries, length, hidden, reads=hidden * (queries + length), writes=heads * queries * length)
    yield from _softmax(queries, length, heads)
    yield _product(queries, length, hidden, reads=heads * queries * length + hidden * length, writes=queries * hidden)
    yield Operator("permute", "attention")
    # one token is already contiguous after the permutation: the call returns its argument
    yield _copy("contiguous", queries * hidden) if queries > 1 else Operator("contiguous", "attention")
    yield Operator("view", "attention")


def _append(cached: int, length: int, hidden: int) -> Iterable[Operator]:
    """The new K and V behind those of the earlier tokens: both are copied whole."""
    yield Operator("select", "attention")
    yield Operator("transpose", "attention")
    yield Operator("select", "attention")
    for _ in ("key", "value"):
        yield _copy("cat", length * hidden)


def _softmax(queries: int, length: int, heads: int) -> Iterable[Operator]:
    scores, mask = heads * queries * length, queries * length
    yield _elementwise("scale", "attention", scores)
    yield Operator("mask_slice", "attention")
    yield Operator("mask_bool", "attention", 0, mask, mask, 1)  # uint8 to bool: a byte each
    yield Operator("mask_to", "attention")
    yield Operator("mask", "attention", scores, scores * _BYTES + mask, scores * _BYTES, 1)
    yield _elementwise("softmax", "attention", scores, flops=SOFTMAX_FLOPS)
    yield Operator("dropout", "attention")


def _product(queries: int, length: int, hidden: int, reads: int, writes: int) -> Operator:
    """Q x K or prob x V of all heads: hidden = heads x head size; reads and writes in elements."""
    flops = 2 * queries * length * hidden
    return Operator("bmm", "attention", flops, reads * _BYTES, writes * _BYTES, 1)


def _conv1d(rows: int, inputs: int, outputs: int) -> Iterable[Operator]:
    yield Operator("view", "fc")
    reads = (rows * inputs + inputs * outputs + outputs) * _BYTES
    yield Operator("linear", "fc", 2 * rows * inputs * outputs, reads, rows * outputs * _BYTES, 1)
    yield Operator("view", "fc")


def _gelu_new(elements: int) -> Iterable[Operator]:
    """0.5 x (1 + tanh(c (x + 0.044715 x^3))): half, power, times, plus x, times c, tanh, plus 1, times."""
    for inputs in (1, 1, 1, 2, 1, 1, 1, 2):
        yield _elementwise("gelu", "fc", elements, inputs=inputs)


def _layernorm(elements: int, hidden: int) -> Operator:
    reads = (elements + 2 * hidden) * _BYTES
    return Operator("layernorm", "fc", LAYERNORM_FLOPS * elements, reads, elements * _BYTES, 1)


def _elementwise(kind: str, part: str, elements: int, *, inputs: int = 1, flops: int = 1) -> Operator:
    return Operator(kind, part, flops * elements, inputs * elements * _BYTES, elements * _BYTES, 1)


def _copy(kind: str, elements: int) -> Operator:
    return Operator(kind, "attention", 0, elements * _BYTES, elements * _BYTES, 1)
