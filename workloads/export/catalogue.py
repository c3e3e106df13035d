"""What each PyTorch operator is: its kind, its GEMM sizes and its operations. Shapes in, no torch here.

Operators are named by package and name ("aten.linear"), without the overload; `names.py` lists those that are no
products.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from workloads.export.names import base_name, in_place

Shape = tuple[int, ...]

# operations an element, 1 if not named; assumed: such kernels are bound by memory, their count does not matter
PER_ELEMENT = dict.fromkeys(("layernorm", "rmsnorm", "groupnorm", "batchnorm", "gelu", "mish"), 8)
PER_ELEMENT |= {"tanh": 6, "softmax": 5, "silu": 4, "softplus": 4, "glu": 4, "quantize": 4, "sigmoid": 3}
PER_ELEMENT |= {"dequantize": 2, "norm": 2}


@dataclass(frozen=True)
class Gemm:
    """Sizes of `batch` products [m, k] x [k, n]. `flops` is 2 x multiplications, as PyTorch's counter has it.

    unmasked   those of `flops` that no causal mask removes; None: all
    """

    kind: str
    batch: int
    m: int
    n: int
    k: int
    flops: int
    unmasked: int | None = None


@dataclass(frozen=True)
class Call:
    """A call of an operator: shapes of the tensors among its arguments (None for others) and of its first result."""

    arguments: Sequence[Any]
    keywords: dict[str, Any]
    shapes: Sequence[Shape | None]
    result: Shape


def _product(kind: str, batch: int, m: int, n: int, k: int) -> Gemm:
    return Gemm(kind, batch, m, n, k, 2 * batch * m * n * k)


def _shape(call: Call, index: int) -> Shape:
    shape = call.shapes[index] if index < len(call.shapes) else None
    if shape is None:
        raise ValueError(f"argument {index} must be a tensor")
    return shape


def _linear(call: Call) -> Gemm:
    x, weight = _shape(call, 0), _shape(call, 1)
    outputs = prod(weight[:-1])  # a weight of one dimension gives one output
    return _product("linear", 1, prod(x[:-1]), outputs, x[-1])


def _mm(first: int) -> Callable[[Call], Gemm]:
    """[m, k] x [k, n], whose left operand is argument `first`; a vector is a matrix of one column."""

    def gemm(call: Call) -> Gemm:
        (m, k), right = _shape(call, first), _shape(call, first + 1)
        return _product("linear", 1, m, right[1] if len(right) > 1 else 1, k)

    return gemm


def _bmm(first: int) -> Callable[[Call], Gemm]:
    def gemm(call: Call) -> Gemm:
        batch, m, k = _shape(call, first)
        return _product("bmm", batch, m, _shape(call, first + 1)[2], k)

    return gemm


def _matmul(call: Call) -> Gemm:
    left, right = _shape(call, 0), _shape(call, 1)
    if len(right) <= 2:
        return _product("linear", 1, prod(left[:-1]), right[1] if len(right) == 2 else 1, left[-1])
    m = left[-2] if len(left) > 1 else 1
    rows = m if len(left) > 1 else 1
    batch = prod(call.result) // (rows * right[-1]) if rows * right[-1] else 0
    return _product("bmm", batch, rows, right[-1], left[-1])


def _convolution(call: Call) -> Gemm:
    x, weight = _shape(call, 0), _shape(call, 1)
    transposed = bool(call.arguments[6]) if len(call.arguments) > 6 else False
    return _conv(x, weight, call.result, transposed)


def _conv_nd(call: Call) -> Gemm:
    return _conv(_shape(call, 0), _shape(call, 1), call.result, False)


def _conv_transposed(call: Call) -> Gemm:
    return _conv(_shape(call, 0), _shape(call, 1), call.result, True)


def _conv(x: Shape, weight: Shape, out: Shape, transposed: bool) -> Gemm:
    """A convolution as a product: pixels x outputs x (inputs and taps), one for each group."""
    dimensions = len(weight) - 2
    taps, images = prod(weight[2:]), x[0] if len(x) == dimensions + 2 else 1
    channels = x[-dimensions - 1]
    if transposed:  # the weight is [inputs, outputs of a group, taps]
        groups = out[-dimensions - 1] // weight[1]
        pixels = images * prod(x[-dimensions:])
        return _product("conv_transposed", groups, pixels, weight[1] * taps, weight[0] // groups)
    groups = channels // weight[1]
    kind = "conv_depthwise" if groups == channels > 1 else "conv_1x1" if taps == 1 else "conv"
    pixels = images * prod(out[-dimensions:])
    return _product(kind, groups, pixels, weight[0] // groups, weight[1] * taps)


def _by_result(call: Call) -> Gemm:
    """A layer whose weight is packed: outputs as many as the result has."""
    x = _shape(call, 0)
    return _product("linear", 1, prod(x[:-1]), call.result[-1], x[-1])


def _grouped_mm(call: Call) -> Gemm:
    """Rows of [m, k], each with the matrix of its group; or one product a group."""
    left, right = _shape(call, 0), _shape(call, 1)
    if len(left) == len(right) == 3:
        return _product("bmm", left[0], left[1], right[2], left[2])
    m, n = (left[-2] if len(left) == 2 else prod(left[:2])), right[-1]
    return _product("linear", 1, m, n, left[-1])


def _recurrent(call: Call) -> Gemm:
    """A recurrent layer in one operator: both weights [gates, inputs], [gates, hidden] for every step and sequence."""
    x, first, second = (_shape(call, index) for index in range(3))
    return _product("linear", 1, prod(x[:-1]), first[0], first[1] + second[1])


def _dot(call: Call) -> Gemm:
    return _product("linear", 1, 1, 1, prod(_shape(call, 0)))


def _attention(causal: int) -> Callable[[Call], Gemm]:
    """softmax(Q K^T) V of query [..., heads, m, k], key [..., n, k], value [..., n, v]; the batch is the result's.

    causal   which argument says whether the attention is
    """

    def gemm(call: Call) -> Gemm:
        query, key, value = (_shape(call, index) for index in range(3))
        batch, m, n = prod(call.result[:-2]), query[-2], key[-2]
        pair = 2 * (query[-1] + value[-1])
        given = call.arguments[causal] if len(call.arguments) > causal else False
        is_causal = call.keywords.get("is_causal", given)
        unmasked = batch * causal_pairs(m, n) * pair if is_causal else None
        return Gemm("sdpa", batch, m, n, query[-1], batch * m * n * pair, unmasked)

    return gemm


def causal_pairs(queries: int, keys: int) -> int:
    """Pairs under PyTorch's `is_causal`: query i sees keys 0..i (aligned at the upper left)."""
    square = min(queries, keys)
    return square * (square + 1) // 2 + (queries - square) * keys


GEMMS: dict[str, Callable[[Call], Gemm]] = {
    "aten.linear": _linear,
    "aten.mm": _mm(0),
    "aten.addmm": _mm(1),
    "aten._addmm_activation": _mm(1),
    "aten._int_mm": _mm(0),
    "aten._scaled_mm": _mm(0),
    "aten.mv": _mm(0),
    "aten.addmv": _mm(1),
    "aten.bmm": _bmm(0),
    "aten.baddbmm": _bmm(1),
    "aten.matmul": _matmul,
    "aten.convolution": _convolution,
    "aten._convolution": _convolution,
    "aten.conv1d": _conv_nd,
    "aten.conv2d": _conv_nd,
    "aten.conv3d": _conv_nd,
    "aten.conv_transpose1d": _conv_transposed,
    "aten.conv_transpose2d": _conv_transposed,
    "aten.conv_transpose3d": _conv_transposed,
    "aten.addbmm": _bmm(1),
    "aten.mkldnn_rnn_layer": _recurrent,
    "aten.dot": _dot,
    "aten.vdot": _dot,
    "aten._grouped_mm": _grouped_mm,
    "aten._scaled_grouped_mm": _grouped_mm,
    "aten._scaled_mm_v2": _mm(0),
    "aten._weight_int4pack_mm": _by_result,
    "aten._weight_int8pack_mm": _by_result,
    "quantized.linear": _by_result,
    "quantized.linear_dynamic": _by_result,
    "aten.scaled_dot_product_attention": _attention(5),
    "aten._scaled_dot_product_flash_attention": _attention(4),
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention(4),
    "aten._scaled_dot_product_efficient_attention": _attention(6),
    "aten._scaled_dot_product_cudnn_attention": _attention(6),
}
ADDED_FIRST = (
    "aten.addmm",
    "aten._addmm_activation",
    "aten.addmv",
    "aten.baddbmm",
    "aten.addbmm",
)  # before the factors
GEMM_KINDS = ("linear", "bmm", "conv", "conv_1x1", "conv_depthwise", "conv_transposed", "sdpa")

MOVES = (
    "view",
    "alloc",
    "copy",
    "cast",
    "cat",
    "pad",
    "fill",
    "embedding",
    "gather",
    "scatter",
    "resize",
    "complex",
    "unknown",
)
BY_INDEX = ("embedding", "gather")  # read as much of their first operand as they write


def operations(kind: str, elements: int) -> int:
    """Operations of an operator that is no product: elements of its largest tensor times those of its kind."""
    return 0 if kind in MOVES else elements * PER_ELEMENT.get(kind, 1)


def factors(operator: str) -> slice:
    """Which of a product's tensors are multiplied; the others are added."""
    first = int(base_name(operator) in ADDED_FIRST)
    return slice(first, first + 2)


def traffic(operator: str, kind: str, inputs: Sequence[int], outputs: Sequence[int]) -> tuple[int, int]:
    """Bytes read and written, from those behind the inputs and outputs: each operand once.

    A look-up reads the rows that it takes, a copy into a tensor does not read it, and a scatter into a tensor moves
    what it puts there (with a number in the place of a tensor: what its index holds).
    """
    writes = sum(outputs)
    if kind in ("view", "alloc"):
        return 0, 0
    if kind == "fill":
        return 0, writes
    if kind in BY_INDEX and inputs:
        return min(inputs[0], writes) + sum(inputs[1:]), writes
    if not in_place(operator) or len(inputs) < 2:
        return sum(inputs), writes
    if base_name(operator) == "aten.copy":
        return sum(inputs[1:]), writes
    if kind == "scatter":
        put = min(inputs[-1], writes)
        return sum(inputs[1:]) + (put if "add" in operator else 0), put
    return sum(inputs), writes
