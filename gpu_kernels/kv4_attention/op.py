"""work in progress"""

import ctypes
from typing import Any

import torch

from gpu_kernels.kv4_attention.config import MOST_HEADS, Tile, counters_bytes, macros
from gpu_kernels.runtime import launch, load

SOURCE = "kv4_attention/kernel.cu"
Tensor = torch.Tensor


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
    own = min(group, MOST_HEADS)
    chunks = -(-group // own)
    shared = tile.shared_bytes(size, bits, own)
    kernel = load(SOURCE, "attend", macros(tile, size, bits, own, new is not None, kept is not None, early) | (extra or {}), shared)
    none = ctypes.c_void_p(0)
    key, value, cosine, sine = new or (none,) * 4
    positions, counts = kept or (none, none)
    parts = ctypes.c_void_p(space.data_ptr() + counters_bytes(batch * kv_heads * chunks))
    numbers = [ctypes.c_int(n) for n in (table.shape[1], positions.shape[2] if kept else 0, kv_heads, group)]
    factor = ctypes.c_float(1.4426950408889634 / size**0.5)
    arguments: tuple[Any, ...] = (query, key, value, cosine, sine, cache, table, lengths, positions, counts, out, space, parts)
    launch(kernel, (splits, kv_heads * chunks, batch), tile.warps * 32, (*arguments, *numbers, factor), shared, early=True)
