"""Per-token INT8 quantization of activations, dynamic and symmetric, as QServe does it (omniserve 02b2925).

    amax = max |x|      a = round16(amax / 127)      q = sat8(rne(x * (127 / amax)))      t = round16(sum of x)

for every token (row), in float32. The stored scale `a` is rounded, the quantization uses the float32 127 / amax: the
codes are not x / a. `t` sums the inputs before quantization; the per-channel W4A8 GEMM takes its zero point with it.

The order of the sum is not fixed in the original (a block reduction whose shape follows the launch). Here it is: 256
threads, thread i adds pieces of 8 neighbours (one load of 16 bytes) number i, i + 256, ... in ascending order; then a
butterfly over the 32 lanes of each warp (distance 16, 8, 4, 2, 1) and one over the 8 warps (4, 2, 1).

Divisions are IEEE float32 divisions; the original is built with fast math, whose division may be off by 2 units.
Undefined there and defined here: a token whose 127 / amax is not finite (all zeros; in bfloat16 also amax below
3.8e-37) gets codes 0. Left out: the norm or activation function that the original fuses in front.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from accel.arithmetic import butterfly, check_form, to_form

THREADS, LANES, PIECE = 256, 32, 8
Floats = NDArray[np.float32]


class Tokens(NamedTuple):
    """Quantized activations of M tokens with K channels."""

    codes: NDArray[np.int8]  # [M, K], -127..127
    scale: Floats  # [M], on the 16-bit grid
    sums: Floats  # [M], on the 16-bit grid; infinite where they leave it


def check_tokens(kind: str, tokens: Tokens, inputs: int) -> None:
    """ValueError unless these are quantized activations of that many inputs."""
    codes, scale, sums = (np.asarray(part) for part in tokens)
    if codes.dtype != np.int8 or codes.ndim != 2 or codes.shape[1] != inputs:
        raise ValueError(f"{kind}: codes of x must be int8 [M, {inputs}], got {codes.dtype} {codes.shape}")
    for name, part in (("scale", scale), ("sums", sums)):
        if part.dtype != np.float32 or part.shape != (len(codes),):
            raise ValueError(f"{kind}: {name} of x must be float32 [{len(codes)}], got {part.dtype} {part.shape}")


@njit(cache=True)
def token_sum(row):  # type: ignore[no-untyped-def]
    """Sum of float32 [K] in the order of the module's docstring."""
    parts = np.zeros(THREADS, np.float32)
    for k in range(len(row)):
        parts[k // PIECE % THREADS] += row[k]
    for warp in range(THREADS // LANES):
        parts[warp] = butterfly(parts[warp * LANES : (warp + 1) * LANES], LANES)
    return butterfly(parts, THREADS // LANES)


@njit(cache=True, error_model="numpy")
def _quantize_token(row, half, codes):  # type: ignore[no-untyped-def]
    """Fill codes [K] of a token; (scale, whether all its values are finite and on the grid)."""
    amax, fine = np.float32(0), True
    for k in range(len(row)):
        amax = max(amax, abs(row[k]))
        fine &= to_form(row[k], half) == row[k]
    limit = np.float32(127)
    inverse = limit / amax
    if not np.isfinite(inverse):
        inverse = np.float32(0)
    for k in range(len(row)):
        q = np.rint(np.float32(row[k] * inverse))
        codes[k] = np.int8(max(np.float32(-128), min(limit, q)))
    return to_form(np.float32(amax / limit), half), fine and amax < np.inf


@njit(cache=True, parallel=True)
def _quantize_tokens(x, half):  # type: ignore[no-untyped-def]
    tokens = len(x)
    codes, fine = np.empty(x.shape, np.int8), np.empty(tokens, np.bool_)
    scale, sums = np.empty(tokens, np.float32), np.empty(tokens, np.float32)
    for m in prange(tokens):
        scale[m], fine[m] = _quantize_token(x[m], half, codes[m])
        sums[m] = to_form(token_sum(x[m]), half)
    return codes, scale, sums, fine


def quantize(x: Any, form: str = "float16") -> Tokens:
    """`Tokens` of activations x [M, K] on the grid of `form`.

    Raises ValueError for another form, another number of axes, and for a value that is off the grid or not finite.
    """
    check_form(form)
    values = np.ascontiguousarray(x, np.float32)
    if values.ndim != 2:
        raise ValueError(f"activations: must be [tokens, channels], got shape {values.shape}")
    codes, scale, sums, fine = _quantize_tokens(values, form == "float16")
    if not fine.all():
        raise ValueError(f"activations: must be finite {form} values, token {int(np.argmin(fine))} has others")
    return Tokens(codes, scale, sums)
