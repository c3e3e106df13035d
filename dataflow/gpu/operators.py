"""The operators of an exported trace as numbers: which model each needs and with what sizes. No machine here.

    operators = read_operators(trace)      # once a trace: kept as long as the trace lives

An operator is a product (linear, bmm, convolution, attention), a kernel that moves bytes, or a view. What a scheme with
a cache of its own leaves without readers, the concatenation of an eager cache, counts as a view.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from dataflow.gpu.framework import GATHERS, Kernel, Tensor, eager_kernel
from dataflow.gpu.residency import UNKNOWN, Floats, Integers
from workloads.trace import Trace

PRODUCTS = ("linear", "bmm", "conv", "conv_1x1", "conv_depthwise", "conv_transposed", "sdpa")
VIEWS = ("view", "alloc")


@dataclass(frozen=True)
class Product:
    """A GEMM, convolution or attention; what equal ones share.

    model     "gemm", "simt", "conv", "depthwise", "grouped", "attention", "branch": a low-rank product that runs in a
              kernel of its neighbour
    format    of the numbers, as `accel.gpu.formats` or the KV cache of a scheme names it
    sizes     "gemm", "simt": (batch, m, n, k); "conv", "depthwise": (images, channels, out, side, kernel, stride);
              "grouped": (groups, m, n, k); "attention": (sequences, heads, kv_heads, queries, keys, head_size)
    flags     of convolutions: (channels last, bias); of attention: (causal,); of "simt": (may cut its sum,), or none
    branch    "up" or "down" of a low-rank branch of a scheme
    copied    elements of operands that the library wants in order, and that are copied first
    """

    model: str
    format: str
    sizes: tuple[int, ...]
    flags: tuple[bool, ...] = ()
    copied: int = 0
    branch: str = ""


@dataclass(frozen=True, eq=False)
class Operators:
    """Arrays and lists [operators], and those of their operands [operands] by operator.

    moving     of what is no product and no view
    tensor     what operands have in common that are one tensor: row of the operator that wrote it, a weight as
               -2 - its row, `UNKNOWN`
    """

    kinds: Sequence[str]
    modules: Sequence[str]
    products: Sequence[Product | None]
    moving: Sequence[Kernel | None]
    repeat: Floats
    flops: Floats
    operator: Integers
    tensor: Integers
    bytes: Floats
    written: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.kinds)

    def launches(self, row: int) -> bool:
        """Whether it is more than a view."""
        return self.products[row] is not None or self.moving[row] is not None


_READ: "WeakKeyDictionary[Trace, Operators]" = WeakKeyDictionary()


def read_operators(trace: Trace) -> Operators:
    """The operators of an exported trace. Raises ValueError where the trace has none, or no operands."""
    if trace not in _READ:
        if not trace.operators or "op" not in trace.operators or not trace.operands:
            raise ValueError(f"{trace.name}: the trace must hold operators with operands, as exported ones do")
        _READ[trace] = _read(trace)
    return _READ[trace]


def _read(trace: Trace) -> Operators:
    table, operands = trace.operators, trace.operands
    columns = {name: table[name].tolist() for name in ("kind", "op", "format", "module", "launches")}
    sizes = list(zip(*(table[name].tolist() for name in ("batch", "m", "n", "k")), strict=True))
    tensors = _tensors(operands)
    order = np.argsort(operands["operator"], kind="stable")
    edges = np.searchsorted(operands["operator"][order], np.arange(len(sizes) + 1)).tolist()
    places, written = order.tolist(), operands["output"].tolist()
    weights, held = operands["weight"].tolist(), operands["bytes"].tolist()
    products: list[Product | None] = []
    moving: list[Kernel | None] = []
    replaced = _replaced(trace)
    unmasked = (table["flops_unmasked"] < table["flops"]).tolist()
    for row, kind in enumerate(columns["kind"]):
        mine = places[edges[row] : edges[row + 1]]
        inputs = tuple(tensors[place] for place in mine if not written[place])
        outputs = tuple(tensors[place] for place in mine if written[place])
        op, format_ = columns["op"][row], columns["format"][row]
        view = kind in VIEWS or not columns["launches"][row] or row in replaced
        is_product = kind in PRODUCTS and not view
        if is_product and format_.startswith("w4a8"):
            format_ = _scaled(format_, sum(held[place] for place in mine if weights[place] >= 0), sizes[row])
        products.append(_product(kind, op, format_, inputs, outputs, sizes[row], unmasked[row]) if is_product else None)
        moving.append(None if view or is_product else _moving(kind, op, inputs, outputs))
    used = np.array([one is not None or other is not None for one, other in zip(products, moving, strict=True)])
    kept = order[used[operands["operator"][order]]]
    return Operators(
        kinds=columns["kind"],
        modules=columns["module"],
        products=products,
        moving=moving,
        repeat=table["repeat"].astype(float),
        flops=table["flops"].astype(float),
        operator=operands["operator"][kept].astype(np.int64),
        tensor=_identity(operands)[kept],
        bytes=_touched(trace)[kept],
        written=operands["output"][kept].astype(bool),
    )


def _replaced(trace: Trace) -> set[int]:
    """Concatenations of a cache that a scheme holds otherwise: nobody reads them but the write of the new token."""
    operands, op = trace.operands, trace.operators["op"]
    reads = (operands["output"] == 0) & (operands["producer"] >= 0)
    writes = op[operands["operator"][reads]] == "scheme.cache_write"
    source = operands["producer"][reads]
    others = set(source[~writes].tolist())
    return {row for row in set(source[writes].tolist()) - others if trace.operators["kind"][row] == "cat"}


def _touched(trace: Trace) -> Floats:
    """Bytes of each operand; of a table that is looked up, no more than what comes out."""
    operands = trace.operands
    size, row = operands["bytes"].astype(float), operands["operator"]
    gathers = np.isin(trace.operators["kind"], GATHERS)[row]
    out = trace.operators["write_bytes"].astype(float)[row]
    return np.where(gathers & (operands["output"] == 0), np.minimum(size, out), size)


def _identity(operands: Mapping[str, NDArray[Any]]) -> Integers:
    producer, weight = operands["producer"].astype(np.int64), operands["weight"].astype(np.int64)
    read = np.where(weight >= 0, -2 - weight, np.where(producer >= 0, producer, UNKNOWN))
    return np.where(operands["output"] > 0, operands["operator"], read)


def _tensors(operands: Mapping[str, NDArray[Any]]) -> list[Tensor]:
    texts = (operands[name].tolist() for name in ("shape", "strides", "format"))
    return [_tensor(*text) for text in zip(*texts, strict=True)]


@lru_cache(maxsize=4096)
def _tensor(shape: str, strides: str, format_: str) -> Tensor:
    sizes, steps = (tuple(int(word) for word in text.split("x")) if text else () for text in (shape, strides))
    return Tensor(sizes, steps if len(steps) == len(sizes) else packed(sizes), format_)


def packed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a tensor that lies in order."""
    steps = [1]
    for size in reversed(shape[1:]):
        steps.insert(0, steps[0] * size)
    return tuple(steps[: len(shape)])


Tensors = tuple[Tensor, ...]


@lru_cache(maxsize=4096)
def _moving(kind: str, op: str, inputs: Tensors, outputs: Tensors) -> Kernel:
    return eager_kernel(kind, op, inputs, outputs)


@lru_cache(maxsize=4096)
def _product(
    kind: str, op: str, format_: str, inputs: Tensors, outputs: Tensors, sizes: tuple[int, ...], causal: bool
) -> Product:
    if kind == "sdpa":
        return _attention(format_, inputs, causal)
    if kind.startswith("conv") and not format_.startswith(("int8", "w")) and len(inputs[0].shape) == 4:
        return _convolution(kind, format_, inputs, outputs, sizes)
    number = gemm_format(format_, inputs, sizes)
    if op.startswith("scheme.low_rank_"):
        return Product("gemm", number, sizes, branch=op.rpartition("_")[2])
    copied = sum(one.elements for one in inputs if kind == "bmm" and not _one_batch(one))
    return Product("simt" if number == "fp32" else "gemm", number, sizes, copied=copied)


def _one_batch(tensor: Tensor) -> bool:
    """Whether the dimensions before the last two are one, as far as strides go."""
    pairs = [pair for pair in zip(tensor.shape[:-2], tensor.strides[:-2], strict=True) if pair[0] > 1]
    return all(outer[1] == inner[0] * inner[1] for outer, inner in pairwise(pairs))


def gemm_format(format_: str, inputs: Tensors, sizes: tuple[int, ...]) -> str:
    """The format of `accel.gpu.formats` for the formats of two operands: x and W come first, then scales and bias."""
    found = {one.format for one in inputs}
    if format_ in ("float32", "float64"):
        return "fp32"
    if found & {"e2m1"}:
        return "w4a4_nvfp4"
    if found & {"int4", "uint4", "nf4"}:
        return _four_bits(format_, found)
    if "e4m3" in found:
        return "fp8"
    if "int8" in found:
        return "w8a8"
    return "fp16" if "float16" in found else "bf16"


def _scaled(format_: str, size: int, sizes: tuple[int, ...]) -> str:
    """W4A8 with scales of groups beside those of channels, by the bytes of its weights."""
    _, _, n, k = sizes
    return "w4a8_group" if size > n * k // 2 + 8 * n else format_


def _four_bits(format_: str, found: set[str]) -> str:
    if "int8" in found:
        return "w4a8_group" if format_ == "w4a8_group" else "w4a8"
    if "nf4" in found:
        return "nf4"
    return "w4a16" if found & {"float16", "bfloat16"} and not format_.startswith("w4a4") else "w4a4_int4"


def _attention(format_: str, inputs: Tensors, causal: bool) -> Product:
    query, key = inputs[0], inputs[1]
    *lead, heads, queries, size = query.shape if len(query.shape) > 2 else (1, 1, *query.shape)
    sequences = 1
    for one in lead:
        sequences *= one
    kv_heads = key.shape[-3] if len(key.shape) > 2 else 1
    return Product("attention", format_, (sequences, heads, kv_heads, queries, key.shape[-2], size), (causal,))


def _convolution(kind: str, format_: str, inputs: Tensors, outputs: Tensors, sizes: tuple[int, ...]) -> Product:
    x, weight = inputs[0], inputs[1]
    images, channels, height, width = x.shape
    last = x.strides[1] == 1 and channels > 1
    flags = (last, len(inputs) > 2)
    if kind == "conv_1x1" and sizes[0] > 1:
        return Product("grouped", format_, sizes, flags)
    if kind == "conv_transposed" or (kind == "conv" and sizes[0] > 1):
        return Product("gemm", "fp16" if format_ == "float16" else "bf16", sizes)
    side = round((height * width) ** 0.5)
    stride = max(1, round(height / outputs[0].shape[-2]))
    shape = (images, channels, outputs[0].shape[1], side, weight.shape[-1], stride)
    return Product("depthwise" if kind == "conv_depthwise" else "conv", format_, shape, flags)
