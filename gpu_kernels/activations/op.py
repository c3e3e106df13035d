"""Activations to INT8 as operators of torch.

    codes, scale, sums = quantize(x)                              # x [M, K], float16 or bfloat16
    tokens = quantize_norm(x, weight, 1e-5, residual)             # residual += x first, in place
    tokens = quantize_gate(x)                                     # x [M, 2 F]: gates, then what they multiply
    quantize(x, out=tokens)                                       # allocates nothing: for CUDA graphs

`sums=False` (or `out` with sums None) leaves out the row sums, which only per-channel W4A8 needs. Launches on the
current stream may start before the kernel in front has ended; the norm's weight is fetched at once, so it has to be
there before that kernel began.
"""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from gpu_kernels.activations.config import MOST, PIECE, Shape, choose, macros
from gpu_kernels.runtime import ARCHITECTURES, check_device, launch, load, multiprocessors, require

SOURCE = "activations/kernel.cu"
_WIDE = {"codes": 8, "weight": 16, "residual": 16}  # bytes that a thread takes at once
_FORMS = (torch.float16, torch.bfloat16)


class Quantized(NamedTuple):
    """Tokens on the GPU."""

    codes: Tensor  # int8 [M, K]
    scale: Tensor  # [M], 16-bit as x
    sums: Tensor | None  # [M], 16-bit as x


def run(
    mode: str,
    shape: Shape,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    epsilon: float,
    out: Quantized,
) -> None:
    """Launch with a shape of one's own choice; operands have been checked."""
    tokens, channels = out.codes.shape
    chosen = macros(mode, shape, x.dtype == torch.float16, residual is not None, out.sums is not None)
    kernel = load(SOURCE, "quantize_tokens", chosen)
    none = ctypes.c_void_p(0)
    optional = [none if one is None else one for one in (residual, weight)]
    sums = none if out.sums is None else out.sums
    numbers = ctypes.c_int(channels // PIECE), ctypes.c_float(epsilon)
    arguments = (x, *optional, out.codes, out.scale, sums, *numbers)
    cluster = shape.cluster if shape.cluster > 1 else 0
    launch(kernel, tokens, shape.threads, arguments, cluster=cluster, early=_early())


def _early() -> bool:
    return require("activations", ARCHITECTURES) >= "sm_90"


def _checked(mode: str, x: Tensor) -> tuple[int, int]:
    """(tokens, channels of the result); ValueError where x does not fit."""
    where, times = f"activations, {mode}", 2 if mode == "gate" else 1
    if x.ndim != 2 or not x.is_cuda or not x.is_contiguous():
        raise ValueError(f"{where}: x must be a contiguous CUDA matrix [M, K], got {tuple(x.shape)} on {x.device}")
    if x.dtype not in _FORMS:
        raise ValueError(f"{where}: x must be float16 or bfloat16, got {x.dtype}")
    tokens, channels = x.shape[0], x.shape[1] // times
    if x.shape[1] % (PIECE * times) or not 0 < channels <= MOST or not tokens:
        rule = f"K must be a multiple of {PIECE} up to {MOST}" + (", twice for gates" if times == 2 else "")
        raise ValueError(f"{where}: {rule}, and M >= 1, got {tuple(x.shape)}")
    return tokens, channels


def _check_like(where: str, found: Tensor, form: torch.dtype, size: tuple[int, ...], x: Tensor) -> None:
    fits = found.dtype == form and tuple(found.shape) == size and found.is_contiguous() and found.device == x.device
    if not fits or (where in _WIDE and found.data_ptr() % _WIDE[where]):
        got = f"{found.dtype} {tuple(found.shape)} on {found.device} at {found.data_ptr():#x}"
        rule = f"{form} {list(size)} on {x.device}, aligned to {_WIDE.get(where, 2)} bytes"
        raise ValueError(f"activations: {where} must be contiguous {rule}, got {got}")


@torch.library.custom_op("tilewright::quantize_activations", mutates_args=("residual", "codes", "scale", "sums"))
def quantize_activations(
    mode: str,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    epsilon: float,
    codes: Tensor,
    scale: Tensor,
    sums: Tensor | None,
) -> None:
    """All of them, in one schema; nothing is allocated."""
    check_device("activations", x)
    size = tokens, channels = _checked(mode, x)
    if x.data_ptr() % 16:  # read 16 bytes at a time
        raise ValueError(f"activations, {mode}: x must lie at a multiple of 16, got address {x.data_ptr():#x}")
    if mode == "norm" and weight is None:
        raise ValueError("activations, norm: needs weight, got None")
    _check_like("codes", codes, torch.int8, size, x)
    for name, one, extent in (("scale", scale, tokens), ("sums", sums, tokens), ("weight", weight, channels)):
        if one is not None:
            _check_like(name, one, x.dtype, (extent,), x)
    if residual is not None:
        _check_like("residual", residual, x.dtype, size, x)
    clusters = _early()
    shape = choose(mode, tokens, channels, multiprocessors(), clusters)
    run(mode, shape, x, residual, weight, epsilon, Quantized(codes, scale, sums))


def _called(
    mode: str,
    x: Tensor,
    sums: bool,
    out: Quantized | None,
    residual: Tensor | None = None,
    weight: Tensor | None = None,
    epsilon: float = 0.0,
) -> Quantized:
    if out is None:
        tokens, channels = _checked(mode, x)
        codes = torch.empty(tokens, channels, dtype=torch.int8, device=x.device)
        scale, total = (torch.empty(tokens, dtype=x.dtype, device=x.device) for _ in range(2))
        out = Quantized(codes, scale, total if sums else None)
    quantize_activations(mode, x, residual, weight, epsilon, *out)
    return out


def quantize(x: Tensor, *, sums: bool = True, out: Quantized | None = None) -> Quantized:
    """`model.quantize` of x [M, K]."""
    return _called("plain", x, sums, out)


def quantize_norm(
    x: Tensor,
    weight: Tensor,
    epsilon: float,
    residual: Tensor | None = None,
    *,
    sums: bool = True,
    out: Quantized | None = None,
) -> Quantized:
    """`model.quantize_norm` of x [M, K], weight [K]; the residual [M, K] becomes h."""
    return _called("norm", x, sums, out, residual, weight, epsilon)


def quantize_gate(x: Tensor, *, sums: bool = True, out: Quantized | None = None) -> Quantized:
    """`model.quantize_gate` of x [M, 2 F]."""
    return _called("gate", x, sums, out)
