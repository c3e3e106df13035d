"""Rows of the recorder as the tables of a `Trace`, and what each operator is part of."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workloads.export.catalogue import GEMM_KINDS, factors
from workloads.trace import OPERANDS, TABLES, TEXT_COLUMNS, WEIGHTS

if TYPE_CHECKING:
    from workloads.export.recorder import Operand, Row

_NUMBERED = re.compile(r"^((?:.*?\.)?\d+)(\.|$)")  # up to the outermost numbered module
_REACH = 24  # operators between the two products of an attention: scale, mask, cap, softmax, casts


def operator_table(rows: Sequence["Row"], repeats: Sequence[int]) -> dict[str, NDArray[Any]]:
    """Columns of `Trace.operators`; `repeats` by stage."""
    layers = _layers(rows)
    values: dict[str, list[Any]] = {
        "kind": [row.kind for row in rows],
        "part": parts(rows),
        "sequence": [0] * len(rows),
        "step": [row.stage for row in rows],
        "layer": [layers.get(row.module, -1) for row in rows],
        "flops": [row.flops for row in rows],
        "read_bytes": [row.read_bytes for row in rows],
        "write_bytes": [row.write_bytes for row in rows],
        "repeat": [repeats[row.stage] for row in rows],
        "format": [_format(row) for row in rows],
        "launches": [row.launches for row in rows],
        "op": [row.op for row in rows],
        "module": [row.module for row in rows],
        "flops_unmasked": [_unmasked(row) for row in rows],
    }
    values |= {size: [getattr(row.gemm, size) if row.gemm else 0 for row in rows] for size in ("batch", "m", "n", "k")}
    return {name: _column(name, values[name]) for name in TABLES["operators"]}


def _unmasked(row: "Row") -> int:
    return row.flops if row.gemm is None or row.gemm.unmasked is None else row.gemm.unmasked


def _format(row: "Row") -> str:
    """The format of the first result, or of the first operand where there is none."""
    results = [one.format for one in row.operands if one.output]
    return (results or [one.format for one in row.operands] or ["none"])[0]


def _column(name: str, values: Sequence[Any]) -> NDArray[Any]:
    return np.array(values, str if name in TEXT_COLUMNS else np.int64)


def _layers(rows: Sequence["Row"]) -> dict[str, int]:
    """Module path -> running number of the outermost numbered module that it lies in."""
    numbers: dict[str, int] = {}
    found = {}
    for module in dict.fromkeys(row.module for row in rows):
        match = _NUMBERED.match(module)
        if match:
            found[module] = numbers.setdefault(match[1], len(numbers))
    return found


def operand_table(rows: Sequence["Row"]) -> dict[str, NDArray[Any]]:
    """Columns of `Trace.operands`."""
    pairs = [(index, one) for index, row in enumerate(rows) for one in row.operands]
    values: dict[str, list[Any]] = {"operator": [index for index, _ in pairs]}
    for name in ("output", "producer", "weight", "format", "bytes"):
        values[name] = [getattr(one, name) for _, one in pairs]
    for name in ("shape", "strides"):
        values[name] = ["x".join(map(str, getattr(one, name))) for _, one in pairs]
    return {name: _column(name, values[name]) for name in OPERANDS}


def weight_table(weights: Mapping[str, tuple[Any, bool]]) -> dict[str, NDArray[Any]]:
    """Columns of `Trace.weights`, from name -> (tensor, is a parameter)."""
    tensors = [tensor for tensor, _ in weights.values()]
    values: dict[str, list[Any]] = {
        "name": list(weights),
        "kind": ["parameter" if parameter else "buffer" for _, parameter in weights.values()],
        "format": [str(tensor.dtype).removeprefix("torch.") for tensor in tensors],
        "shape": ["x".join(map(str, tensor.shape)) for tensor in tensors],
        "elements": [tensor.numel() for tensor in tensors],
        "bytes": [tensor.numel() * tensor.element_size() for tensor in tensors],
    }
    return {name: _column(name, values[name]) for name in WEIGHTS}


def parts(rows: Sequence["Row"]) -> list[str]:
    """What each operator is part of: "fc", "attention", "linear_attention" or "other".

    A product with a weight, or with what is made of weights alone, is "fc".  Two products of activations, the
    second fed by the first with nothing but elementwise operators between, are attention if a softmax lies
    between them and linear attention if not.
    """
    found = ["other"] * len(rows)
    for index, row in enumerate(rows):
        if row.kind == "sdpa":
            found[index] = "attention"
        elif row.kind in GEMM_KINDS and any(one.constant for one in _inputs(row)[factors(row.op)]):
            found[index] = "fc"
    for path in _chains(
        rows, [kind == "other" and row.kind in GEMM_KINDS for kind, row in zip(found, rows, strict=True)]
    ):
        part = "attention" if any(rows[index].kind == "softmax" for index in path) else "linear_attention"
        for index in path:
            found[index] = part
    return found


def _inputs(row: "Row") -> list["Operand"]:
    return [one for one in row.operands if not one.output]


def _chains(rows: Sequence["Row"], products: Sequence[bool]) -> Iterator[list[int]]:
    """Rows from one product of activations to the next that it feeds."""
    for end in (index for index, product in enumerate(products) if product):
        reached: dict[int, None] = {}
        border = [end]
        for _ in range(_REACH):
            border = [source for index in border for source in _sources(rows[index]) if source not in reached]
            border = [index for index in dict.fromkeys(border) if products[index] or rows[index].kind not in GEMM_KINDS]
            reached |= dict.fromkeys(border)
            if not border or any(products[index] for index in border):
                break
        starts = [index for index in reached if products[index]]
        if starts:
            yield [*starts, *_between(rows, starts[0], end), end]


def _sources(row: "Row") -> set[int]:
    return {one.producer for one in _inputs(row) if one.producer >= 0}


def _between(rows: Sequence["Row"], start: int, end: int) -> list[int]:
    """Rows on a way from `start` to `end`."""
    fed = {start}
    for index in range(start + 1, end):
        if _sources(rows[index]) & fed:
            fed.add(index)
    feeding = {end}
    for index in range(end, start, -1):
        if index in feeding:
            feeding |= _sources(rows[index])
    return sorted((fed & feeding) - {start})
