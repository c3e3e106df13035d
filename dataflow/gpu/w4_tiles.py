"""Tiles that our W4 operators take, for many problems at once: what `config.choose` of each kernel takes one by one.

    plan = hopper_plan("w4a8_group", m, n, k, 132)      # wgmma, gpu_kernels/w4a8_gemm
    plan = portable_plan("w4a8_group", m, n, k, 108, "sm_80")   # mma.sync, gpu_kernels/w4a8_portable

Tables of tiles and every constant come from the kernels' own `config.py`; only the choice is written again, over
arrays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dataflow.gpu import w4_counts
from dataflow.gpu.estimate import Floats
from gpu_kernels.w4a8_gemm import config as hopper
from gpu_kernels.w4a8_portable import config as portable

Whole = NDArray[np.int64]
CHUNK = hopper.CHUNK
BAND = 8  # token tiles that both kernels take together, so that weights are found in the L2
_SIZES = (8, 16, 32, 64)  # tokens of narrow Hopper tiles
_SPLITS, _RESIDENTS = (1, 2, 4), (1, 2, 3, 4)
_REGISTERS, _OTHER_REGISTERS = 1 << 16, 90  # of a multiprocessor; of a thread of the portable kernel beside its sums
_FULL = 192  # blocks that pull on the memory well enough, as `config._narrow` has it


@dataclass(frozen=True)
class Plan:
    """Arrays [points].

    tokens, channels      outputs of a block
    stages                of a block, in shared memory
    resident              blocks that a multiprocessor is meant to hold
    room                  blocks for which it has room
    together              of the two, the one that tells how many share it
    instructions          of a warp in a stage of its main loop, without products
    split                 blocks that share a tile, each a part of K (Hopper: a cluster; portable: parts of cut tiles)
    tiles                 of the problem
    cut                   of them, those whose sums go through memory (portable)
    units                 pieces of work that one block takes as a whole
    chunks                of 128 inputs that the longest unit walks through
    slices                warps of a block that share outputs, 128 inputs each
    channel_warps, token_warps    warps side by side (of Hopper: warpgroups and 1)
    channel_blocks        of 64 (Hopper) or 16 channels of each
    """

    tokens: Floats
    channels: Floats
    stages: Floats
    resident: Floats
    room: Floats
    together: Floats
    instructions: Floats
    split: Floats
    tiles: Floats
    cut: Floats
    units: Floats
    chunks: Floats
    slices: Floats
    channel_warps: Floats
    token_warps: Floats
    channel_blocks: Floats

    def waves(self, multiprocessors: int) -> Floats:
        """Rounds of resident blocks."""
        return np.ceil(self.units / (multiprocessors * self.together))

    def turns(self, multiprocessors: int) -> Floats:
        """Units that the busiest multiprocessor works through."""
        slots = multiprocessors * self.together
        full = np.floor(self.units / slots)
        return full * self.together + np.ceil((self.units - full * slots) / multiprocessors)


def ceiling(a: Whole, b: Whole | int) -> Whole:
    """Quotient of whole numbers, rounded up."""
    return np.asarray(-(-a // b))


# ---- Hopper ----------------------------------------------------------------------------------------------------------


def hopper_plan(kind: str, m: Whole, n: Whole, k: Whole, multiprocessors: int) -> Plan:
    """What `w4a8_gemm.config.choose` takes."""
    table = _hopper_table(kind)
    index = np.where(m <= 64, _narrow(table, m, n, k, multiprocessors), _wide(table, m, n, k, multiprocessors))
    return _hopper_arrays(kind, table, index, m, n, k)


@dataclass(frozen=True)
class _HopperTable:
    """Every tile that may be taken; `narrow` [4 sizes, 3 splits, 4 residents] and `wide` say where they are."""

    tiles: tuple[hopper.Tile, ...]
    usable: NDArray[np.bool_]
    narrow: Whole
    wide: Whole
    wide_us: Floats  # [tiles of WIDE, 2]: of a wave, of a chunk

    def column(self, of: Callable[[hopper.Tile], int]) -> Whole:
        return np.array([of(tile) for tile in self.tiles], dtype=np.int64)


@lru_cache(maxsize=8)
def _hopper_table(kind: str) -> _HopperTable:
    narrow = [
        _with_stages(kind, hopper.Tile(size, 1, 1, 1, split, resident), max(3, resident) if size <= 32 else resident)
        for size in _SIZES
        for split in _SPLITS
        for resident in _RESIDENTS
    ]
    wide = [_with_stages(kind, tile, tile.resident) for tile in hopper.WIDE]
    tiles = (*narrow, *wide)
    usable = np.array([tile.stages >= hopper.LEAST_STAGES for tile in tiles])
    shape = len(_SIZES), len(_SPLITS), len(_RESIDENTS)
    order = np.arange(len(tiles))
    fitted = np.array(list(hopper.WIDE.values()))
    return _HopperTable(tiles, usable, order[: len(narrow)].reshape(shape), order[len(narrow) :], fitted)


def _with_stages(kind: str, tile: hopper.Tile, together: int) -> hopper.Tile:
    """With as many stages as fit if so many blocks share a multiprocessor."""
    room = hopper.SHARED_BYTES // together - 1024
    one, two = (replace(tile, stages=stages).shared_bytes(kind) for stages in (1, 2))
    return replace(tile, stages=min(hopper.MOST_STAGES, 1 + (room - one) // (two - one)))


def _narrow(table: _HopperTable, m: Whole, n: Whole, k: Whole, multiprocessors: int) -> Whole:
    """Index of the tile up to 64 tokens: enough blocks, then the fullest waves, then the fewest."""
    size = np.searchsorted(_SIZES, np.minimum(m, 64))
    split = _narrow_split(size, n // 64, ceiling(k, CHUNK))
    found = table.narrow[size, split]  # [points, residents]
    blocks = (n // 64 * np.array(_SPLITS)[split])[:, None]
    slots = multiprocessors * np.array(_RESIDENTS)
    waves = ceiling(blocks, slots)
    empty = np.round(1 - blocks / (waves * slots), 2) + 1e-7 * waves
    best = np.argmin(np.where(table.usable[found], empty, np.inf), axis=1)
    return np.take_along_axis(found, best[:, None], axis=1)[:, 0]


def _narrow_split(size: Whole, blocks: Whole, chunks: Whole) -> Whole:
    """Index into _SPLITS: the least that gives blocks enough, else the most that is allowed."""
    most = np.minimum(np.where(size > 2, 2, 4), chunks)
    allowed = np.array(_SPLITS) <= most[:, None]
    enough = allowed & (blocks[:, None] * np.array(_SPLITS) >= _FULL)
    return np.where(enough.any(axis=1), np.argmax(enough, axis=1), allowed.sum(axis=1) - 1)


def _wide(table: _HopperTable, m: Whole, n: Whole, k: Whole, multiprocessors: int) -> Whole:
    """Index of the tile above 64 tokens: the least of `estimated_us`."""
    tiles = [table.tiles[index] for index in table.wide]
    column = {name: np.array([getattr(t, name) for t in tiles]) for name in ("tokens", "channels", "split", "resident")}
    chunks = ceiling(k, CHUNK)[:, None]
    units = ceiling(m[:, None], column["tokens"]) * ceiling(n[:, None], column["channels"]) * column["split"]
    full, rest = np.divmod(units, multiprocessors * column["resident"])
    turns = full * column["resident"] + ceiling(rest, multiprocessors)
    wave_us, chunk_us = table.wide_us.T
    # the same order of operations as there: ties are common
    time = hopper.LAUNCH_US + (full + (rest > 0)) * wave_us + turns * chunks / column["split"] * chunk_us
    fits = table.usable[table.wide] & (column["split"] <= chunks)
    return table.wide[np.argmin(np.where(fits, time, np.inf), axis=1)]


def _hopper_arrays(kind: str, table: _HopperTable, index: Whole, m: Whole, n: Whole, k: Whole) -> Plan:
    def column(of: Callable[[hopper.Tile], int]) -> Floats:
        return table.column(of)[index].astype(np.float64)

    tokens, channels, split = column(lambda t: t.tokens), column(lambda t: t.channels), column(lambda t: t.split)
    tiles = np.ceil(m / tokens) * np.ceil(n / channels)
    one = np.ones(len(index))
    return Plan(
        tokens=tokens,
        channels=channels,
        stages=column(lambda t: t.stages),
        resident=column(lambda t: t.resident),
        room=np.maximum(np.where(tokens <= 32, 3.0, 1.0), column(lambda t: t.resident)),
        together=column(lambda t: t.resident),
        instructions=column(lambda t: t.blocks) * w4_counts.HOPPER[kind],
        split=split,
        tiles=tiles,
        cut=0 * one,
        units=tiles * split,
        chunks=np.ceil(ceiling(k, CHUNK) / split),
        slices=one,
        channel_warps=column(lambda t: t.warpgroups),
        token_warps=one,
        channel_blocks=column(lambda t: t.blocks),
    )


# ---- portable --------------------------------------------------------------------------------------------------------


def portable_plan(kind: str, m: Whole, n: Whole, k: Whole, multiprocessors: int, architecture: str) -> Plan:
    """What `w4a8_portable.config.choose` takes; `architecture` as its `SHARED_BYTES` has them."""
    tiles, rows = _portable_table(kind, architecture)
    field = {name: np.array([getattr(t, name) for t in tiles]) for name in ("tokens", "channels", "chunk", "resident")}

    def count(index: Whole) -> Whole:
        return np.asarray(ceiling(m, field["tokens"][index]) * ceiling(n, field["channels"][index]))

    row = np.minimum(np.searchsorted([one.most for one in portable.SMALL], m), len(portable.SMALL) - 1)
    parts_of, long = (np.array([getattr(one, name) for one in portable.SMALL])[row] for name in ("parts", "long"))
    narrow, middle, wide = rows[row].T
    slots = multiprocessors * field["resident"]
    takes_narrow = (parts_of * count(narrow) <= slots[narrow]) & (k < long)
    other = np.where(count(middle) <= slots[middle], middle, wide)
    more = np.where(k >= portable.LONG, np.maximum(1, slots[other] // np.maximum(count(other), 1)), 1)
    small = m <= portable.SMALL[-1].most
    index = np.where(small, np.where(takes_narrow, narrow, other), len(tiles) - 1)
    parts = np.minimum(np.where(small, np.where(takes_narrow, parts_of, more), 1), ceiling(k, field["chunk"][index]))
    kept = np.where(small, np.where(parts > 1, 0, count(index)), _kept(count(index), slots[index]))
    return _portable_arrays(tiles, index, count(index), kept, parts, k, slots[index], kind, architecture)


def _kept(tiles: Whole, slots: Whole) -> Whole:
    """Large tiles that are not cut: all, unless a last wave would leave much idle (`portable.even`)."""
    waves = tiles / slots
    idle = (np.ceil(waves) / waves > portable.MOST_IDLE) & (waves < portable.FEW_WAVES)
    return np.where(idle, np.maximum(0, tiles // slots - 1) * slots, tiles)


@lru_cache(maxsize=16)
def _portable_table(kind: str, architecture: str) -> tuple[tuple[portable.Tile, ...], Whole]:
    """Tiles, and where narrow, middle and wide ones of each row are [6, 3]; the last tile is the large one."""
    tiles = [tile.fitted(kind, architecture) for row in portable.SMALL for tile in row.tiles]
    # asked of the operator: a problem with more tokens than any small row has, of very many tiles
    large = portable.choose(kind, portable.SMALL[-1].most + 1, 1 << 20, 1 << 10, 1, architecture).tile
    return (*tiles, large), np.arange(len(tiles)).reshape(len(portable.SMALL), 3)


def _room(tile: portable.Tile, kind: str, architecture: str) -> int:
    """Blocks that share a multiprocessor: shared memory and registers may have room for more than were asked for."""
    shared = portable.SHARED_BYTES[architecture] // (tile.shared_bytes(kind) + portable.RESERVED_BYTES)
    registers = _REGISTERS // (tile.threads * (_OTHER_REGISTERS + 4 * tile.channel_blocks * tile.token_blocks))
    return max(tile.resident, min(shared, registers))


def _portable_arrays(
    tiles: Sequence[portable.Tile],
    index: Whole,
    count: Whole,
    kept: Whole,
    parts: Whole,
    k: Whole,
    slots: Whole,
    kind: str,
    architecture: str,
) -> Plan:
    def column(of: Callable[[portable.Tile], float]) -> Floats:
        return np.array([of(tile) for tile in tiles], dtype=np.float64)[index]

    cut, slices = count - kept, column(lambda t: t.slices)
    steps = np.ceil(k / (CHUNK * slices))
    spread = (cut > 0) & (parts == 1)  # stream-K: whole waves, the rest evenly over all blocks
    units = np.where(spread, slots, kept + cut * parts)
    each = np.where(spread, np.ceil(count * steps / slots), np.ceil(steps / np.where(cut > 0, parts, 1)))
    return Plan(
        tokens=column(lambda t: t.tokens),
        channels=column(lambda t: t.channels),
        stages=column(lambda t: t.stages),
        resident=column(lambda t: t.resident),
        room=column(lambda t: _room(t, kind, architecture)),
        together=column(lambda t: _room(t, kind, architecture)),
        instructions=column(lambda t: w4_counts.portable(kind, t)),
        split=np.where(spread, np.minimum(np.ceil(steps / each) + 1, steps), parts),
        tiles=count.astype(np.float64),
        cut=cut.astype(np.float64),
        units=units.astype(np.float64),
        chunks=each * slices,
        slices=slices,
        channel_warps=column(lambda t: t.channel_warps),
        token_warps=column(lambda t: t.token_warps),
        channel_blocks=column(lambda t: t.channel_blocks),
    )
