"""The portable GEMMs as operators of torch: W4A8 per channel and per group, W8A8, on any GPU from sm_80 on.

    packed = pack_group(codes, group_scale, group_zero)          # as for the Hopper kernels: one layout
    y = w4a8_group(x, token_scale, packed, scale)                # [M, N], the dtype of `scale`
    w4a8_group(x, token_scale, packed, scale, out=y)             # allocates nothing after the first call

A launch may start before the kernel in front of it has ended (sm_90): weights are fetched at once, so they have to be
there before that kernel began. Activations are read, and outputs written, after it.
"""

import ctypes
from functools import lru_cache

import torch
from torch import Tensor

from gpu_kernels.runtime import ARCHITECTURES, check_device, launch, load, multiprocessors, require
from gpu_kernels.w4a8_gemm.config import packed_bytes
from gpu_kernels.w4a8_gemm.op import MOST_INPUTS, check_needed, pack_channel, pack_group, pack_int8
from gpu_kernels.w4a8_portable.config import COUNTERS, KINDS, PARTIAL_SUMS, Schedule, choose, macros

__all__ = [
    "new_workspace",
    "pack_channel",
    "pack_group",
    "pack_int8",
    "run",
    "w4a8_channel",
    "w4a8_group",
    "w8a8",
    "workspace",
]
SOURCE = "w4a8_portable/kernel.cu"
_FORMS = (torch.float16, torch.bfloat16)


def new_workspace(device: torch.device) -> Tensor:
    """Counters, int32, zero between launches, and room for sums. Streams that run side by side need one each."""
    space = torch.empty(COUNTERS + PARTIAL_SUMS, dtype=torch.int32, device=device)
    space[:COUNTERS].zero_()  # sums are written before they are read: zeroing 64 MiB would cost more than the product
    return space


@torch.compiler.disable
def workspace(device: int) -> Tensor:
    """What operators take where none is given: one for each stream, and in a capture one of the call's own."""
    if torch.cuda.is_current_stream_capturing():
        return new_workspace(torch.device("cuda", device))  # its zeroing is captured too: give `space` to save it
    return _kept(device, torch.cuda.current_stream(device).cuda_stream)


@lru_cache(maxsize=8)
def _kept(device: int, stream: int) -> Tensor:
    return new_workspace(torch.device("cuda", device))


def run(
    kind: str,
    plan: Schedule,
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    scaled_zero: Tensor | None,
    bias: Tensor | None,
    token_scale: Tensor,
    token_sum: Tensor | None,
    out: Tensor,
    space: Tensor,
    twin: str = "whole",
) -> None:
    """Launch with a schedule of one's own choice; operands have been checked. A twin computes nonsense, to be timed."""
    tile = plan.tile
    if plan.cut > COUNTERS or plan.partial_sums > PARTIAL_SUMS:
        raise ValueError(f"{kind}: the workspace holds {PARTIAL_SUMS} sums of {COUNTERS} tiles, got {plan}")
    shared = tile.shared_bytes(kind)
    kernel = load(SOURCE, "gemm", macros(kind, tile, out.dtype == torch.float16, twin), shared)
    given = [ctypes.c_void_p(0) if one is None else one for one in (scale, scaled_zero, bias, token_scale, token_sum)]
    sums = ctypes.c_void_p(space.data_ptr() + 4 * COUNTERS)
    numbers = [ctypes.c_int(n) for n in (x.shape[0], out.shape[1], x.shape[1], plan.whole)]
    early = require(kind, ARCHITECTURES) >= "sm_90"
    launch(kernel, plan.blocks, tile.threads, (x, packed, *given, out, sums, space, *numbers), shared, early=early)


def _check(where: str, one: Tensor, form: torch.dtype, shape: tuple[int, ...], like: Tensor) -> None:
    fits = one.dtype == form and tuple(one.shape) == shape and one.is_contiguous() and one.device == like.device
    if not fits or one.data_ptr() % (16 if len(shape) == 2 else 2):
        got = f"{one.dtype} {list(one.shape)} on {one.device} at {one.data_ptr():#x}"
        raise ValueError(f"{where} must be contiguous {form} {list(shape)} on {like.device}, aligned to 16, got {got}")


def _size(kind: str, x: Tensor, packed: Tensor) -> tuple[int, int, int]:
    """(M, N, K); ValueError where x and the packed weights do not fit."""
    if x.ndim != 2 or x.device.type != "cuda" or x.dtype != torch.int8:
        raise ValueError(f"{kind}: x must be a CUDA matrix [M, K] of int8, got {x.dtype} {list(x.shape)} on {x.device}")
    step = 128 if kind == "w4a8_group" else 64
    if x.shape[0] == 0 or x.shape[1] == 0 or x.shape[1] % step:
        raise ValueError(f"{kind}: x must have M >= 1 and K a multiple of {step}, got {list(x.shape)}")
    if x.shape[1] > (most := MOST_INPUTS[kind]):
        raise ValueError(f"{kind}: K must be at most {most}, so that int32 holds any sum, got {x.shape[1]}")
    if packed.ndim != 2:
        raise ValueError(f"{kind}: packed must be a matrix, as pack_* gives, got {list(packed.shape)}")
    outputs = packed.shape[0] * 64
    _check(f"{kind}: x", x, torch.int8, tuple(x.shape), x)
    row = packed_bytes(kind, 64, x.shape[1])
    _check(f"{kind}: packed", packed, torch.uint8, (packed.shape[0], row), x)
    return x.shape[0], outputs, x.shape[1]


@torch.library.custom_op("tilewright::portable_gemm", mutates_args=("out", "space"))
def portable_gemm(
    kind: str,
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    scaled_zero: Tensor | None,
    bias: Tensor | None,
    token_scale: Tensor,
    token_sum: Tensor | None,
    out: Tensor,
    space: Tensor,
) -> None:
    """All kinds in one schema; nothing is allocated. Raises ValueError for operands that do not fit."""
    if kind not in KINDS:
        raise ValueError(f"portable_gemm: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    check_needed(kind, {"scale": scale, "scaled_zero": scaled_zero, "token_scale": token_scale, "token_sum": token_sum})
    tokens, outputs, inputs = _size(kind, x, packed)
    check_device(kind, x)
    architecture = require(kind, ARCHITECTURES)
    if scale.dtype not in _FORMS:
        raise ValueError(f"{kind}: scale must be float16 or bfloat16, got {scale.dtype}")
    for name, one, extent in (
        ("scale", scale, outputs),
        ("scaled_zero", scaled_zero, outputs),
        ("bias", bias, outputs),
        ("token_scale", token_scale, tokens),
        ("token_sum", token_sum, tokens),
    ):
        if one is not None:
            _check(f"{kind}: {name}", one, scale.dtype, (extent,), x)
    _check(f"{kind}: out", out, scale.dtype, (tokens, outputs), x)
    _check(f"{kind}: space", space, torch.int32, (COUNTERS + PARTIAL_SUMS,), x)
    plan = choose(kind, tokens, outputs, inputs, multiprocessors(), architecture)
    run(kind, plan, x, packed, scale, scaled_zero, bias, token_scale, token_sum, out, space)


def _called(
    kind: str,
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    scaled_zero: Tensor | None,
    bias: Tensor | None,
    token_scale: Tensor,
    token_sum: Tensor | None,
    out: Tensor | None,
    space: Tensor | None,
) -> Tensor:
    if out is None:
        out = x.new_empty((x.shape[0], packed.shape[0] * 64), dtype=scale.dtype)
    if space is None:  # elsewhere the operator says what is wrong
        space = workspace(x.device.index) if x.is_cuda else x.new_empty(0, dtype=torch.int32)
    portable_gemm(kind, x, packed, scale, scaled_zero, bias, token_scale, token_sum, out, space)
    return out


def w4a8_group(
    x: Tensor,
    token_scale: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    space: Tensor | None = None,
) -> Tensor:
    """y [M, N] of int8 x [M, K], token_scale [M], packed weights, scale and bias [N]; the dtype of `scale`."""
    return _called("w4a8_group", x, packed, scale, None, bias, token_scale, None, out, space)


def w4a8_channel(
    x: Tensor,
    token_scale: Tensor,
    token_sum: Tensor,
    packed: Tensor,
    scale: Tensor,
    scaled_zero: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    space: Tensor | None = None,
) -> Tensor:
    """y [M, N] of int8 x [M, K]; token_scale, token_sum [M]; scale, scaled_zero = round16(zero scale), bias [N]."""
    return _called("w4a8_channel", x, packed, scale, scaled_zero, bias, token_scale, token_sum, out, space)


def w8a8(
    x: Tensor,
    token_scale: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    space: Tensor | None = None,
) -> Tensor:
    """y [M, N] of int8 x [M, K] and int8 weights from `pack_int8`."""
    return _called("w8a8", x, packed, scale, None, bias, token_scale, None, out, space)
