"""Rows of a trace's tables as dicts, and the tensors that a scheme makes of them."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.schemes.apply import Assignment
from workloads.schemes.bytes import Group, Piece, level_bytes, packed_bytes, piece_bytes, pieces, plain_bytes
from workloads.schemes.schema import Activations, Scheme, is_plain
from workloads.trace import TEXT_COLUMNS, Trace

Row = dict[str, Any]
FLOATS = {"float16": 16, "bfloat16": 16, "float32": 32, "float64": 64}  # bits


def as_table(rows: list[Row], like: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name: np.array([r[name] for r in rows], str if name in TEXT_COLUMNS else np.int64) for name in like}


def records(table: Mapping[str, NDArray[Any]]) -> list[Row]:
    names = list(table)
    return [dict(zip(names, row, strict=True)) for row in zip(*(table[name].tolist() for name in names), strict=True)]


class Recast:
    """The trace's main number format becomes the scheme's default."""

    def __init__(self, trace: Trace, scheme: Scheme) -> None:
        held: dict[str, int] = {}
        for name, elements in zip(trace.weights["format"], trace.weights["elements"], strict=True):
            held[str(name)] = held.get(str(name), 0) + int(elements)
        self.main = max((name for name in held if name in FLOATS), key=lambda name: held[name], default="")
        self.number = scheme.formats[scheme.default].weights.number
        self.bits = scheme.formats[scheme.default].weights.bits

    def __call__(self, row: Row) -> Row:
        if row["format"] != self.main or self.main == self.number:
            return row
        return {**row, "format": self.number, "bytes": row["bytes"] * self.bits // FLOATS[self.main]}


def by_operator(trace: Trace) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for operand in records(trace.operands):
        found.setdefault(operand["operator"], []).append(operand)
    return found


def scheme_weights(trace: Trace, given: Assignment, recast: Recast) -> list[Row]:
    """The weights of the trace in their formats; bytes with scales and zeros."""
    rows = records(trace.weights)
    for index, row in enumerate(rows):
        if row["kind"] == "parameter":
            rows[index] = {**recast(row), "bytes": plain_bytes(trace, given.scheme, index)}
    for gemm in given.gemms:
        parts = pieces(gemm)
        if len(parts) > 1 or not is_plain(given.scheme.formats[gemm.rule.format]):
            number = given.scheme.formats[gemm.rule.format].weights.number
            size = sum(sum(piece_bytes(given.scheme, part)) for part in parts)
            rows[gemm.weight] = {**rows[gemm.weight], "format": number, "bytes": size}
    return rows


def group_name(group: Group) -> str:
    """`blocks.0.attn.{to_q,to_k}`; a part of a split layer ends in the input it starts at."""
    paths = [piece.gemm.module.rpartition(".") for piece in group.pieces]
    leaf = paths[0][2] if len(paths) == 1 else "{" + ",".join(path[2] for path in paths) + "}"
    first = group.pieces[0]
    suffix = f"[{first.start}:]" if first.gemm.rule.split else ""
    return f"{paths[0][0]}{paths[0][1]}{leaf}{suffix}"


def activation_bytes(format_: Activations, rows: int, columns: int) -> int:
    """Bytes of a quantised input [rows, columns] with its scales and sums."""
    beside = level_bytes(format_.scales, rows, columns) + level_bytes(format_.sums, rows, columns)
    return packed_bytes(rows, columns, format_.bits) + beside


def as_matrix(kind: str, x: Row, piece: Piece) -> tuple[int, int]:
    """(rows, columns) of an input: columns are the inputs of a linear layer, the channels of a convolution."""
    sizes = sizes_of(x["shape"])
    columns = piece.k if kind in ("linear", "conv_1x1") else sizes[1]
    return prod(sizes) // columns, columns


def part_of(x: Row, piece: Piece) -> Row:
    """The inputs of a piece out of the operand of its layer, as an input tensor of its own shape."""
    if piece.k == piece.gemm.k:
        return x
    shape = "x".join([*x["shape"].split("x")[:-1], str(piece.k)])
    return {**x, "shape": shape, "bytes": x["bytes"] * piece.k // piece.gemm.k}


def sizes_of(shape: str) -> list[int]:
    return [int(size) for size in shape.split("x")] if shape else []


def packed_strides(shape: str) -> str:
    """Contiguous strides."""
    sizes = sizes_of(shape)
    return "x".join(str(prod(sizes[i + 1 :])) for i in range(len(sizes)))


def gemm_sizes(m: int, n: int, k: int) -> dict[str, int]:
    flops = 2 * m * n * k
    return {"batch": 1, "m": m, "n": n, "k": k, "flops": flops, "flops_unmasked": flops}
