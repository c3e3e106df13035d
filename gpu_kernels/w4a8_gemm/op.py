"""The Hopper GEMMs as operators of torch: W4A8 per channel and per group, W8A8, W4A16.

    packed = pack_group(codes, group_scale, group_zero)          # uint8, on the device of `codes`
    y = w4a8_group(x, token_scale, packed, scale)                # [M, N], the dtype of `scale`
    w4a8_group(x, token_scale, packed, scale, out=y)             # allocates nothing: for CUDA graphs

A launch may start before the kernel in front of it has ended: weights are fetched at once, so they have to be there
before that kernel began. Activations are read, and outputs written, after it. There is no workspace.
"""

import ctypes
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch

from gpu_kernels.runtime import check_device, launch, load, multiprocessors, require, tensor_map
from gpu_kernels.w4a8_gemm import packing
from gpu_kernels.w4a8_gemm.config import CHUNK, Tile, choose, macros, packed_bytes, unit

SOURCE = "w4a8_gemm/kernel.cu"
ARCHITECTURES = ("sm_90a",)
NEEDED = {  # beside the bias, which may be missing
    "w4a8_channel": ("scale", "scaled_zero", "token_scale", "token_sum"),
    "w4a8_group": ("scale", "token_scale"),
    "w8a8": ("scale", "token_scale"),
    "w4a16": (),
}
VECTORS = ("scale", "scaled_zero", "bias", "token_scale", "token_sum")  # in the order of the kernel's arguments
_FORMS = (torch.float16, torch.bfloat16)
MOST_INPUTS = {"w4a8_channel": 1118481, "w4a8_group": 131071, "w8a8": 131071}  # int32 holds any sum up to there


def pack_channel(codes: Any) -> torch.Tensor:
    """`packing.pack_channel` as a tensor on the device of `codes`."""
    return _packed(packing.pack_channel, codes)


def pack_group(codes: Any, group_scale: Any, group_zero: Any) -> torch.Tensor:
    """`packing.pack_group` as a tensor on the device of `codes`."""
    return _packed(packing.pack_group, codes, group_scale, group_zero)


def pack_int8(weights: Any) -> torch.Tensor:
    """`packing.pack_int8` as a tensor on the device of `weights`."""
    return _packed(packing.pack_int8, weights)


def pack_a16(codes: Any, scale: torch.Tensor, zero: Any) -> torch.Tensor:
    """`packing.pack_a16` as a tensor on the device of `codes`, for the dtype of `scale`."""
    half = scale.dtype == torch.float16
    return _packed(lambda q, s, z: packing.pack_a16(q, s, z, half), codes, scale.float(), zero)


def _packed(how: Callable[..., Any], *parts: Any) -> torch.Tensor:
    plain = [part.cpu().numpy() if isinstance(part, torch.Tensor) else part for part in parts]
    found = torch.from_numpy(how(*plain))
    return found.to(parts[0].device) if isinstance(parts[0], torch.Tensor) else found


@lru_cache(maxsize=4096)
def _x_map(address: int, tokens: int, row_bytes: int, box_tokens: int, device: int) -> Any:
    return tensor_map(address, (row_bytes, tokens), (row_bytes,), (128, box_tokens), swizzle=True)


@lru_cache(maxsize=4096)
def _w_map(address: int, kind: str, blocks: int, row_bytes: int, box_blocks: int, device: int) -> Any:
    """Packed weights as (words, rows, units along K, blocks of 64 channels): one box is a chunk of some blocks."""
    words, rows, inputs = unit(kind)
    row, size = 8 * words, 8 * words * rows
    sizes = (words, rows, row_bytes // size, blocks)
    return tensor_map(address, sizes, (row, size, row_bytes), (words, rows, CHUNK // inputs, box_blocks), 8)


def run(
    kind: str,
    tile: Tile,
    x: torch.Tensor,
    packed: torch.Tensor,
    vectors: Mapping[str, torch.Tensor | None],
    out: torch.Tensor,
    early: bool = True,
) -> None:
    """Launch with a tile of one's own choice; operands have been checked, K has at least `split` chunks."""
    shared = tile.shared_bytes(kind)
    kernel = load(SOURCE, "gemm", macros(kind, tile, out.dtype == torch.float16), shared)
    (tokens, inputs), outputs = x.shape, out.shape[1]
    x_map = _x_map(x.data_ptr(), tokens, inputs * x.element_size(), tile.tokens, x.device.index)
    w_map = _w_map(packed.data_ptr(), kind, *packed.shape, tile.channels // 64, x.device.index)
    given = [ctypes.c_void_p(0) if vectors.get(name) is None else vectors[name] for name in VECTORS]
    arguments = (x_map, w_map, *given, out, *(ctypes.c_int(n) for n in (tokens, outputs, inputs)))
    grid = tile.grid(tokens, outputs, multiprocessors())
    launch(kernel, grid, tile.threads, arguments, shared, tile.split if tile.split > 1 else 0, early)


def _check_matrix(kind: str, x: torch.Tensor, form: torch.dtype) -> None:
    if form not in _FORMS:
        raise ValueError(f"{kind}: scale must be float16 or bfloat16, got {form}")
    wanted = form if kind == "w4a16" else torch.int8
    if x.ndim != 2 or not x.is_cuda or not x.is_contiguous() or x.dtype != wanted:
        got = f"{x.dtype} {tuple(x.shape)} on {x.device}"
        raise ValueError(f"{kind}: x must be a contiguous CUDA matrix [M, K] of {wanted}, got {got}")
    step = 64 if kind in ("w4a8_channel", "w8a8") else 128
    if x.shape[0] == 0 or x.shape[1] == 0 or x.shape[1] % step or x.data_ptr() % 16:
        rule = f"M >= 1, K a multiple of {step} and an address that is a multiple of 16"
        raise ValueError(f"{kind}: x must have {rule}, got {tuple(x.shape)} at {x.data_ptr():#x}")
    most = MOST_INPUTS.get(kind, x.shape[1])
    if x.shape[1] > most:
        raise ValueError(f"{kind}: K must be at most {most}, so that int32 holds any sum, got {x.shape[1]}")


def _outputs(kind: str, x: torch.Tensor, packed: torch.Tensor) -> int:
    """N of packed weights; ValueError unless they are for this x."""
    if packed.dtype != torch.uint8 or packed.ndim != 2 or not packed.is_contiguous() or packed.device != x.device:
        got = f"{packed.dtype} {tuple(packed.shape)} on {packed.device}"
        raise ValueError(f"{kind}: packed must be what pack_* gives, on {x.device}, got {got}")
    outputs = packed.shape[0] * 64
    if packed.data_ptr() % 16:
        raise ValueError(f"{kind}: packed must lie at a multiple of 16, got address {packed.data_ptr():#x}")
    if packed.numel() != packed_bytes(kind, outputs, x.shape[1]):
        got = f"{packed.shape[1]} bytes for 64 channels"
        raise ValueError(f"{kind}: packed must be for K = {x.shape[1]}, got {got}")
    return outputs


def _check_vector(kind: str, name: str, vector: torch.Tensor, size: int, form: torch.dtype, x: torch.Tensor) -> None:
    fits = vector.shape == (size,) and vector.dtype == form and vector.device == x.device
    if not (fits and vector.is_contiguous()):
        got = f"{vector.dtype} {tuple(vector.shape)} on {vector.device}"
        raise ValueError(f"{kind}: {name} must be contiguous {form} [{size}] on {x.device}, got {got}")
    if name == "bias" and vector.data_ptr() % 16:  # read 16 bytes at a time
        raise ValueError(f"{kind}: bias must lie at a multiple of 16, got address {vector.data_ptr():#x}")


@torch.library.custom_op("tilewright::hopper_gemm", mutates_args=("out",))
def hopper_gemm(
    kind: str,
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor | None,
    scaled_zero: torch.Tensor | None,
    bias: torch.Tensor | None,
    token_scale: torch.Tensor | None,
    token_sum: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """Any kind of `config.KINDS` into `out`; RuntimeError for another GPU, ValueError for operands that do not fit."""
    if kind not in NEEDED:
        raise ValueError(f"hopper_gemm: kind must be one of {', '.join(NEEDED)}, got {kind!r}")
    require(kind, ARCHITECTURES)
    check_device(kind, x)
    _check_matrix(kind, x, out.dtype)
    outputs = _outputs(kind, x, packed)
    vectors = dict(zip(VECTORS, (scale, scaled_zero, bias, token_scale, token_sum), strict=True))
    check_needed(kind, vectors)
    for name, vector in vectors.items():
        if vector is not None:
            _check_vector(kind, name, vector, x.shape[0] if name.startswith("token") else outputs, out.dtype, x)
    shape = (x.shape[0], outputs)
    if out.shape != shape or not out.is_contiguous() or out.device != x.device or out.data_ptr() % 16:
        got = f"{list(out.shape)} on {out.device} at {out.data_ptr():#x}"
        raise ValueError(f"{kind}: out must be contiguous {list(shape)} on {x.device} at a multiple of 16, got {got}")
    run(kind, choose(kind, *shape, x.shape[1], multiprocessors()), x, packed, vectors, out)


@hopper_gemm.register_fake
def _(*_: object) -> None:
    """What it writes has been made by the caller."""


def check_needed(kind: str, vectors: Mapping[str, torch.Tensor | None]) -> None:
    """ValueError where a vector that this kind reads is missing: the kernel would follow a null pointer."""
    for name in NEEDED[kind]:
        if vectors.get(name) is None:
            raise ValueError(f"{kind}: needs {name}, got None")


def _gemm(
    kind: str,
    x: torch.Tensor,
    packed: torch.Tensor,
    form: torch.dtype,
    out: torch.Tensor | None,
    vectors: Mapping[str, torch.Tensor | None],
) -> torch.Tensor:
    y = x.new_empty((x.shape[0], packed.shape[0] * 64), dtype=form) if out is None else out
    if y.dtype != form:
        raise ValueError(f"{kind}: out must be {form}, as the scales, got {y.dtype}")
    hopper_gemm(kind, x, packed, *(vectors.get(name) for name in VECTORS), y)
    return y


def w4a8_group(
    x: torch.Tensor,
    token_scale: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """y [M, N] of int8 x [M, K], token_scale [M], packed weights, scale and bias [N]; the dtype of `scale`."""
    vectors = {"scale": scale, "bias": bias, "token_scale": token_scale}
    return _gemm("w4a8_group", x, packed, scale.dtype, out, vectors)


def w4a8_channel(
    x: torch.Tensor,
    token_scale: torch.Tensor,
    token_sum: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    scaled_zero: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """y [M, N] of int8 x [M, K]; token_scale, token_sum [M]; scale, scaled_zero = round16(zero scale), bias [N]."""
    weights = {"scale": scale, "scaled_zero": scaled_zero, "bias": bias}
    vectors = weights | {"token_scale": token_scale, "token_sum": token_sum}
    return _gemm("w4a8_channel", x, packed, scale.dtype, out, vectors)


def w8a8(
    x: torch.Tensor,
    token_scale: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """y [M, N] of int8 x [M, K] and int8 weights from `pack_int8`."""
    return _gemm("w8a8", x, packed, scale.dtype, out, {"scale": scale, "bias": bias, "token_scale": token_scale})


def w4a16(
    x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None = None, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """y [M, N] of float16 or bfloat16 x [M, K] and weights from `pack_a16` of the same form."""
    return _gemm("w4a16", x, packed, x.dtype, out, {"bias": bias})
