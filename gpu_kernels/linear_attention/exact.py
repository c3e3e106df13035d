"""Twin of `model`: Fractions, one head; lists in and out."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from gpu_kernels.exact_rounding import Exact, exact, to_float32, to_form

Matrix = list[list[Exact]]
Vector = Sequence[Any]


def relu(x: Any) -> Exact:
    """x or 0."""
    return max(exact(x), Fraction(0))


def dot(a: Sequence[Exact], b: Sequence[Exact]) -> Exact:
    """Sum of products by fma, in order, from 0."""
    acc: Exact = Fraction(0)
    for x, y in zip(a, b, strict=True):
        acc = to_float32(x * y + acc)
    return acc


def chunk_state(keys: Sequence[Vector], values: Sequence[Vector]) -> Matrix:
    """[D + 1][D] of a chunk's tokens."""
    columns = [[relu(k[j]) for k in keys] for j in range(len(keys[0]))]
    rows = [[exact(v[i]) for v in values] for i in range(len(values[0]))]
    rows.append([Fraction(1)] * len(keys))
    return [[dot(row, column) for column in columns] for row in rows]


def state(keys: Sequence[Vector], values: Sequence[Vector]) -> Matrix:
    """[D + 1][D] of all tokens [n][D]."""
    chunks = [chunk_state(keys[t : t + 256], values[t : t + 256]) for t in range(0, len(keys), 256)]
    total = chunks[0]
    for chunk in chunks[1:]:
        total = [[to_float32(a + b) for a, b in zip(x, y, strict=True)] for x, y in zip(total, chunk, strict=True)]
    return total


def output(query: Vector, states: Matrix, epsilon: Any, form: str) -> list[Exact]:
    """[D] of one query [D]."""
    positive = [relu(q) for q in query]
    *numerators, divisor = [dot(positive, row) for row in states]
    divisor = to_float32(divisor + to_float32(exact(epsilon)))
    shares = [to_float32(n / divisor) for n in numerators]
    if form == "float16":
        shares = [max(min(share, Fraction(65504)), Fraction(-65504)) for share in shares]
    return [to_form(share, form) for share in shares]
