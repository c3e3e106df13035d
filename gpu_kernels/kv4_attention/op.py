"""Decode attention over a paged KV4, KV8 or FP16 cache as operators of torch.

    cache = new_cache(pages, kv_heads, size, bits, device)
    append(key, value, cosine, sine, sequence, position, table, cache, bits)        # a prompt's tokens
    space = workspace(batch, heads, kv_heads, size, bits, longest, device)
    decode(query, key, value, cosine, sine, cache, table, lengths, longest, bits, out=y, space=space)   # one launch
    attend(query, cache, table, lengths, longest, bits)                             # no new token, query rotated

query, out [B, query heads, D] float16; key, value [B, kv heads, D] float16; query, key and value may be parts of one
matrix, as a projection gives them (rows lie apart); cosine, sine [B, D / 2] float32; cache uint8 [pages, kv heads, page
bytes]; table int32 [B, pages of a sequence]; lengths int32 [B], tokens in the cache before this step: the new token
becomes number `lengths`. `longest` bounds the lengths: it decides the splits. A workspace serves
launches that follow one another. `early`: no kernel of ours since the last one that is not
ours writes cache, table or lengths (README), so that they may be read before the kernel in front has ended.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from gpu_kernels.kv4_attention import config
from gpu_kernels.kv4_attention.config import BITS, LOG2_E, SIZES, Tile, block_heads, page_bytes, workspace_bytes
from gpu_kernels.runtime import ARCHITECTURES, architecture, check_device, launch, load, multiprocessors, require

SOURCE = "kv4_attention/kernel.cu"
_NONE = ctypes.c_void_p(0)


def new_cache(pages: int, kv_heads: int, size: int, bits: int, device: Any) -> Tensor:
    """uint8 [pages, kv heads, page bytes], zeros."""
    _check_format(size, bits)
    return torch.zeros(pages, kv_heads, page_bytes(size, bits), dtype=torch.uint8, device=device)


def workspace(batch: int, heads: int, kv_heads: int, size: int, bits: int, longest: int, device: Any) -> Tensor:
    """uint8 zeros for `decode` and `attend` of these shapes; kernels leave its counters zero."""
    _check_format(size, bits)
    if kv_heads < 1 or heads < 1 or heads % kv_heads:
        raise ValueError(f"kv attention: query heads must be a multiple of kv heads, got {heads} and {kv_heads}")
    group = heads // kv_heads
    _, splits = config.choose(batch, kv_heads, group, longest, size, bits, multiprocessors())
    return torch.zeros(workspace_bytes(batch, kv_heads, group, splits, size), dtype=torch.uint8, device=device)


def clusters() -> bool:
    """Whether this GPU has thread block clusters and a copy engine (sm_90)."""
    return architecture().startswith("sm_9")


def run(
    tile: Tile,
    splits: int,
    query: Tensor,
    new: tuple[Tensor, Tensor, Tensor, Tensor] | None,
    cache: Tensor,
    table: Tensor,
    lengths: Tensor,
    kept: tuple[Tensor, Tensor] | None,
    bits: int,
    early: bool,
    out: Tensor,
    space: Tensor,
    extra: dict[str, int] | None = None,
) -> None:
    """Launch with a tile and splits of one's own choice; operands have been checked."""
    batch, heads, size = query.shape
    kv_heads = cache.shape[1]
    group = heads // kv_heads
    own, chunks = block_heads(group, size)
    shared = tile.shared_bytes(size, bits, own)
    bulk = clusters()
    variant = config.macros(tile, size, bits, own, new is not None, kept is not None, early, bulk) | (extra or {})
    kernel = load(SOURCE, "attend", variant, shared)
    parts = ctypes.c_void_p(space.data_ptr() + config.counters_bytes(batch * kv_heads * chunks))
    rows = query.stride(0), new[0].stride(0) if new else 0
    numbers = [ctypes.c_int(n) for n in (table.shape[1], kept[0].shape[2] if kept else 0, kv_heads, group, *rows)]
    pointers = (*(new or (_NONE,) * 4), cache, table, lengths, *(kept or (_NONE, _NONE)), out, space, parts)
    factor = ctypes.c_float(LOG2_E / size**0.5)
    grid = (splits // tile.cluster, kv_heads * chunks, batch)
    cluster = tile.cluster if tile.cluster > 1 else 0
    launch(kernel, grid, tile.warps * 32, (query, *pointers, *numbers, factor), shared, cluster, early=bulk)


def _check_format(size: int, bits: int) -> None:
    if bits not in BITS or size not in SIZES:
        raise ValueError(f"kv attention: bits must be one of {BITS}, head size one of {SIZES}; got {bits}, {size}")


def _check(name: str, x: Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> None:
    if x.dtype != dtype or tuple(x.shape) != shape or x.device != device or not x.is_contiguous():
        got = f"{x.dtype} {tuple(x.shape)} on {x.device}{'' if x.is_contiguous() else ', not contiguous'}"
        raise ValueError(f"kv attention: {name} must be contiguous {dtype} {shape} on {device}, got {got}")


def _check_rows(name: str, x: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    """float16 [B, heads, D] whose rows [heads, D] may lie apart, all of them as those of `like`."""
    whole = x.shape[1:].numel() if x.ndim == 3 else 0
    apart = x.ndim == 3 and x.stride()[1:] == (x.shape[2], 1)
    apart &= len(x) == 1 or (x.stride(0) >= whole and x.stride(0) == like.stride(0))
    if x.dtype != torch.float16 or tuple(x.shape) != shape or x.device != like.device or not apart:
        got = f"{x.dtype} {tuple(x.shape)}, strides {x.stride()} on {x.device}"
        rule = f"float16 {shape} with rows of one piece, as far apart as those of {like.stride()}, on {like.device}"
        raise ValueError(f"kv attention: {name} must be {rule}, got {got}")


def check_operands(
    query: Tensor,
    new: tuple[Tensor, Tensor, Tensor, Tensor] | None,
    cache: Tensor,
    table: Tensor,
    lengths: Tensor,
    kept: tuple[Tensor, Tensor] | None,
    longest: int,
    bits: int,
) -> None:
    """ValueError where an operand of `decode` or `attend` does not fit."""
    if query.ndim != 3 or cache.ndim != 3 or table.ndim != 2 or not query.numel():
        shapes = ", ".join(str(tuple(x.shape)) for x in (query, cache, table))
        raise ValueError(f"kv attention: query and cache must be 3-, table 2-dimensional and not empty, got {shapes}")
    (batch, heads, size), kv_heads, device = query.shape, cache.shape[1], query.device
    _check_format(size, bits)
    if not kv_heads or heads % kv_heads:
        raise ValueError(f"kv attention: query heads must be a multiple of the cache's {kv_heads}, got {heads}")
    _check_rows("query", query, (batch, heads, size), query)
    for name, x in zip(("key", "value"), new or (), strict=False):
        _check_rows(name, x, (batch, kv_heads, size), new[0] if new else x)
    for name, x in zip(("cosine", "sine"), (new or ())[2:], strict=False):
        _check(name, x, torch.float32, (batch, size // 2), device)
    _check("cache", cache, torch.uint8, (cache.shape[0], kv_heads, page_bytes(size, bits)), device)
    _check("table", table, torch.int32, (batch, table.shape[1]), device)
    _check("lengths", lengths, torch.int32, (batch,), device)
    room = table.shape[1] * 64 - (new is not None)
    if not 0 <= longest <= room:
        raise ValueError(f"kv attention: longest must be within 0..{room}, the tokens of the table, got {longest}")
    if kept is not None:
        if kept[0].ndim != 3:
            raise ValueError(f"kv attention: kept must be [B, kv heads, tokens], got {tuple(kept[0].shape)}")
        _check("kept", kept[0], torch.int32, (batch, kv_heads, kept[0].shape[2]), device)
        _check("counts", kept[1], torch.int32, (batch, kv_heads), device)


def _launch(
    query: Tensor,
    new: tuple[Tensor, Tensor, Tensor, Tensor] | None,
    cache: Tensor,
    table: Tensor,
    lengths: Tensor,
    kept: tuple[Tensor, Tensor] | None,
    longest: int,
    bits: int,
    early: bool,
    out: Tensor,
    space: Tensor,
) -> None:
    check_operands(query, new, cache, table, lengths, kept, longest, bits)
    require("kv attention", ARCHITECTURES)
    check_device("kv attention", query)
    for name, one, bytes_ in (("cache", cache, 16), ("out", out, 8), ("space", space, 16)):
        if one.data_ptr() % bytes_ or not one.is_contiguous():
            rule = f"contiguous, at a multiple of {bytes_}"
            raise ValueError(f"kv attention: {name} must be {rule}, got address {one.data_ptr():#x}")
    _check("out", out, torch.float16, tuple(query.shape), query.device)
    (batch, heads, size), kv_heads = query.shape, cache.shape[1]
    tile, splits = config.choose(batch, kv_heads, heads // kv_heads, longest, size, bits, multiprocessors(), early)
    tile = tile if clusters() else config.portable(tile, size, bits, block_heads(heads // kv_heads, size)[0])
    needed = workspace_bytes(batch, kv_heads, heads // kv_heads, splits, size)
    if space.dtype != torch.uint8 or space.numel() < needed or space.device != query.device:
        raise ValueError(f"kv attention: space must be {needed} bytes (uint8) on {query.device}, got {space.numel()}")
    run(tile, splits, query, new, cache, table, lengths, kept, bits, early, out, space)


@torch.library.custom_op("tilewright::kv_attention", mutates_args=("cache", "out", "space"))
def _attention(
    query: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    cosine: Tensor | None,
    sine: Tensor | None,
    cache: Tensor,
    table: Tensor,
    lengths: Tensor,
    kept: Tensor | None,
    counts: Tensor | None,
    longest: int,
    bits: int,
    early: bool,
    out: Tensor,
    space: Tensor,
) -> None:
    if len({part is None for part in (key, value, cosine, sine)}) > 1:
        raise ValueError("kv attention: key, value, cosine and sine come together or not at all")
    if (kept is None) != (counts is None):
        raise ValueError("kv attention: positions of kept tokens and their counts come together or not at all")
    listed = None if kept is None or counts is None else (kept, counts)
    new = None if key is None or value is None or cosine is None or sine is None else (key, value, cosine, sine)
    _launch(query, new, cache, table, lengths, listed, longest, bits, early, out, space)


def _prepared(
    query: Tensor, cache: Tensor, longest: int, bits: int, out: Tensor | None, space: Tensor | None
) -> tuple[Tensor, Tensor]:
    if query.ndim != 3 or cache.ndim != 3 or not cache.shape[1]:
        raise ValueError(f"kv attention: query, cache must be 3-dimensional, got {query.shape}, {cache.shape}")
    if space is None:
        space = workspace(query.shape[0], query.shape[1], cache.shape[1], query.shape[2], bits, longest, query.device)
    return torch.empty_like(query) if out is None else out, space


def decode(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cosine: Tensor,
    sine: Tensor,
    cache: Tensor,
    table: Tensor,
    lengths: Tensor,
    longest: int,
    bits: int = 4,
    *,
    kept: tuple[Tensor, Tensor] | None = None,
    early: bool = False,
    out: Tensor | None = None,
    space: Tensor | None = None,
) -> Tensor:
    """A decode step: rotate, attend to the cache and the new token, append that; kept: (positions, counts)."""
    out, space = _prepared(query, cache, longest, bits, out, space)
    listed, counts = kept or (None, None)
    new = key, value, cosine, sine
    _attention(query, *new, cache, table, lengths, listed, counts, longest, bits, early, out, space)
    return out


def attend(
    query: Tensor,
    cache: Tensor,
    table: Tensor,
    lengths: Tensor,
    longest: int,
    bits: int = 4,
    *,
    kept: tuple[Tensor, Tensor] | None = None,
    early: bool = False,
    out: Tensor | None = None,
    space: Tensor | None = None,
) -> Tensor:
    """Attention of rotated queries to the cache alone; of an empty cache the output is 0."""
    out, space = _prepared(query, cache, longest, bits, out, space)
    listed, counts = kept or (None, None)
    new = None, None, None, None
    _attention(query, *new, cache, table, lengths, listed, counts, longest, bits, early, out, space)
    return out


@torch.library.custom_op("tilewright::kv_append", mutates_args=("cache",))
def _append(
    key: Tensor,
    value: Tensor,
    cosine: Tensor | None,
    sine: Tensor | None,
    sequence: Tensor,
    position: Tensor,
    table: Tensor,
    cache: Tensor,
    bits: int,
) -> None:
    if (cosine is None) != (sine is None):
        raise ValueError("kv attention: cosine and sine come together or not at all")
    tokens, kv_heads, size = key.shape
    turn = cosine is not None
    variant = config.macros(Tile(16, 1, 4, 1), size, bits, 1, turn, False, bulk=False) | {"ROTATED": int(turn)}
    numbers = [ctypes.c_int(n) for n in (tokens, table.shape[1], kv_heads)]
    angles = (cosine, sine) if turn else (_NONE, _NONE)
    kernel = load(SOURCE, "append", variant)
    blocks = -(-2 * tokens * kv_heads // 4)
    launch(kernel, blocks, 128, (key, value, *angles, sequence, position, table, cache, *numbers), early=clusters())


def append(
    key: Tensor,
    value: Tensor,
    cosine: Tensor | None,
    sine: Tensor | None,
    sequence: Tensor,
    position: Tensor,
    table: Tensor,
    cache: Tensor,
    bits: int = 4,
) -> None:
    """Tokens to the cache: key, value [tokens, kv heads, D]; cosine, sine [tokens, D / 2], None: keys are rotated;
    sequence, position int32 [tokens]."""
    if key.ndim != 3 or cache.ndim != 3 or table.ndim != 2 or not key.numel():
        raise ValueError(f"kv append: key must be [tokens, kv heads, D] and not empty, got {tuple(key.shape)}")
    tokens, kv_heads, size = key.shape
    _check_format(size, bits)
    for name, x, dtype, shape in (
        ("key", key, torch.float16, (tokens, kv_heads, size)),
        ("value", value, torch.float16, (tokens, kv_heads, size)),
        ("cosine", cosine, torch.float32, (tokens, size // 2)),
        ("sine", sine, torch.float32, (tokens, size // 2)),
        ("sequence", sequence, torch.int32, (tokens,)),
        ("position", position, torch.int32, (tokens,)),
        ("table", table, torch.int32, tuple(table.shape)),
        ("cache", cache, torch.uint8, (cache.shape[0], kv_heads, page_bytes(size, bits))),
    ):
        if x is not None:
            _check(name, x, dtype, shape, key.device)
    require("kv append", ARCHITECTURES)
    _append(key, value, cosine, sine, sequence, position, table, cache, bits)
