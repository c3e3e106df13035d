"""Small exported-like traces for the tests of schemes, written by hand: no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from workloads.trace import OPERANDS, TABLES, TEXT_COLUMNS, WEIGHTS, Trace

SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Layer:
    """One operator with a weight: a linear layer [m, k] x [k, n], or attention over a cache of k tokens.

    reads    row of the operator whose result it reads; -1: an input of the model
    weight   module whose weight it uses; None: its own
    """

    module: str
    m: int
    n: int
    k: int
    bias: bool = True
    reads: int = -1
    kind: str = "linear"
    weight: str | None = None


def toy_trace(layers: Sequence[Layer], number: str = "bfloat16", extra: int = 0) -> Trace:
    """A trace of the layers in this order; `extra` elements of a norm's weight that nothing uses."""
    rows: dict[str, list[dict[str, Any]]] = {"operators": [], "operands": [], "weights": []}
    named: dict[str, int] = {}
    for layer in layers:
        if layer.weight is None:
            named[layer.module] = len(rows["weights"])
            shape = (layer.n, layer.k, 1, 1) if layer.kind == "conv_1x1" else (layer.n, layer.k)
            rows["weights"].append(_weight(f"{layer.module}.weight", shape, number))
            if layer.bias:
                rows["weights"].append(_weight(f"{layer.module}.bias", (layer.n,), number))
        weight = named[layer.weight or layer.module]
        rows["operands"] += _operands(len(rows["operators"]), layer, rows["weights"], weight, number)
        rows["operators"].append(_operator(layer, rows["operands"], number, len(rows["operators"])))
    if extra:
        rows["weights"].append(_weight("norm.weight", (extra,), number))
    names = {"operators": TABLES["operators"], "operands": OPERANDS, "weights": WEIGHTS}
    tables = {
        name: {c: np.array([r[c] for r in rows[name]], str if c in TEXT_COLUMNS else np.int64) for c in columns}
        for name, columns in names.items()
    }
    return Trace("toy", {"name": "toy"}, {"kind": "exported"}, **tables)


def attention_trace(queries: int, keys: int) -> Trace:
    """One layer of a decoder, 4 heads, 2 kv heads of size 8: gate_proj, k_proj, and attention over `keys` tokens."""
    layers = [Layer("m.layers.0.mlp.gate_proj", queries, 64, 32), Layer("m.layers.0.self_attn.k_proj", queries, 16, 32)]
    trace = toy_trace([*layers, Layer("m.layers.0.self_attn", queries, keys, 8, kind="sdpa")])
    chosen = np.asarray(trace.operands["operator"]) != 2
    operands = {name: list(np.asarray(values)[chosen]) for name, values in trace.operands.items()}
    shapes = [(1, 4, queries, 8), (1, 2, keys, 8), (1, 2, keys, 8), (1, 4, queries, 8)]
    for index, shape in enumerate(shapes):
        row = _operand(2, shape, "bfloat16", output=int(index == 3), producer=1 if index in (1, 2) else -1)
        for name, value in row.items():
            operands[name].append(value)
    as_arrays = {n: np.array(v, str if n in TEXT_COLUMNS else np.int64) for n, v in operands.items()}
    moved = {"read_bytes": sum(2 * prod(shape) for shape in shapes[:3]), "write_bytes": 2 * prod(shapes[3])}
    operators = {name: np.array(values) for name, values in trace.operators.items()}
    for name, value in moved.items():
        operators[name][2] = value
    keep = ["self_attn.weight" not in n and "self_attn.bias" not in n for n in trace.weights["name"]]
    weights = {name: np.asarray(values)[keep] for name, values in trace.weights.items()}
    return Trace("toy", trace.model, trace.made, operators, operands=as_arrays, weights=weights)


def _weight(name: str, shape: tuple[int, ...], number: str) -> dict[str, Any]:
    size = prod(shape)
    text = "x".join(map(str, shape))
    row = {"name": name, "kind": "parameter", "format": number, "shape": text, "elements": size}
    return {**row, "bytes": size * SIZES[number]}


def _operand(operator: int, shape: tuple[int, ...], number: str, **values: int) -> dict[str, Any]:
    strides = "x".join(str(prod(shape[i + 1 :])) for i in range(len(shape)))
    row = {"operator": operator, "output": 0, "producer": -1, "weight": -1, "format": number, "strides": strides}
    return {**row, "shape": "x".join(map(str, shape)), "bytes": prod(shape) * SIZES[number], **values}


def _operands(row: int, layer: Layer, weights: list[dict[str, Any]], weight: int, number: str) -> list[dict[str, Any]]:
    x = (1, layer.k, layer.m, 1) if layer.kind == "conv_1x1" else (layer.m, layer.k)
    y = (1, layer.n, layer.m, 1) if layer.kind == "conv_1x1" else (layer.m, layer.n)
    shape = tuple(int(size) for size in weights[weight]["shape"].split("x"))
    found = [_operand(row, x, number, producer=layer.reads), _operand(row, shape, number, weight=weight)]
    if layer.bias and layer.weight is None:
        found.append(_operand(row, (layer.n,), number, weight=weight + 1))
    return [*found, _operand(row, y, number, output=1)]


def _operator(layer: Layer, operands: list[dict[str, Any]], number: str, row: int) -> dict[str, Any]:
    mine = [operand for operand in operands if operand["operator"] == row]
    moved = [sum(o["bytes"] for o in mine if o["output"] == side) for side in (0, 1)]
    flops = 2 * layer.m * layer.n * layer.k
    text = {"kind": layer.kind, "part": "fc", "format": number, "op": "aten.linear.default", "module": layer.module}
    place = {"sequence": 0, "step": 0, "layer": 0, "repeat": 1, "launches": 1, "batch": 1}
    sizes = {"m": layer.m, "n": layer.n, "k": layer.k, "flops": flops, "flops_unmasked": flops}
    return {**text, **place, **sizes, "read_bytes": moved[0], "write_bytes": moved[1]}
