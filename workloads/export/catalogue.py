"""What each PyTorch operator is: its kind, its GEMM sizes and its operations. Shapes in, no torch here.

Operators are named by package and name ("aten.linear"), without the overload.  One that is composite and not
listed is decomposed until its pieces are; one that is neither listed, nor pointwise by PyTorch's own tag, nor
composite is recorded as "unknown", with its name.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

Shape = tuple[int, ...]

# operations an element; assumed: such kernels are bound by memory, their count does not matter
PER_SOFTMAX, PER_NORM, PER_GELU = 5, 8, 8
PER_ELEMENT = {"gelu": PER_GELU, "silu": 4, "sigmoid": 3, "tanh": 6, "softplus": 4, "mish": 8, "glu": 4}


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


def _sdpa(call: Call) -> Gemm:
    """softmax(Q K^T) V of query [..., heads, m, k], key [..., n, k], value [..., n, v]; n and batch are the query's."""
    query, key, value = (_shape(call, index) for index in range(3))
    batch, m, n = prod(query[:-2]), query[-2], key[-2]
    pair = 2 * (query[-1] + value[-1])
    causal = call.keywords.get("is_causal", call.arguments[5] if len(call.arguments) > 5 else False)
    return Gemm(
        "sdpa", batch, m, n, query[-1], batch * m * n * pair, batch * causal_pairs(m, n) * pair if causal else None
    )


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
    "aten.scaled_dot_product_attention": _sdpa,
}
GEMM_KINDS = ("linear", "bmm", "conv", "conv_1x1", "conv_depthwise", "conv_transposed", "sdpa")

# kind -> operators; those of the first group alias their input where they can, and then move nothing
ALIASING = ["alias", "chunk", "contiguous", "detach", "dropout", "expand", "expand_as", "flatten", "lift_fresh", "movedim", "moveaxis", "narrow", "numpy_T", "permute", "pin_memory", "reshape", "reshape_as", "resolve_conj", "resolve_neg", "select", "slice", "split", "split_with_sizes", "squeeze", "swapaxes", "swapdims", "t", "T", "mT", "H", "adjoint", "tensor_split", "to", "transpose", "type_as", "unbind", "unflatten", "unsafe_chunk", "unsafe_split", "unfold", "unsqueeze", "view", "view_as", "_reshape_alias", "_to_copy", "_unsafe_view", "feature_dropout", "alpha_dropout", "as_strided", "diagonal", "real", "imag", "float_"]
_KINDS = {
    "softmax": "softmax _softmax _safe_softmax log_softmax _log_softmax",
    "layernorm": "layer_norm native_layer_norm",
    "rmsnorm": "rms_norm _fused_rms_norm",
    "groupnorm": "group_norm native_group_norm instance_norm",
    "batchnorm": "batch_norm native_batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm",
    "norm": "linalg_vector_norm norm renorm",
    "embedding": "embedding embedding_bag _embedding_bag",
    "gather": "gather index index_select take take_along_dim one_hot",
    "scatter": "scatter scatter_add index_put index_add index_copy masked_scatter scatter_reduce",
    "copy": "clone copy copy_ repeat repeat_interleave tile roll flip rot90 pixel_shuffle pixel_unshuffle channel_shuffle "
    "expand_copy view_copy im2col col2im tril triu _local_scalar_dense item masked_select nonzero broadcast_to slice_scatter "
    "select_scatter",
    "cat": "cat stack hstack vstack concat",
    "pad": "constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d replication_pad3d",
    "resize": "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_bicubic2d "
    "_upsample_nearest_exact2d upsample_linear1d _upsample_bilinear2d_aa _upsample_bicubic2d_aa upsample_trilinear3d grid_sampler_2d",
    "pool": "avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool2d_with_indices adaptive_avg_pool1d "
    "adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d",
    "reduce": "sum mean amax amin max min prod all any argmax argmin var std var_mean std_mean logsumexp cumsum cumprod "
    "count_nonzero aminmax median nansum",
    "sort": "sort topk argsort unique _unique2 unique_consecutive searchsorted bucketize kthvalue bincount histc",
    "fill": "arange empty empty_like empty_strided eye fill full full_like linspace new_empty new_empty_strided new_full "
    "new_ones new_zeros ones ones_like scalar_tensor zero zeros zeros_like rand rand_like randn randn_like randint "
    "randperm bernoulli normal uniform tril_indices triu_indices",
    "quantize": "quantize_per_tensor quantize_per_channel quantize_per_tensor_dynamic fake_quantize_per_tensor_affine "
    "fake_quantize_per_channel_affine choose_qparams quantize_per_token",
    "dequantize": "dequantize dequantize_per_tensor dequantize_per_channel dequantize_per_token",
    "glu": "glu",
    "fft": "_fft_c2c _fft_r2c _fft_c2r",
    "complex": "view_as_complex view_as_real complex polar",
}
KINDS = {f"aten.{name}": kind for kind, names in _KINDS.items() for name in names.split()}
VIEWS = {f"aten.{name}" for name in ALIASING}
NOT_RECORDED = re.compile(
    r"prim\.|aten\.(_assert|sym_|is_|_has|_debug|_version|size|stride|numel|dim\b|equal\b|lift|_functional_sym|_nested_)"
)
_PER_KIND = {"softmax": PER_SOFTMAX, "layernorm": PER_NORM, "rmsnorm": PER_NORM, "groupnorm": PER_NORM}
_PER_KIND |= {"batchnorm": PER_NORM, "quantize": 4, "dequantize": 2, "norm": 2, "reduce": 1, "pool": 1, **PER_ELEMENT}
BY_INDEX = ("embedding", "gather")  # read as much of their first operand as they write
# in-place names end in an underscore, except these
_WITH_UNDERSCORE = re.compile(r"(?<!_)_$")


def base_name(operator: str) -> str:
    """ "aten.add_.Tensor" -> "aten.add": package and name, without overload and the mark of in-place forms."""
    package, _, rest = operator.partition(".")
    return f"{package}.{_WITH_UNDERSCORE.sub('', rest.partition('.')[0])}"


def operations(kind: str, elements: int) -> int:
    """Operations of an operator that is no product: elements of its largest tensor times those of its kind."""
    if kind in MOVES:
        return 0
    return elements * _PER_KIND.get(kind, 1)


MOVES = (
    *("view", "copy", "cast", "cat", "pad", "fill", "embedding", "gather", "scatter"),
    "resize",
    "complex",
    "unknown",
)
