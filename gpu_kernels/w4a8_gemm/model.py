"""W4A8: 4-bit weights times INT8 activations, as QServe's two kernels compute it (omniserve 02b2925).

Per group (progressive, groups of 128 along K): the 8-bit weight of a code q is made four at a time in a 32-bit word,

    word = (q0 | q1 << 8 | q2 << 16 | q3 << 24) * s1 mod 2^32,   each byte + (-z * s1) mod 256, read as int8

for four neighbours along K. Within the protective range (level-0 weights in -119..119) that is (q - z) * s1. Outside
of it a byte wraps, and a product above 255 carries into the next weight: both happen here too. Then as W8A8:
acc = sum x8 * w8, r = rn(rn(s0 * a) * rn(acc)).

Per channel: acc = sum x8 * q, and the zero point is taken in the epilogue, with the sum t of the unquantized inputs:

    p1 = rn(s * rn(acc)),   p2 = rn(sz * t),   r = fma(a, p1, -p2),   sz = round16(z * s) made beforehand

in float32, y = round16(r); a bias is a separate 16-bit addition. Which product is contracted is the compiler's choice;
this is the order on sm_90 with CUDA 13.0. Flushing, bfloat16 and overflow: see `w8a8_gemm.model`; the operands a, s,
sz, t of the per-channel epilogue and each of its three results are flushed.
"""

from typing import Any

import numpy as np
from numba import njit, prange

from accel.arithmetic import check_form, flush, fma, round_to, to_form
from gpu_kernels.activations.model import Tokens, check_tokens, quantize
from gpu_kernels.operands import State, activations_of, bias_of, check_names, codes_of, floats_of, matrix_shape
from gpu_kernels.w8a8_gemm.model import Codes, Floats, Sums, integer_sums, product, scaled

GROUP = 128
GROUP_STATE = ("codes", "group_scale", "group_zero", "scale")
CHANNEL_STATE = ("codes", "scale", "zero")
_HIGH = np.uint32(0x80808080)  # the top bits of four bytes


@njit(cache=True, parallel=True)
def _group_weights(words, group_scale, group_zero):  # type: ignore[no-untyped-def]
    """Four codes a word, uint32 [N, K / 4], to four weights a word."""
    (outputs, groups), per_group = group_scale.shape, GROUP // 4
    weights = np.empty(words.shape, np.uint32)
    for n in prange(outputs):
        for g in range(groups):
            scale = np.uint32(group_scale[n, g])
            entry = np.uint32((-np.int32(group_zero[n, g]) * np.int32(group_scale[n, g])) & 255)
            zeros = np.uint32(entry * np.uint32(0x01010101))
            for i in range(g * per_group, (g + 1) * per_group):
                scaled = np.uint32(words[n, i] * scale)
                low = np.uint32((scaled & ~_HIGH) + (zeros & ~_HIGH))  # bytewise, no carry between bytes
                weights[n, i] = low ^ ((scaled ^ zeros) & _HIGH)
    return weights


def group_weights(codes: Any, group_scale: Any, group_zero: Any) -> Codes:
    """8-bit weights int8 [N, K] of codes [N, K] in 0..15 and group_scale, group_zero [N, K / 128].

    Raises ValueError for other shapes, a zero outside 0..15 and a scale outside 0..127 (the kernel's table is int8;
    the progressive recipe gives at most 16).
    """
    outputs, size = matrix_shape("w4a8_group: codes", codes)
    if size % GROUP:
        raise ValueError(f"w4a8_group: K must be a multiple of {GROUP}, got {size}")
    shape = (outputs, size // GROUP)
    q = codes_of("w4a8_group: codes", codes, (outputs, size), 0, 15)
    s = codes_of("w4a8_group: group_scale", group_scale, shape, 0, 127)
    z = codes_of("w4a8_group: group_zero", group_zero, shape, 0, 15)
    found: Codes = _group_weights(q.view(np.uint32), s, z).view(np.int8)
    return found


def group_gemm(
    tokens: Tokens, codes: Any, group_scale: Any, group_zero: Any, scale: Any, bias: Any = None, form: str = "float16"
) -> Floats:
    """y float32 [M, N] on the grid of `form`; codes [N, K], group_* [N, K / 128], scale and bias [N].

    Raises ValueError as `group_weights`, and for scales off the grid and K above 131071.
    """
    check_form(form)
    outputs, size = matrix_shape("w4a8_group: codes", codes)
    check_tokens("w4a8_group", tokens, size)
    w = group_weights(codes, group_scale, group_zero)
    s = floats_of("w4a8_group: scale", scale, (outputs,), form)
    b = bias_of("w4a8_group: bias", bias, outputs, form)
    return scaled(integer_sums(tokens.codes, w), s, tokens.scale, b, form)


@njit(cache=True, parallel=True)
def _shifted(sums, scale, scaled_zero, token_scale, token_sum, bias, half):  # type: ignore[no-untyped-def]
    y = np.empty(sums.shape, np.float32)
    for m in prange(len(sums)):
        a = flush(token_scale[m])
        for n in range(len(scale)):
            p1 = product(scale[n], np.float32(sums[m, n]))
            p2 = product(scaled_zero[n], token_sum[m])
            y[m, n] = to_form(flush(fma(a, p1, -p2)), half)
        for n in range(len(bias)):
            y[m, n] = to_form(np.float32(y[m, n] + bias[n]), half)
    return y


def shifted(sums: Sums, scale: Floats, scaled_zero: Floats, tokens: Tokens, bias: Floats, form: str) -> Floats:
    """The per-channel epilogue on sums [M, N]: scale, scaled_zero [N], bias [N] or [0]; y float32 [M, N]."""
    half = form == "float16"
    found: Floats = _shifted(sums, scale, scaled_zero, tokens.scale, tokens.sums, bias, half)
    return found


def channel_gemm(tokens: Tokens, codes: Any, scale: Any, zero: Any, bias: Any = None, form: str = "float16") -> Floats:
    """y float32 [M, N] on the grid of `form`; codes [N, K] in 0..15, scale, zero (0..255) and bias [N].

    Raises ValueError for operands of other shapes, ranges or grids, and for K above 1118481 (codes are at most 15).
    """
    check_form(form)
    outputs, size = matrix_shape("w4a8_channel: codes", codes)
    check_tokens("w4a8_channel", tokens, size)
    q = codes_of("w4a8_channel: codes", codes, (outputs, size), 0, 15)
    s = floats_of("w4a8_channel: scale", scale, (outputs,), form)
    z = np.asarray(zero)
    if z.dtype != np.uint8 or z.shape != (outputs,):
        raise ValueError(f"w4a8_channel: zero: must be uint8 of shape {(outputs,)}, got {z.dtype} of shape {z.shape}")
    b = bias_of("w4a8_channel: bias", bias, outputs, form)
    scaled_zero = round_to(z.astype(np.float64) * s, form)  # the product is exact in float64
    return shifted(integer_sums(tokens.codes, q, 15), s, scaled_zero, tokens, b, form)


def linear(x: Any, state: State, form: str = "float16") -> Floats:
    """x W^T + bias, float32 [M, N], of x [M, K], rounded to `form`; per group if the state has a `group_scale`.

    Tensors per group: codes, group_scale, group_zero, scale; per channel: codes, scale, zero; perhaps bias. Raises
    ValueError as the two GEMMs and `activations.model.quantize` do, and for missing or unknown tensors.
    """
    grouped = "group_scale" in state
    kind, names = ("w4a8_group", GROUP_STATE) if grouped else ("w4a8_channel", CHANNEL_STATE)
    check_names(kind, state, names)
    values = activations_of(kind, x, matrix_shape(f"{kind}: codes", state["codes"])[1], form)
    return (group_gemm if grouped else channel_gemm)(quantize(values, form), **state, form=form)
