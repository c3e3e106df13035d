"""Tiles of the portable GEMMs and which of them to take. No torch, no CUDA: timing models read it too.

A block computes `channels` x `tokens` outputs; stages of `chunk` inputs go through shared memory. The weights lie as
`w4a8_gemm.packing` puts them: fragments of mma.sync and wgmma are the same.
"""

from dataclasses import dataclass, replace
from math import ceil
from typing import NamedTuple

from gpu_kernels.w4a8_gemm.config import block_bytes

KINDS = {"w4a8_channel": 0, "w4a8_group": 1, "w8a8": 2}  # the macro KIND of kernel.cu
TWINS = {"whole": 0, "no_widening": 1, "no_scales": 2, "no_products": 3, "loads_only": 4}  # the macro TWIN
SHARED_BYTES = {"sm_80": 164 << 10, "sm_86": 100 << 10, "sm_89": 100 << 10, "sm_90a": 228 << 10}  # a multiprocessor's
RESERVED_BYTES = 1040  # of them for each block: 1 KiB (CUDA programming guide, "Compute capabilities"), a static word
COUNTERS, PARTIAL_SUMS = 1 << 12, 1 << 24  # int32 of a workspace


@dataclass(frozen=True)
class Tile:
    """How one thread block works. Powers of two, stages and resident aside.

    channel_warps, token_warps    warps side by side
    channel_blocks                of 16 channels a warp has
    token_blocks                  of 8 tokens a warp has
    slices                        warps that share a warp's outputs, 128 inputs of a chunk each
    stages                        of a chunk, in shared memory
    resident                      blocks a multiprocessor is to have room for
    """

    channel_warps: int
    token_warps: int
    channel_blocks: int
    token_blocks: int
    slices: int = 1
    stages: int = 4
    resident: int = 1

    @property
    def channels(self) -> int:
        """Output channels of a block."""
        return 16 * self.channel_warps * self.channel_blocks

    @property
    def tokens(self) -> int:
        """Tokens of a block."""
        return 8 * self.token_warps * self.token_blocks

    @property
    def chunk(self) -> int:
        """Inputs of a stage."""
        return 128 * self.slices

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.channel_warps * self.token_warps * self.slices

    def stage_bytes(self, kind: str) -> int:
        """Shared memory of a stage: activations, codes, scales."""
        return self.slices * (self.tokens * 128 + self.channels * block_bytes(kind) // 64)

    def shared_bytes(self, kind: str) -> int:
        """Dynamic shared memory: stages, where slices meet, results on their way out."""
        meeting = 4 * self.channels * self.tokens if self.slices > 1 else 0
        return self.stages * self.stage_bytes(kind) + meeting + self.threads // 32 * 8 * (32 * self.channel_blocks + 16)

    def tiles(self, tokens: int, channels: int) -> int:
        """Tiles of a problem."""
        return -(-tokens // self.tokens) * -(-channels // self.channels)

    def fitted(self, kind: str, architecture: str) -> "Tile":
        """With fewer stages, then resident blocks, then slices, where shared memory is short; two stages at least."""
        for slices in (self.slices >> shift for shift in range(self.slices.bit_length())):
            for resident in range(self.resident, 0, -1):
                for stages in range(self.stages, 1, -1):
                    found = replace(self, slices=slices, resident=resident, stages=stages)
                    if resident * (found.shared_bytes(kind) + RESERVED_BYTES) <= SHARED_BYTES[architecture]:
                        return found
        raise ValueError(f"{kind}: no stage of {self} fits into the shared memory of {architecture}")


@dataclass(frozen=True)
class Schedule:
    """A tile, the blocks that run, how many tiles are not cut along K; the others are spread evenly over all blocks."""

    tile: Tile
    blocks: int
    whole: int
    cut: int  # tiles that are

    @property
    def partial_sums(self) -> int:
        """int32 numbers of the workspace: two tiles a block; each cut tile has a counter as well."""
        return 2 * self.blocks * self.tile.channels * self.tile.tokens if self.cut else 0


def whole(tile: Tile, tokens: int, channels: int, multiprocessors: int) -> Schedule:
    """No tile is cut."""
    tiles = tile.tiles(tokens, channels)
    return Schedule(tile, min(tiles, multiprocessors * tile.resident), tiles, 0)


def split(tile: Tile, tokens: int, channels: int, inputs: int, parts: int) -> Schedule:
    """Every tile is cut into so many parts, of a chunk at least; one part: none is cut."""
    tiles = tile.tiles(tokens, channels)
    parts = min(parts, -(-inputs // tile.chunk))
    return Schedule(tile, tiles * parts, 0, tiles) if parts > 1 else Schedule(tile, tiles, tiles, 0)


def even(tile: Tile, tokens: int, channels: int, inputs: int, multiprocessors: int) -> Schedule:
    """Whole waves, then the last incomplete one and the one before it spread evenly over all blocks (stream-K)."""
    tiles, blocks = tile.tiles(tokens, channels), multiprocessors * tile.resident
    if tiles % blocks == 0:
        return Schedule(tile, blocks, tiles, 0)
    kept = max(0, tiles // blocks - 1) * blocks
    units = (tiles - kept) * -(-inputs // tile.chunk)
    return Schedule(tile, min(blocks, units), kept, tiles - kept)


def macros(kind: str, tile: Tile, float16: bool, twin: str = "whole") -> dict[str, object]:
    """All macros of kernel.cu."""
    return {
        "KIND": KINDS[kind],
        "CHANNEL_WARPS": tile.channel_warps,
        "TOKEN_WARPS": tile.token_warps,
        "CHANNEL_BLOCKS": tile.channel_blocks,
        "TOKEN_BLOCKS": tile.token_blocks,
        "SLICES": tile.slices,
        "STAGES": tile.stages,
        "RESIDENT": tile.resident,
        "FLOAT16": int(float16),
        "SHARED_BYTES": tile.shared_bytes(kind),
        "TWIN": TWINS[twin],
    }


def choose(kind: str, tokens: int, channels: int, inputs: int, multiprocessors: int, architecture: str) -> Schedule:
    """The schedule that the operator takes; measured on an H200, see the README.

    Up to 256 tokens: the narrowest tile of which all blocks run at once; where K is long, a wider one cut in parts.
    Beyond: whole tiles, unless a last wave would leave much idle.
    """
    size = tokens, channels
    for row in SMALL:
        if tokens > row.most:
            continue
        narrow, middle, wide = (tile.fitted(kind, architecture) for tile in row.tiles)
        if row.parts * narrow.tiles(*size) <= multiprocessors * narrow.resident and inputs < row.long:
            return split(narrow, *size, inputs, row.parts)
        for tile in (middle, wide):
            tiles, slots = tile.tiles(*size), multiprocessors * tile.resident
            if tiles <= slots or tile is wide:
                return split(tile, *size, inputs, max(1, slots // tiles) if inputs >= LONG else 1)
    tile = _large(kind, architecture).fitted(kind, architecture)
    waves = tile.tiles(*size) / (multiprocessors * tile.resident)
    idle = ceil(waves) / waves > MOST_IDLE and waves < FEW_WAVES
    return even(tile, *size, inputs, multiprocessors) if idle else whole(tile, *size, multiprocessors)


def _large(kind: str, architecture: str) -> Tile:
    if kind == "w8a8":
        return LARGE_INT8
    return LARGE if SHARED_BYTES[architecture] >= ROOMY else SMALL[-1].tiles[-1]


def tiles_of(kind: str, architecture: str) -> tuple[Tile, ...]:
    """All that `choose` may take."""
    every = [tile for row in SMALL for tile in row.tiles] + [_large(kind, architecture)]
    return tuple(dict.fromkeys(tile.fitted(kind, architecture) for tile in every))


class Row(NamedTuple):
    """Tiles for up to `most` tokens: narrow, middle, wide. The narrow one is cut into `parts`, for K below `long`."""

    most: int
    tiles: tuple[Tile, Tile, Tile]
    parts: int = 1
    long: int = 8192


LONG = 8192  # inputs from which middle and wide tiles are cut
FEW_WAVES, MOST_IDLE = 4, 1.15  # of a last wave, as a ratio
ROOMY = 160 << 10  # bytes of shared memory
SMALL = (
    Row(8, (Tile(1, 1, 2, 1, 8, 4, 2), Tile(1, 1, 4, 1, 8, 3, 1), Tile(2, 1, 2, 1, 4, 4, 2))),
    Row(16, (Tile(1, 1, 2, 2, 8, 3, 2), Tile(1, 1, 4, 2, 8, 3, 1), Tile(4, 1, 1, 2, 1, 8, 4))),
    Row(32, (Tile(1, 1, 2, 4, 8, 3, 1), Tile(2, 1, 2, 4, 4, 3, 1), Tile(4, 1, 1, 4, 1, 6, 3))),
    Row(64, (Tile(1, 1, 2, 8, 8, 2, 1), Tile(2, 1, 2, 8, 4, 3, 1), Tile(4, 1, 2, 8, 1, 4, 3))),
    Row(128, (Tile(2, 1, 2, 8, 2, 3, 2), Tile(2, 1, 2, 16, 4, 2, 1), Tile(4, 1, 2, 16, 1, 4, 2)), parts=2),
    Row(256, (Tile(2, 1, 2, 16, 4, 2, 1), Tile(4, 1, 2, 16, 2, 3, 1), Tile(4, 1, 2, 16, 1, 4, 2)), long=1 << 30),
)
LARGE = Tile(8, 1, 2, 16, 1, 5, 1)
LARGE_INT8 = Tile(2, 2, 4, 8, 1, 3, 2)
