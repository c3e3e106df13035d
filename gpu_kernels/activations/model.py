"""Activations as INT8 tokens, dynamic and symmetric: as they are, after an RMS norm, or gated by a SiLU.

    amax = max |y|      a = round16(amax / 127)      q = rne(y * (127 / amax))      t = round16(sum of y)

for every token (row) y, in float32, as QServe does it (omniserve 02b2925). The stored scale `a` is rounded, the
quantization uses the float32 127 / amax: the codes are not y / a. `t` sums the inputs before quantization; the
per-channel W4A8 GEMM takes its zero point with it. y is, on the 16-bit grid, with rn for every float32 result:

    plain   x
    norm    h = x, or round16(x + residual), which is written back;
            r = rn(1 / rn(sqrt(rn(rn(sum of h^2 / K) + epsilon))));   y = round16(rn(rn(h r) weight))
    gate    x = [gate, up];   y = round16(rn(silu(gate) up)), see `silu`

The order of the sum is not fixed in the original (a block reduction whose shape follows the launch). Here it is: 256
threads, thread i adds pieces of 8 neighbours (one load of 16 bytes) number i, i + 256, ... in ascending order; then a
butterfly over the 32 lanes of each warp (distance 16, 8, 4, 2, 1) and one over the 8 warps (4, 2, 1). The sum of
squares goes the same way, by fma.

Divisions and the root are those of IEEE 754, subnormals are kept; the original is built with fast math. Undefined there
and defined here: a token whose 127 / amax is not finite (all zeros; in bfloat16 also amax below 3.8e-37) gets codes 0;
one whose y has left the 16-bit range gets codes 0 and the scale and sum inf (NaN where y has a NaN: h was infinite).
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from accel.arithmetic import butterfly, check_form, float_of32, fma, to_form

THREADS, LANES, PIECE = 256, 32, 8
MINUS_LOG2_E = np.float32(-1.4426950408889634)
SHIFT = np.float32(1.5 * 2**23)  # added to a number below 2^22, it leaves the nearest integer
FURTHEST = np.float32(87)  # gates further from 0 have a SiLU of 0 or of the gate: exp(87) and its reciprocal are normal
POWER = np.array(  # 2^f, |f| <= 1/2, within 2^-23.3: fitted for the least relative error, 1 kept
    [1.0, 0.6931470036506653, 0.24022246897220612, 0.0555071085691452, 0.009671295061707497, 0.001326961675658822],
    np.float32,
)
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
def _across_threads(parts):  # type: ignore[no-untyped-def]
    """The sum of the 256 threads."""
    for warp in range(THREADS // LANES):
        parts[warp] = butterfly(parts[warp * LANES : (warp + 1) * LANES], LANES)
    return butterfly(parts, THREADS // LANES)


@njit(cache=True)
def token_sum(row):  # type: ignore[no-untyped-def]
    """Sum of float32 [K] in the order of the module's docstring."""
    parts = np.zeros(THREADS, np.float32)
    for k in range(len(row)):
        parts[k // PIECE % THREADS] += row[k]
    return _across_threads(parts)


@njit(cache=True)
def sum_of_squares(row):  # type: ignore[no-untyped-def]
    """The same of the squares."""
    parts = np.zeros(THREADS, np.float32)
    for k in range(len(row)):
        thread = k // PIECE % THREADS
        parts[thread] = fma(row[k], row[k], parts[thread])
    return _across_threads(parts)


@njit(cache=True)
def _largest(row):  # type: ignore[no-untyped-def]
    """max |x|, NaN if one is."""
    amax = np.float32(0)
    for k in range(len(row)):
        if not abs(row[k]) <= amax:
            amax = abs(row[k])
            if np.isnan(amax):
                break
    return amax


@njit(cache=True, error_model="numpy")
def _quantize_token(row, half, codes):  # type: ignore[no-untyped-def]
    """Fill codes [K] of a token; (scale, sum)."""
    amax, limit = _largest(row), np.float32(127)
    inverse = limit / amax
    fine = np.isfinite(amax) and np.isfinite(inverse)
    for k in range(len(row)):
        codes[k] = np.int8(np.rint(np.float32(row[k] * inverse))) if fine else np.int8(0)
    total = token_sum(row) if np.isfinite(amax) else amax
    return to_form(np.float32(amax / limit), half), to_form(total, half)


@njit(cache=True, parallel=True)
def _quantize_tokens(x, half):  # type: ignore[no-untyped-def]
    tokens = len(x)
    codes, scale, sums = np.empty(x.shape, np.int8), np.empty(tokens, np.float32), np.empty(tokens, np.float32)
    for m in prange(tokens):
        scale[m], sums[m] = _quantize_token(x[m], half, codes[m])
    return codes, scale, sums


@njit(cache=True, error_model="numpy")
def _normalize(row, weight, epsilon, half):  # type: ignore[no-untyped-def]
    """A row [K] after the norm."""
    mean = np.float32(sum_of_squares(row) / np.float32(len(row)))
    inverse_root = np.float32(1) / np.sqrt(np.float32(mean + epsilon))
    y = np.empty(len(row), np.float32)
    for k in range(len(row)):
        y[k] = to_form(np.float32(np.float32(row[k] * inverse_root) * weight[k]), half)
    return y


@njit(cache=True, parallel=True)
def _normalized(x, weight, epsilon, half):  # type: ignore[no-untyped-def]
    y = np.empty(x.shape, np.float32)
    for m in prange(len(x)):
        y[m] = _normalize(x[m], weight, epsilon, half)
    return y


@njit(cache=True, error_model="numpy")
def silu(gate):  # type: ignore[no-untyped-def]
    """gate / (1 + exp(-gate)) of a float32, no approximate instruction; a gate below -87 counts as -87.

    t = -log2(e) min(gate, 87) goes to its nearest integer n by one fma with SHIFT, the rest f = fma(.., -n) is rounded
    once; 2^t = 2^n P(f), 5 fma; then rn(gate rn(1 / rn(1 + 2^t))). Relative error at most 2^-21 + |gate| 2^-25.
    """
    held = max(gate, -FURTHEST)
    near = min(held, FURTHEST)
    n = np.float32(fma(near, MINUS_LOG2_E, SHIFT) - SHIFT)
    f = fma(near, MINUS_LOG2_E, -n)
    p = POWER[len(POWER) - 1]
    for i in range(len(POWER) - 2, -1, -1):
        p = fma(f, p, POWER[i])
    power = np.float32(p * float_of32(np.int32(n + 127) << np.int32(23)))  # exact: normal numbers
    return np.float32(held * np.float32(np.float32(1) / np.float32(np.float32(1) + power)))


@njit(cache=True, parallel=True)
def _gated(x, half):  # type: ignore[no-untyped-def]
    tokens, channels = x.shape[0], x.shape[1] // 2
    y = np.empty((tokens, channels), np.float32)
    for m in prange(tokens):
        for k in range(channels):
            y[m, k] = to_form(np.float32(silu(x[m, k]) * x[m, channels + k]), half)
    return y


@njit(cache=True, parallel=True)
def _rounded(x, half):  # type: ignore[no-untyped-def]
    y = np.empty(x.shape, np.float32)
    for m in prange(len(x)):
        for k in range(x.shape[1]):
            y[m, k] = to_form(x[m, k], half)
    return y


def _on_grid(kind: str, x: Any, form: str) -> Floats:
    """x [M, K] as float32; ValueError as `quantize`."""
    check_form(form)
    values = np.ascontiguousarray(x, np.float32)
    if values.ndim != 2:
        raise ValueError(f"{kind}: must be [tokens, channels], got shape {values.shape}")
    fine = ((_rounded(values, form == "float16") == values) & np.isfinite(values)).all(axis=1)
    if not fine.all():
        raise ValueError(f"{kind}: must be finite {form} values, token {int(np.argmin(fine))} has others")
    return values


def quantize(x: Any, form: str = "float16") -> Tokens:
    """`Tokens` of activations x [M, K] on the grid of `form`.

    Raises ValueError for another form, another number of axes, and for a value that is off the grid or not finite.
    """
    return Tokens(*_quantize_tokens(_on_grid("activations", x, form), form == "float16"))


def normalized(
    x: Any, weight: Any, epsilon: float, form: str = "float16", residual: Any = None
) -> tuple[Floats, Floats]:
    """(h, y) float32 [M, K] of x and residual [M, K], weight [K], all on the grid of `form`; epsilon goes to float32.

    Raises ValueError as `quantize`, and for other shapes.
    """
    h, scale = _on_grid("activations", x, form), _on_grid("weight", np.reshape(weight, (1, -1)), form)[0]
    if len(scale) != h.shape[1]:
        raise ValueError(f"weight: must be [{h.shape[1]}], got {np.shape(weight)}")
    if residual is not None:
        before = _on_grid("residual", residual, form)
        if before.shape != h.shape:
            raise ValueError(f"residual: must be {h.shape}, got {before.shape}")
        with np.errstate(over="ignore"):
            h = _rounded(h + before, form == "float16")  # two roundings are as one: 24 >= 2 x 11 + 2 bits
    return h, _normalized(h, scale, np.float32(epsilon), form == "float16")


def quantize_norm(
    x: Any, weight: Any, epsilon: float, form: str = "float16", residual: Any = None
) -> tuple[Tokens, Floats]:
    """`Tokens` of `normalized`, and h. Raises ValueError as that."""
    h, y = normalized(x, weight, epsilon, form, residual)
    return Tokens(*_quantize_tokens(y, form == "float16")), h


def gated(x: Any, form: str = "float16") -> Floats:
    """silu(gate) up, float32 [M, F], of x [M, 2 F]: gates in front, on the grid of `form`.

    Raises ValueError as `quantize`, and for an odd number of channels.
    """
    values = _on_grid("activations", x, form)
    if values.shape[1] % 2:
        raise ValueError(f"activations: must be gates and as many others, got {values.shape[1]} channels")
    found: Floats = _gated(values, form == "float16")
    return found


def quantize_gate(x: Any, form: str = "float16") -> Tokens:
    """`Tokens` of `gated`. Raises ValueError as that."""
    return Tokens(*_quantize_tokens(gated(x, form), form == "float16"))
