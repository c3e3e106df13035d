"""The Hopper GEMMs as operators of torch: W4A8 per channel and per group, W8A8, W4A16.

    packed = pack_group(codes, group_scale, group_zero)          # uint8, on the device of `codes`
    y = w4a8_group(x8, token_scale, packed, scale)               # [M, N], the dtype of `scale`
    w4a8_group(x8, token_scale, packed, scale, out=y)            # allocates nothing: for CUDA graphs

Launches on the current stream may start before the kernel in front has ended: weights are fetched at once, so they have
to be there before that kernel began. Activations and outputs wait for it.
"""

import ctypes
from functools import lru_cache
from typing import Any

import torch

from gpu_kernels.runtime import launch, load, multiprocessors, require, tensor_map
from gpu_kernels.w4a8_gemm import packing
from gpu_kernels.w4a8_gemm.config import KINDS, Schedule, choose, macros, packed_bytes

SOURCE = "w4a8_gemm/kernel.cu"
ARCHITECTURES = ("sm_90a",)
Tensor = torch.Tensor
_COUNTERS = 1 << 14  # of a workspace, in front of the partial sums
_PARTIAL_SUMS = 1 << 23
_FORMS = (torch.float16, torch.bfloat16)


def pack_channel(codes: Any) -> Tensor:
    """`packing.pack_channel` as a tensor on the device of `codes`."""
    return _packed(packing.pack_channel, codes)


def pack_group(codes: Any, group_scale: Any, group_zero: Any) -> Tensor:
    """`packing.pack_group` as a tensor on the device of `codes`."""
    return _packed(packing.pack_group, codes, group_scale, group_zero)


def pack_int8(weights: Any) -> Tensor:
    """`packing.pack_int8` as a tensor on the device of `weights`."""
    return _packed(packing.pack_int8, weights)


def pack_a16(codes: Any, scale: Tensor, zero: Any) -> Tensor:
    """`packing.pack_a16` as a tensor on the device of `codes`, for the dtype of `scale`."""
    half = scale.dtype == torch.float16
    return _packed(lambda q, s, z: packing.pack_a16(q, s, z, half), codes, scale.float(), zero)


def _packed(how: Any, *parts: Any) -> Tensor:
    plain = [part.cpu().numpy() if isinstance(part, Tensor) else part for part in parts]
    found = torch.from_numpy(how(*plain))
    return found.to(parts[0].device) if isinstance(parts[0], Tensor) else found


@lru_cache(maxsize=8)
def workspace(device: int) -> Tensor:
    """Counters and partial sums of a device, int32, all zero between launches.

    One for all launches that follow one another; streams that run side by side need one each.
    """
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError("w4a8: call the operator once before a CUDA graph is captured: its workspace is made then")
    return torch.zeros(_COUNTERS + _PARTIAL_SUMS, dtype=torch.int32, device=f"cuda:{device}")


@lru_cache(maxsize=4096)
def _map(address: int, rows: int, row_bytes: int, box_rows: int, device: int) -> Any:
    return tensor_map(address, rows, row_bytes, box_rows)


def run(
    kind: str,
    plan: Schedule,
    x: Tensor,
    packed: Tensor,
    scale: Tensor | None,
    scaled_zero: Tensor | None,
    bias: Tensor | None,
    token_scale: Tensor | None,
    token_sum: Tensor | None,
    out: Tensor,
    space: Tensor,
) -> None:
    """Launch with a schedule of one's own choice; operands have been checked."""
    tile, half = plan.tile, out.dtype == torch.float16
    shared = tile.shared_bytes(kind)
    kernel = load(SOURCE, "gemm", macros(kind, tile, half), shared)
    tokens, inputs = x.shape
    boxes = _map(x.data_ptr(), tokens, inputs * x.element_size(), tile.tokens // tile.cluster, x.device.index)
    optional = [ctypes.c_void_p(0) if one is None else one for one in (scale, scaled_zero, bias, token_scale, token_sum)]
    numbers = [ctypes.c_int(n) for n in (tokens, out.shape[1], inputs, plan.whole)]
    sums = ctypes.c_void_p(space.data_ptr() + 4 * _COUNTERS)
    arguments = (boxes, packed, *optional, out, sums, space, *numbers)
    grid = plan.clusters if tile.cluster > 1 else plan.clusters
    launch(kernel, grid, tile.threads, arguments, shared, tile.cluster if tile.cluster > 1 else 0, early=True)


def _checked(kind: str, x: Tensor, packed: Tensor, form: torch.dtype, vectors: dict[str, tuple[Tensor | None, int]]) -> int:
    """Output channels; ValueError where an operand does not fit."""
    if x.ndim != 2 or not x.is_cuda or not x.is_contiguous():
        raise ValueError(f"{kind}: x must be a contiguous CUDA matrix [M, K], got {tuple(x.shape)} on {x.device}")
    wanted = form if kind == "w4a16" else torch.int8
    if x.dtype != wanted:
        raise ValueError(f"{kind}: x must be {wanted}, got {x.dtype}")
    step = 64 if kind in ("w4a8_channel", "w8a8") else 128
    if x.shape[1] % step or x.shape[1] == 0 or x.shape[0] == 0:
        raise ValueError(f"{kind}: x must have M >= 1 and K a multiple of {step}, got {tuple(x.shape)}")
    if form not in _FORMS:
        raise ValueError(f"{kind}: scale must be float16 or bfloat16, got {form}")
    if packed.dtype != torch.uint8 or packed.ndim != 2 or not packed.is_contiguous() or packed.device != x.device:
        raise ValueError(f"{kind}: packed must be what pack_* gives, on {x.device}, got {packed.dtype} {tuple(packed.shape)}")
    outputs = packed.shape[0] * 64
    if packed.numel() != packed_bytes(kind, outputs, x.shape[1]):
        raise ValueError(f"{kind}: packed weights are not for K = {x.shape[1]}: {packed.shape[1]} bytes for 64 channels")
    sizes = {-1: outputs, -2: x.shape[0]}
    for name, (vector, size) in vectors.items():
        count = sizes[size]
        if vector is not None and not (vector.shape == (count,) and vector.dtype == form and vector.is_contiguous() and vector.device == x.device):
            got = f"{vector.dtype} {tuple(vector.shape)} on {vector.device}"
            raise ValueError(f"{kind}: {name} must be {form} [{count}] on {x.device}, got {got}")
    return outputs


def _gemm(kind: str, x: Tensor, packed: Tensor, form: torch.dtype, out: Tensor | None, space: Tensor | None, **vectors: Any) -> Tensor:
    require(kind, ARCHITECTURES)
    sizes = {name: -2 if name.startswith("token") else -1 for name in vectors}
    outputs = _checked(kind, x, packed, form, {name: (vectors[name], sizes[name]) for name in vectors})
    if out is None:
        out = torch.empty(x.shape[0], outputs, dtype=form, device=x.device)
    elif out.shape != (x.shape[0], outputs) or out.dtype != form or not out.is_contiguous() or out.device != x.device:
        raise ValueError(f"{kind}: out must be {form} [{x.shape[0]}, {outputs}], got {out.dtype} {tuple(out.shape)}")
    plan = choose(kind, x.shape[0], outputs, x.shape[1], multiprocessors())
    names = ("scale", "scaled_zero", "bias", "token_scale", "token_sum")
    parts = [vectors.get(name) for name in names]
    run(kind, plan, x, packed, *parts, out, workspace(x.device.index) if space is None else space)
    return out


def w4a8_group(x: Tensor, token_scale: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None, space: Tensor | None = None) -> Tensor:
    """y [M, N] of int8 x [M, K]."""
    return _gemm("w4a8_group", x, packed, scale.dtype, out, space, scale=scale, bias=bias, token_scale=token_scale)


def w4a8_channel(x: Tensor, token_scale: Tensor, token_sum: Tensor, packed: Tensor, scale: Tensor, scaled_zero: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None, space: Tensor | None = None) -> Tensor:
    """y [M, N] of int8 x [M, K]."""
    return _gemm("w4a8_channel", x, packed, scale.dtype, out, space, scale=scale, scaled_zero=scaled_zero, bias=bias, token_scale=token_scale, token_sum=token_sum)


def w8a8(x: Tensor, token_scale: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None, space: Tensor | None = None) -> Tensor:
    """y [M, N] of int8 x [M, K]."""
    return _gemm("w8a8", x, packed, scale.dtype, out, space, scale=scale, bias=bias, token_scale=token_scale)


def w4a16(x: Tensor, packed: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None, space: Tensor | None = None) -> Tensor:
    """y [M, N] of 16-bit x [M, K]."""
    return _gemm("w4a16", x, packed, x.dtype, out, space, bias=bias)
