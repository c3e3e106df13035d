"""W4A16: weights of 4 bits made 16-bit numbers, then a product of 16-bit tensor cores with float32 sums.

Weights (sources and what is left out: the README of this folder):

    integer zero   w = round16((q - z) s)      q - z is exact           AWQ, Marlin
    real zero      w = fma16(q, s, zero)       one rounding             Nunchaku's AWQ kernels
    NF4            w = round16(round32(value absmax))                   bitsandbytes

Then y = round16(x w^T) with K upwards by the rule of the tensor core; y = round16(y + bias); with a low-rank branch
h = round16(x down^T), y = round16(y + h up^T), that sum started from y in the tensor core's accumulator. `gemv` is
Nunchaku's kernel for up to 8 tokens, without a tensor core. 16-bit numbers are float32 arrays on the grid of `form`.
"""

from typing import Any

import numpy as np
from numba import njit, prange

from accel.arithmetic import (
    Floats,
    check_form,
    fma_bfloat16,
    fma_float16,
    round_to,
    to_form,
)
from accel.formats import number
from accel.tensor_core import matmul, rule
from gpu_kernels.operands import State, activations_of, bias_of, check_names, codes_of, floats_of, matrix_shape

ARCHITECTURE = "sm_90"
NF4_BLOCK = 64
GEMV_GROUP = 64
GEMV_TOKENS = 8
_WARPS, _STEP = 8, 2048  # of a thread block of `gemv`; inputs that it takes at once


@njit(cache=True, parallel=True)
def _group_weights(codes, scale, zero, real, half):  # type: ignore[no-untyped-def]
    """fma(q, s, zero), or (q - zero) s: a product of 5 and 11 bits, exact in float32 before its rounding."""
    weights = np.empty(codes.shape, np.float32)
    group = codes.shape[1] // scale.shape[1]
    for n in prange(len(codes)):
        for k in range(codes.shape[1]):
            q, s, z = np.float32(codes[n, k]), scale[n, k // group], zero[n, k // group]
            if real:
                weights[n, k] = fma_float16(q, s, z) if half else fma_bfloat16(q, s, z)
            else:
                weights[n, k] = to_form(np.float32(q - z) * s, half)
    return weights


def group_weights(codes: Any, scale: Any, zero: Any, form: str = "float16") -> Floats:
    """w float32 [N, K] on the grid; codes 0..15 [N, K], scale [N, G] with G a divisor of K, zero [N, G].

    zero uint8 0..15 is an integer, subtracted from the code; a float is real: what a code of 0 stands for.
    Raises ValueError for operands of other shapes, ranges or grids.
    """
    check_form(form)
    outputs, size = matrix_shape("w4a16: codes", codes)
    groups = matrix_shape("w4a16: scale", scale)[1]
    if groups == 0 or size % groups:
        raise ValueError(f"w4a16: K must be a multiple of the number of groups, got K = {size}, groups = {groups}")
    q = codes_of("w4a16: codes", codes, (outputs, size), 0, 15)
    s = floats_of("w4a16: scale", scale, (outputs, groups), form)
    real = np.asarray(zero).dtype.kind == "f"
    given = zero if real else codes_of("w4a16: zero", zero, s.shape, 0, 15)
    found: Floats = _group_weights(q, s, floats_of("w4a16: zero", given, s.shape, form), real, form == "float16")
    return found


def nf4_weights(codes: Any, absmax: Any, form: str = "float16") -> Floats:
    """w float32 [N, K] on the grid; codes 0..15 [N, K], absmax float32 [N K / 64] over blocks in memory order.

    Raises ValueError for other shapes and ranges, and for an absmax that is negative or not finite.
    """
    q = codes_of("nf4: codes", codes, matrix_shape("nf4: codes", codes), 0, 15)
    scale = np.asarray(absmax)
    if q.size % NF4_BLOCK or scale.shape != (q.size // NF4_BLOCK,):
        raise ValueError(f"nf4: absmax must have shape ({q.size / NF4_BLOCK:g},), got {scale.shape}")
    if scale.dtype.kind not in "fiu":
        raise ValueError(f"nf4: absmax must be numbers, got {scale.dtype}")
    scale = scale.astype(np.float32)
    off = scale[~(np.isfinite(scale) & (scale >= 0))]
    if len(off):
        raise ValueError(f"nf4: absmax must be finite and not negative, got {off[0]}")
    values = number("nf4").values[q].reshape(-1, NF4_BLOCK) * scale[:, None]
    return round_to(values, form).reshape(q.shape)


def gemm(x: Any, weights: Floats, bias: Any = None, form: str = "float16", architecture: str = ARCHITECTURE) -> Floats:
    """y float32 [M, N] = x w^T + bias on the grid of `form`; x [M, K], weights [N, K], bias [N] on it too."""
    values = floats_of("w4a16: x", x, (matrix_shape("w4a16: x", x)[0], weights.shape[1]), form)
    b = bias_of("w4a16: bias", bias, len(weights), form)
    return _biased(round_to(matmul(values, weights, None, rule(architecture, form)), form), b, form)


def _biased(y: Floats, bias: Floats, form: str) -> Floats:
    return round_to(y.astype(np.float64) + bias, form) if len(bias) else y


def add_branch(
    y: Floats, x: Any, down: Any, up: Any, form: str = "float16", architecture: str = ARCHITECTURE
) -> Floats:
    """y [M, N] plus (x down^T) up^T; down [r, K], up [N, r]; both products on the tensor core, both results 16-bit."""
    rank, how = matrix_shape("w4a16: down", down)[0], rule(architecture, form)
    a = floats_of("w4a16: down", down, (rank, np.shape(x)[1]), form)
    b = floats_of("w4a16: up", up, (y.shape[1], rank), form)
    return round_to(matmul(round_to(matmul(x, a, None, how), form), b, y, how), form) if rank else y


def linear(x: Any, state: State, form: str = "float16", architecture: str = ARCHITECTURE) -> Floats:
    """x W^T + bias, float32 [M, N], of x [M, K], rounded to `form`; NF4 if the state has an `absmax`.

    Tensors: codes, scale, zero, perhaps down and up; or codes, absmax; each perhaps with a bias. Raises ValueError for
    missing or unknown tensors, and as the functions above.
    """
    if "absmax" in state:
        check_names("nf4", state, ("codes", "absmax"))
        values = activations_of("nf4", x, matrix_shape("nf4: codes", state["codes"])[1], form)
        return gemm(values, nf4_weights(state["codes"], state["absmax"], form), state.get("bias"), form, architecture)
    check_names("w4a16", state, ("codes", "scale", "zero"), ("bias", "down", "up"))
    if (state.get("down") is None) != (state.get("up") is None):
        raise ValueError("w4a16: down and up come together or not at all")
    values = activations_of("w4a16", x, matrix_shape("w4a16: codes", state["codes"])[1], form)
    weights = group_weights(state["codes"], state["scale"], state["zero"], form)
    y = gemm(values, weights, state.get("bias"), form, architecture)
    if state.get("down") is None:
        return y
    return add_branch(y, values, state["down"], state["up"], form, architecture)


@njit(cache=True)
def _thread_sum(x, w, first, half):  # type: ignore[no-untyped-def]
    """One thread of `gemv`: 32 inputs from `first` on, again each 2048; products of 16 bits, sums in float32."""
    total = np.float32(0)
    for start in range(first, len(x), _STEP):
        for k in range(start, start + 32):
            total = np.float32(total + to_form(np.float32(w[k] * x[k]), half))
    return total


@njit(cache=True)
def _warp_sum(x, w, first, half):  # type: ignore[no-untyped-def]
    """Eight threads, 256 inputs: shuffles by 16, 8 and 1 lanes add those 128, 64 and then 32 inputs apart."""
    t = np.empty(8, np.float32)
    for i in range(8):
        t[i] = _thread_sum(x, w, first + 32 * i, half)
    for distance in (4, 2, 1):
        for i in range(distance):
            t[i] = np.float32(t[i] + t[i + distance])
    return t[0]


@njit(cache=True, parallel=True)
def _gemv(x, w, half):  # type: ignore[no-untyped-def]
    y = np.empty((len(x), len(w)), np.float32)
    for n in prange(len(w)):
        for m in range(len(x)):
            total = np.float32(0)
            for warp in range(_WARPS):
                total = np.float32(total + _warp_sum(x[m], w[n], warp * 256, half))
            y[m, n] = to_form(total, half)
    return y


def gemv(x: Any, state: State, form: str = "float16") -> Floats:
    """x W^T + bias, float32 [M, N], as Nunchaku's kernel for few tokens adds it: without a tensor core.

    x [M, K], rounded to `form`, M at most 8, K a multiple of 64; state as of `linear` with groups of 64, no branch.
    Each product is rounded to 16 bits. Raises ValueError for other shapes.
    """
    check_names("w4a16", state, ("codes", "scale", "zero"))
    weights = group_weights(state["codes"], state["scale"], state["zero"], form)
    values = activations_of("w4a16", x, weights.shape[1], form)
    size, groups = weights.shape[1], np.shape(state["scale"])[1]
    if len(values) > GEMV_TOKENS or size != groups * GEMV_GROUP:
        rule_ = f"gemv: takes at most {GEMV_TOKENS} tokens and groups of {GEMV_GROUP}"
        raise ValueError(f"{rule_}, got {len(values)} tokens, K = {size} in {groups} groups")
    b = bias_of("w4a16: bias", state.get("bias"), len(weights), form)
    return _biased(_gemv(values, weights, form == "float16"), b, form)
