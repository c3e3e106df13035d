"""SVDQuant's W4A4 layer, bit for bit: fused quantize + down-projection, 4-bit GEMM + up-projection.

Source: Nunchaku v1.1, gemm_w4a4.cuh, gemm_base.cuh, lora.cuh, gemm_utils.cuh. The README of this folder has the order
of all roundings and what is left undefined. 16-bit numbers are float32 arrays on the grid of `form`.
"""

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from accel.arithmetic import (
    Floats,
    check_form,
    flush,
    fma_bfloat16,
    fma_float16,
    to_bfloat16,
    to_float16,
    to_form,
)
from gpu_kernels.operands import State, activations_of, check_names, codes_of, floats_of, matrix_shape
from gpu_kernels.w4a4_gemm.low_rank import biased, branch, check_pair, down_projection, up_projection, written

REQUIRED, OPTIONAL = ("codes", "scale", "smooth"), ("down", "up", "bias", "shift")
GROUP = 64  # inputs that share a scale: the K of one mma.sync.m16n8k64
ARCHITECTURE = "sm_90"  # whose 16-bit tensor cores the low-rank branch runs on
_COLUMNS = 64  # outputs of one tile: 64 x 64 weights as float32 stay in the first cache
_ROWS = 256  # tokens of one tile, a multiple of the four that are added side by side
Codes = NDArray[np.int8]


@njit(cache=True, error_model="numpy")
def _quantize_group(x, smooth, shift, half, unsigned, codes):  # type: ignore[no-untyped-def]
    """Codes of one group of 64, and its scale as it is stored."""
    largest = np.float32(0)
    values = np.empty(len(x), np.float32)
    for k in range(len(x)):
        values[k] = to_form(to_form(x[k] + shift, half) / smooth[k], half)
        largest = max(largest, abs(values[k]))
    scale = largest * (np.float32(1) / np.float32(15) if unsigned else np.float32(1) / np.float32(7))
    reciprocal = np.float32(1) / flush(scale)
    low, high = (np.float32(0), np.float32(15)) if unsigned else (np.float32(-8), np.float32(7))
    for k in range(len(x)):
        scaled = values[k] * reciprocal
        code = np.rint(min(max(scaled, low), high))
        codes[k] = np.int8(0) if np.isnan(scaled) else np.int8(code)
    return to_form(scale, half)


@njit(cache=True, parallel=True)
def _quantize(x, smooth, shift, half, unsigned):  # type: ignore[no-untyped-def]
    rows, inputs = x.shape
    codes = np.empty((rows, inputs), np.int8)
    scales = np.empty((rows, inputs // GROUP), np.float32)
    for m in prange(rows):
        for g in range(inputs // GROUP):
            part = slice(g * GROUP, (g + 1) * GROUP)
            scales[m, g] = _quantize_group(x[m, part], smooth[part], shift, half, unsigned, codes[m, part])
    return codes, scales


@njit(cache=True, fastmath={"contract"})
def _dot(a, w0, w1, w2, w3):  # type: ignore[no-untyped-def]
    return a[0] * w0 + a[1] * w1 + a[2] * w2 + a[3] * w3


@njit(cache=True)
def _four(x, row, k):  # type: ignore[no-untyped-def]
    return x[row, k], x[row, k + 1], x[row, k + 2], x[row, k + 3]


@njit(cache=True, fastmath={"contract"})  # all sums are whole numbers below 2^24: exact in any order
def _sums(x, row, first, tile, sums):  # type: ignore[no-untyped-def]
    """sums [4, columns] = four rows of x, 64 inputs from `first` on, times tile [64, columns]."""
    sums[:] = 0
    for k in range(0, GROUP, 4):
        a, b = _four(x, row, first + k), _four(x, row + 1, first + k)
        c, d = _four(x, row + 2, first + k), _four(x, row + 3, first + k)
        for n in range(_COLUMNS):
            w0, w1, w2, w3 = tile[k, n], tile[k + 1, n], tile[k + 2, n], tile[k + 3, n]
            sums[0, n] += _dot(a, w0, w1, w2, w3)
            sums[1, n] += _dot(b, w0, w1, w2, w3)
            sums[2, n] += _dot(c, w0, w1, w2, w3)
            sums[3, n] += _dot(d, w0, w1, w2, w3)


@njit(cache=True)
def _pack(codes, scale, first, group, tile, scales):  # type: ignore[no-untyped-def]
    """Weights of one tile turned to [64, columns], and their scales; zeros past the last output."""
    for n in range(_COLUMNS):
        valid = first + n < len(codes)
        scales[n] = scale[first + n, group] if valid else np.float32(0)
        for k in range(GROUP):
            tile[k, n] = np.float32(codes[first + n, group * GROUP + k]) if valid else np.float32(0)


@njit(cache=True)
def _add_float16(sums, row, scale, scales, total, place):  # type: ignore[no-untyped-def]
    for n in range(_COLUMNS):
        factor = to_float16(scale * scales[n])
        total[place, n] = fma_float16(to_float16(sums[row, n]), factor, total[place, n])


@njit(cache=True)
def _add_bfloat16(sums, row, scale, scales, total, place):  # type: ignore[no-untyped-def]
    for n in range(_COLUMNS):
        factor = to_bfloat16(scale * scales[n])
        total[place, n] = fma_bfloat16(to_bfloat16(sums[row, n]), factor, total[place, n])


@njit(cache=True)
def _tile(x, x_scale, codes, scale, half, first_row, first_column, total):  # type: ignore[no-untyped-def]
    """total [rows, columns]: one tile of the product, groups of K upwards."""
    tile, sums = np.empty((GROUP, _COLUMNS), np.float32), np.empty((4, _COLUMNS), np.float32)
    scales = np.empty(_COLUMNS, np.float32)
    for group in range(scale.shape[1]):
        _pack(codes, scale, first_column, group, tile, scales)
        for row in range(0, len(total), 4):
            _sums(x, first_row + row, group * GROUP, tile, sums)
            for i in range(4):
                if half:
                    _add_float16(sums, i, x_scale[first_row + row + i, group], scales, total, row + i)
                else:
                    _add_bfloat16(sums, i, x_scale[first_row + row + i, group], scales, total, row + i)


@njit(cache=True, parallel=True)
def _product(x, x_scale, codes, scale, half):  # type: ignore[no-untyped-def]
    """x float32 [M, K] (M a multiple of 4) times codes int8 [N, K], in 16 bit."""
    rows, columns = len(x), len(codes)
    found = np.empty((rows, columns), np.float32)
    wide = (columns + _COLUMNS - 1) // _COLUMNS
    for job in prange(wide * ((rows + _ROWS - 1) // _ROWS)):
        row, column = job // wide * _ROWS, job % wide * _COLUMNS
        total = np.zeros((min(_ROWS, rows - row), _COLUMNS), np.float32)
        _tile(x, x_scale, codes, scale, half, row, column, total)
        last = min(_COLUMNS, columns - column)
        for i in range(len(total)):
            found[row + i, column : column + last] = total[i, :last]
    return found


def _shape(state: State) -> tuple[int, int]:
    """(N, K); ValueError where the names of the state, the group of 64 or the branch do not fit."""
    check_names("w4a4", state, REQUIRED, OPTIONAL)
    outputs, inputs = matrix_shape("w4a4: codes", state["codes"])
    if inputs % GROUP:
        raise ValueError(f"w4a4: inputs must be a multiple of {GROUP}, got {inputs}")
    check_pair("w4a4", state)
    return outputs, inputs


def _shift(state: State, form: str) -> np.float32:
    """What is added to the activations, from 0 on; ValueError for another number."""
    found = floats_of("w4a4: shift", state.get("shift", np.float32(0)), (), form)[()]
    if found < 0:
        raise ValueError(f"w4a4: shift must not be negative, got {found}")
    return np.float32(found)


def quantize(x: Any, state: State, form: str, architecture: str = ARCHITECTURE) -> tuple[Codes, Floats, Floats]:
    """The first kernel: codes int8 [M, K], their scales [M, K/64] in `form`, and lora_act float32 [M, r].

    x [M, K]: the raw input of the layer, rounded to `form`. The down-projection reads it as it is; the codes are of
    (x + shift) / smooth, -8..7, or 0..15 where the state has a shift (after GELU).
    Raises ValueError for another form, operands that do not fit or are not finite, and a zero in smooth.
    """
    check_form(form)
    inputs = _shape(state)[1]
    values = activations_of("w4a4", x, inputs, form)
    smooth = floats_of("w4a4: smooth", state["smooth"], (inputs,), form)
    if not smooth.all():
        raise ValueError(f"w4a4: smooth must not be 0, got 0 at input {int(np.argmin(smooth != 0))}")
    shift = _shift(state, form)
    codes, scales = _quantize(values, smooth, shift, form == "float16", bool(shift > 0))
    down = branch("w4a4: down", state.get("down"), (None, inputs), form)
    return codes, scales, down_projection(values, down, form, architecture)


def gemm(
    codes_x: Any,
    scale_x: Any,
    lora_act: Any,
    state: State,
    form: str,
    strengths: Any = None,
    architecture: str = ARCHITECTURE,
) -> Floats:
    """The second kernel: float32 [M, N] on the grid of `form`.

    codes_x int8 [M, K], scale_x [M, K/64], lora_act float32 [M, r]   as `quantize` gives them
    strengths: float32 [r/16] on lora_act (user adapters), None for 1.
    Raises ValueError for operands that do not fit: shapes, codes out of range, numbers off the grid of `form`.
    """
    check_form(form)
    outputs, inputs = _shape(state)
    rows, groups = matrix_shape("w4a4: codes of x", codes_x)[0], inputs // GROUP
    codes = codes_of("w4a4: codes", state["codes"], (outputs, inputs), -8, 7)
    scale = floats_of("w4a4: scale", state["scale"], (outputs, groups), form)
    left = codes_of("w4a4: codes of x", codes_x, (rows, inputs), -8, 15).astype(np.float32)
    left_scale = floats_of("w4a4: scale of x", scale_x, (rows, groups), form)
    fill = ((0, -rows % 4), (0, 0))
    y = _product(np.pad(left, fill), np.pad(left_scale, fill), codes, scale, form == "float16")[:rows]
    y = biased("w4a4: bias", y, state.get("bias"), form)
    up = branch("w4a4: up", state.get("up"), (outputs, None), form)
    return written(up_projection(y, lora_act, up, form, architecture, strengths), form)


def linear(x: Any, state: State, form: str = "float16", architecture: str = ARCHITECTURE) -> Floats:
    """The layer: x [M, K], rounded to `form`, through both kernels; float32 [M, N] on the grid of `form`.

    state: codes int8 [N, K] -8..7; scale [N, K/64]; smooth [K]; and where there are any: down [r, K] (divided by
    smooth), up [N, r], bias [N], shift (0.171875 after GELU, whose effect the bias takes back).
    """
    return gemm(*quantize(x, state, form, architecture), state, form, architecture=architecture)
