"""Eager operators of a BERT-type encoder, batch 1, in closed form: one row for each operator that is called.

What `modeling_bert.py` of transformers 5 calls with `attn_implementation="eager"` and an all-ones mask, which
it drops; a test compares the launched ones with those that a real run dispatches.  Calls that launch nothing
(view, transpose, dropout, contiguous on a contiguous tensor) are of kind view.  From token ids to the last
hidden state: tokenizer, pooling, pooler and the views inside `matmul` and `linear` are left out.  Bytes count
each operand once, caches unknown.  Elementwise operators count as in an exported
trace (`export/catalogue.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.export.catalogue import PER_ELEMENT
from workloads.trace import COLUMNS, TEXT_COLUMNS

FLOAT32 = 4  # bytes
INT64 = 8
Row = dict[str, int | str]


@dataclass(frozen=True)
class EncoderShape:
    """Numbers that fix the operators of one model."""

    layers: int
    heads: int
    hidden: int
    intermediate: int


def encoder_operators(shape: EncoderShape, lengths: Sequence[int]) -> dict[str, NDArray[Any]]:
    """Columns of `Trace.operators` for texts of these lengths, one run each, unpruned."""
    rows: list[Row] = []
    for sequence, n in enumerate(lengths):
        rows += [{**row, "sequence": sequence, "layer": -1} for row in _embedding(shape, n)]
        for layer in range(shape.layers):
            rows += [{**row, "sequence": sequence, "layer": layer} for row in _layer(shape, n)]
    full = [{"step": 0, "repeat": 1, "format": "float32", **row} for row in rows]
    return {name: _column(name, full) for name in COLUMNS}


def _column(name: str, rows: list[Row]) -> NDArray[Any]:
    return np.array([row[name] for row in rows], str if name in TEXT_COLUMNS else np.int64)


def _row(kind: str, part: str, flops: int, read: int, write: int) -> Row:
    traffic = {"read_bytes": read, "write_bytes": write}
    return {"kind": kind, "part": part, "flops": flops, **traffic, "launches": 1}


def _views(part: str, count: int) -> Row:
    """Consecutive views: host work, nothing launched."""
    return {**_row("view", part, 0, 0, 0), "launches": 0, "repeat": count}


def _linear(n: int, inputs: int, outputs: int) -> Row:
    read = n * inputs + inputs * outputs + outputs
    return _row("linear", "fc", 2 * n * inputs * outputs, read * FLOAT32, n * outputs * FLOAT32)


def _bmm(batch: int, m: int, k: int, n: int) -> Row:
    read, write = batch * (m * k + k * n), batch * m * n
    return _row("bmm", "attention", 2 * batch * m * k * n, read * FLOAT32, write * FLOAT32)


def _elementwise(kind: str, part: str, elements: int, operands: int = 1, operations: int = 1) -> Row:
    size = elements * FLOAT32
    return _row(kind, part, elements * operations, operands * size, size)


def _norm(part: str, n: int, hidden: int) -> Row:
    """Layer norm also stores mean and 1/deviation of each row."""
    read, write = n * hidden + 2 * hidden, n * hidden + 2 * n
    return _row("layernorm", part, PER_ELEMENT["layernorm"] * n * hidden, read * FLOAT32, write * FLOAT32)


def _lookup(n: int, hidden: int) -> Row:
    return _row("embedding", "other", 0, n * (hidden * FLOAT32 + INT64), n * hidden * FLOAT32)


def _embedding(shape: EncoderShape, n: int) -> Iterator[Row]:
    size = n * shape.hidden
    yield _views("other", 2)
    yield {**_row("gather", "other", 0, 2 * n * INT64, n * INT64), "format": "int64"}
    yield _views("other", 1)
    yield _lookup(n, shape.hidden)
    yield _lookup(n, shape.hidden)
    yield _elementwise("add", "other", size, operands=2)
    yield _lookup(n, shape.hidden)
    yield _elementwise("add", "other", size, operands=2)
    yield _norm("other", n, shape.hidden)
    yield {**_row("mask", "other", 0, n * INT64, n), "format": "bool"}  # to bool, all, to the host
    yield {**_row("mask", "other", 0, n, 1), "format": "bool"}
    yield {**_row("copy", "other", 0, 1, 1), "format": "bool"}


def _layer(shape: EncoderShape, n: int) -> Iterator[Row]:
    for _ in "QKV":
        yield _linear(n, shape.hidden, shape.hidden)
        yield _views("attention", 2)  # split heads, transpose
    yield from _attention(n, shape.heads, shape.hidden // shape.heads)
    yield _linear(n, shape.hidden, shape.hidden)
    yield from _residual(n, shape.hidden)
    yield _linear(n, shape.hidden, shape.intermediate)
    yield _elementwise("gelu", "fc", n * shape.intermediate, operations=PER_ELEMENT["gelu"])
    yield _linear(n, shape.intermediate, shape.hidden)
    yield from _residual(n, shape.hidden)


def _residual(n: int, hidden: int) -> Iterator[Row]:
    yield _views("fc", 1)  # dropout
    yield _elementwise("add", "fc", n * hidden, operands=2)
    yield _norm("fc", n, hidden)


def _attention(n: int, heads: int, size: int) -> Iterator[Row]:
    """From the outputs of the Q, K and V projections to the input of the output projection."""
    scores = heads * n * n
    yield _views("attention", 1)  # transpose K
    yield _bmm(heads, n, size, n)
    yield _elementwise("mul", "attention", scores)
    yield _elementwise("softmax", "attention", scores, operations=PER_ELEMENT["softmax"])
    yield _views("attention", 1)  # dropout
    yield _bmm(heads, n, n, size)
    yield _views("attention", 1)  # transpose back
    yield _elementwise("copy", "attention", heads * n * size)
    yield _views("attention", 2)  # merge heads, contiguous
