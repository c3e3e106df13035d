"""SVDQuant's W4A4 layer in NVFP4: fused quantize + down-projection, block-scaled GEMM + up-projection.

Source: Nunchaku v1.1, gemm_w4a4.cuh (its FP4 half) and gemm_utils.cuh. The README of this folder has the order of all
roundings and what is assumed: how Blackwell's tensor cores add is published, not run by us. 16-bit numbers are float32
arrays on the grid of `form`.
"""

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from accel.arithmetic import Floats, check_form, flush, round_to, to_form
from accel.formats import number
from accel.tensor_core import block_scaled
from accel.tensor_core.block_scaled import GROUP, STEP
from gpu_kernels.operands import State, activations_of, check_names, codes_of, floats_of, matrix_shape
from gpu_kernels.w4a4_gemm.low_rank import biased, branch, check_pair, down_projection, up_projection, written

REQUIRED, OPTIONAL = ("codes", "scale", "tensor_scale", "smooth"), ("down", "up", "bias")
ARCHITECTURE = "sm_120"  # whose 16-bit tensor cores the low-rank branch runs on: Nunchaku's FP4 needs Blackwell
Codes = NDArray[np.uint8]
_E2M1, _E4M3 = number("e2m1"), number("e4m3")


@njit(cache=True)
def to_e2m1(x):  # type: ignore[no-untyped-def]
    """E2M1 code of a float32: nearest, ties to the even code, at most 6; NaN is 6 (PTX ISA, cvt.rn.satfinite)."""
    size = abs(x)
    if size < 2:
        code = np.rint(size * np.float32(2))
    elif size < 4:
        code = np.rint(size) + np.float32(2)
    else:
        code = min(np.rint(size / np.float32(2)), np.float32(3)) + np.float32(4)
    sign = np.uint8(8) if np.signbit(x) else np.uint8(0)
    return np.uint8(7) if np.isnan(x) else np.uint8(code) | sign


@njit(cache=True, error_model="numpy")
def _quantize_group(x, smooth, half, codes):  # type: ignore[no-untyped-def]
    """Codes of one group of 16, and its scale before E4M3."""
    largest = np.float32(0)
    values = np.empty(len(x), np.float32)
    for k in range(len(x)):
        values[k] = to_form(x[k] / smooth[k], half)
        largest = max(largest, abs(values[k]))
    scale = min(largest * (np.float32(1) / np.float32(6)), np.float32(448))
    reciprocal = np.float32(1) / flush(scale)
    for k in range(len(x)):
        codes[k] = to_e2m1(values[k] * reciprocal)
    return scale


@njit(cache=True, parallel=True)
def _quantize(x, smooth, half):  # type: ignore[no-untyped-def]
    rows, inputs = x.shape
    codes, scales = np.empty((rows, inputs), np.uint8), np.empty((rows, inputs // GROUP), np.float32)
    for m in prange(rows):
        for g in range(inputs // GROUP):
            part = slice(g * GROUP, (g + 1) * GROUP)
            scales[m, g] = _quantize_group(x[m, part], smooth[part], half, codes[m, part])
    return codes, scales


def _codes(where: str, given: Any, shape: tuple[int, int], largest: int) -> Codes:
    """Codes as uint8; ValueError for another shape and for a code above `largest`."""
    found: Codes = codes_of(f"w4a4_nvfp4: {where}", given, shape, 0, largest).view(np.uint8)
    return found


def _shape(state: State) -> tuple[int, int]:
    """(N, K); ValueError where the names of the state, the step of 64 or the branch do not fit."""
    check_names("w4a4_nvfp4", state, REQUIRED, OPTIONAL)
    outputs, inputs = matrix_shape("w4a4_nvfp4: codes", state["codes"])
    if inputs % STEP:
        raise ValueError(f"w4a4_nvfp4: inputs must be a multiple of {STEP}, got {inputs}")
    check_pair("w4a4_nvfp4", state)
    return outputs, inputs


def _tensor_scale(given: Any, outputs: int) -> Floats:
    """float32 [1] or [outputs], finite; else ValueError."""
    scale = np.asarray(given)
    if scale.shape not in ((), (1,), (outputs,)):
        raise ValueError(f"w4a4_nvfp4: tensor_scale must be one or {outputs} numbers, got shape {scale.shape}")
    if scale.dtype.kind not in "fiu" or not np.isfinite(scale.astype(np.float32)).all():
        raise ValueError(f"w4a4_nvfp4: tensor_scale must be finite, got {given}")
    return scale.astype(np.float32).reshape(-1)


def quantize(x: Any, state: State, form: str, architecture: str = ARCHITECTURE) -> tuple[Codes, Codes, Floats]:
    """The first kernel: E2M1 codes uint8 [M, K], E4M3 scale codes uint8 [M, K/16], and lora_act float32 [M, r].

    x [M, K]: the raw input of the layer, rounded to `form`. The down-projection reads it as it is; the codes are of
    x / smooth. Raises ValueError for another form, operands that do not fit or are not finite, and a zero in smooth.
    """
    check_form(form)
    inputs = _shape(state)[1]
    values = activations_of("w4a4_nvfp4", x, inputs, form)
    smooth = floats_of("w4a4_nvfp4: smooth", state["smooth"], (inputs,), form)
    if not smooth.all():
        raise ValueError(f"w4a4_nvfp4: smooth must not be 0, got 0 at input {int(np.argmin(smooth != 0))}")
    codes, scales = _quantize(values, smooth, form == "float16")
    down = branch("w4a4_nvfp4: down", state.get("down"), (None, inputs), form)
    return codes, _E4M3.encode(scales), down_projection(values, down, form, architecture)


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

    codes_x uint8 [M, K], scale_x uint8 [M, K/16], lora_act float32 [M, r]   as `quantize` gives them
    strengths: float32 [r/16] on lora_act (user adapters), None for 1.
    Raises ValueError for operands that do not fit; codes are 0..15, their scales 0..126 (E4M3 without sign and NaN).
    """
    check_form(form)
    outputs, inputs = _shape(state)
    rows = matrix_shape("w4a4_nvfp4: codes of x", codes_x)[0]
    codes = _codes("codes", state["codes"], (outputs, inputs), 15)
    scale = _codes("scale", state["scale"], (outputs, inputs // GROUP), 126)
    left = _codes("codes of x", codes_x, (rows, inputs), 15)
    left_scale = _codes("scale of x", scale_x, (rows, inputs // GROUP), 126)
    total = block_scaled.matmul(left, left_scale, codes, scale)
    y = round_to(total * _tensor_scale(state["tensor_scale"], outputs), form)
    y = biased("w4a4_nvfp4: bias", y, state.get("bias"), form)
    up = branch("w4a4_nvfp4: up", state.get("up"), (outputs, None), form)
    return written(up_projection(y, lora_act, up, form, architecture, strengths), form)


def linear(x: Any, state: State, form: str = "float16", architecture: str = ARCHITECTURE) -> Floats:
    """The layer: x [M, K], rounded to `form`, through both kernels; float32 [M, N] on the grid of `form`.

    state: codes uint8 [N, K] (E2M1); scale uint8 [N, K/16] (E4M3); tensor_scale float32, one or [N]; smooth [K]; and
    where there are any: down [r, K] (divided by smooth), up [N, r], bias [N].
    """
    return gemm(*quantize(x, state, form, architecture), state, form, architecture=architecture)
