"""W8A8: INT8 weights with a scale per output channel times INT8 activations with a scale per token.

    acc = sum over k of x8 * w8, exact in int32
    r   = rn(rn(s[n] * a[m]) * rn(acc))         float32; an int32 above 2^24 is rounded when it becomes one
    y   = round16(r), then round16(y + bias[n]) if there is a bias: a separate 16-bit addition

The order is the one that omniserve 02b2925 has on sm_90, compiled with CUDA 13.0: the scales are multiplied first. It
is built with fast math, so float32 subnormals are flushed, as operands (s, a) and as results (of each multiplication);
with float16 nothing there is that small, with bfloat16 (ours: the original has float16 only) it can be. The bias is
added by code without flushing. A float32 result within half a unit below 2^-126 counts as 2^-126.
Overflow becomes infinite; infinite and NaN scales are refused.
"""

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from accel.arithmetic import check_form, flush, to_form
from gpu_kernels.activations.model import Tokens, check_tokens, quantize
from gpu_kernels.operands import State, activations_of, bias_of, check_names, codes_of, floats_of, matrix_shape

Floats = NDArray[np.float32]
Codes = NDArray[np.int8]
Sums = NDArray[np.int32]
ROWS = 64  # rows of the weights that stay in a core's cache while all tokens pass


@njit(cache=True, parallel=True)
def _integer_sums(x, w):  # type: ignore[no-untyped-def]
    (tokens, size), outputs = x.shape, len(w)
    sums = np.empty((tokens, outputs), np.int32)
    for block in prange((outputs + ROWS - 1) // ROWS):
        for m in range(tokens):
            for n in range(block * ROWS, min(outputs, (block + 1) * ROWS)):
                total = np.int32(0)
                for k in range(size):
                    total += np.int32(x[m, k]) * np.int32(w[n, k])
                sums[m, n] = total
    return sums


def integer_sums(x: Codes, w: Codes, largest: int = 128) -> Sums:
    """x w^T of int8 [M, K] and [N, K], |w| <= largest: int32 [M, N], exact for all codes.

    Raises ValueError where 128 * largest * K no longer fits into int32: from K = 131072 on for 8-bit weights.
    """
    size, limit = x.shape[1], (2**31 - 1) // (128 * largest)
    assert w.shape[1] == size
    if size > limit:
        raise ValueError(f"integer sums: K must be at most {limit}, so that int32 holds any sum, got {size}")
    found: Sums = _integer_sums(np.ascontiguousarray(x), np.ascontiguousarray(w))
    return found


@njit(cache=True)
def product(a, b):  # type: ignore[no-untyped-def]
    """a * b of float32, rounded; subnormals flushed before and after."""
    return flush(np.float32(flush(a) * flush(b)))


@njit(cache=True, parallel=True)
def _scaled(sums, scale, token_scale, bias, half):  # type: ignore[no-untyped-def]
    y = np.empty(sums.shape, np.float32)
    for m in prange(len(sums)):
        for n in range(len(scale)):
            r = product(product(scale[n], token_scale[m]), np.float32(sums[m, n]))
            y[m, n] = to_form(r, half)
        for n in range(len(bias)):
            y[m, n] = to_form(np.float32(y[m, n] + bias[n]), half)
    return y


def scaled(sums: Sums, scale: Floats, token_scale: Floats, bias: Floats, form: str) -> Floats:
    """The epilogue on sums [M, N]: scale [N], token_scale [M], bias [N] or [0]; y float32 [M, N] on the grid."""
    found: Floats = _scaled(sums, scale, token_scale, bias, form == "float16")
    return found


def gemm(tokens: Tokens, codes: Any, scale: Any, bias: Any = None, form: str = "float16") -> Floats:
    """y float32 [M, N] on the grid of `form`, of tokens (M, K), codes [N, K] in -128..127, scale [N] and bias [N].

    Raises ValueError for operands of other shapes, ranges or grids, and for K above 131071.
    """
    check_form(form)
    outputs, size = matrix_shape("w8a8: codes", codes)
    check_tokens("w8a8", tokens, size)
    w = codes_of("w8a8: codes", codes, (outputs, size), -128, 127)
    s = floats_of("w8a8: scale", scale, (outputs,), form)
    b = bias_of("w8a8: bias", bias, outputs, form)
    return scaled(integer_sums(tokens.codes, w), s, tokens.scale, b, form)


def linear(x: Any, state: State, form: str = "float16") -> Floats:
    """x W^T + bias, float32 [M, N], of x [M, K], rounded to `form`; tensors `codes`, `scale` and perhaps `bias`.

    The activations are quantized as `activations.model.quantize` does. Raises ValueError as `gemm` and `quantize` do,
    and for missing or unknown tensors.
    """
    check_names("w8a8", state, ("codes", "scale"))
    values = activations_of("w8a8", x, matrix_shape("w8a8: codes", state["codes"])[1], form)
    return gemm(quantize(values, form), state["codes"], state["scale"], state.get("bias"), form)
