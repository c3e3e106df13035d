"""Tiles of the attention kernel, sizes of its cache and workspace, and how sequences are split. No torch, no CUDA."""

from dataclasses import dataclass, replace

PAGE_TOKENS, GROUP_TOKENS = 64, 16
BITS, SIZES = (4, 8, 16), (64, 128, 256)
MOST_HEADS = {64: 16, 128: 16, 256: 8}  # query heads of one kv head in a block, by head size: what registers hold
KEY_BIAS = {4: 64, 8: -128, 16: 0}  # what key codes are moved by on the tensor cores
CENTER = {4: 8, 8: 128, 16: 0}  # what value codes are moved by, downwards
HEADROOM = 8  # log2 of the largest weight when the reference of the exponents is set; 2^15 at most later
SHARED_BYTES = 227 << 10  # of a multiprocessor of sm_90, 1 KB of it a block's own
FAR = 16384  # tokens; a cluster of 8 has too few multiprocessors for more
LOG2_E = 1.4426950408889634


def row_bytes(size: int, bits: int) -> int:
    """Of one token's key, or value."""
    return size * bits // 8


def group_bytes(size: int, bits: int) -> int:
    """Of 16 tokens' keys and values of one head, with scales and zeros."""
    return GROUP_TOKENS * (2 * row_bytes(size, bits) + (8 if bits < 16 else 0))


def page_bytes(size: int, bits: int) -> int:
    """Of 64 tokens' keys and values of one head."""
    return PAGE_TOKENS // GROUP_TOKENS * group_bytes(size, bits)


@dataclass(frozen=True)
class Tile:
    """How a thread block works.

    tokens      that a warp takes at a time: 16, 32 or 64
    stages      such tiles on their way to a warp
    warps       of a block, each with tiles of its own
    resident    blocks a multiprocessor has room for
    cluster     splits of a sequence, in one cluster; 1: any number of splits, which meet in the workspace
    """

    tokens: int
    stages: int
    warps: int
    resident: int
    cluster: int = 1

    def sides(self, heads: int) -> int:
        """Slabs of 16 tokens whose heads share the 8 columns of a matrix product."""
        slabs = self.tokens // GROUP_TOKENS
        return 4 if heads <= 2 and slabs >= 4 else 2 if heads <= 4 and slabs >= 2 else 1

    def shared_bytes(self, size: int, bits: int, heads: int) -> int:
        """Dynamic shared memory of a block."""
        columns, parts = -(-heads // 8) * 8, self.warps * self.sides(heads)
        head = 8 * self.warps * self.stages + columns * (size + 8) * 2 + 4 * size + 8 * (parts + 2) * columns + 4
        stages = self.warps * self.stages * self.tokens // GROUP_TOKENS * group_bytes(size, bits)
        return (-(-head // 8) * 8 + 127) // 128 * 128 + max(stages, (parts + 1) * heads * (size + 4) * 4)

    def fits(self, size: int, bits: int, heads: int) -> bool:
        """Whether the shared memory of a multiprocessor holds all resident blocks."""
        return self.resident * (self.shared_bytes(size, bits, heads) + 1024) <= SHARED_BYTES


def macros(
    tile: Tile, size: int, bits: int, heads: int, new: bool, kept: bool, early: bool = False, bulk: bool = True
) -> dict[str, int]:
    """Of `kernel.cu`."""
    own = {"SIZE": size, "BITS": bits, "HEADS": heads, "NEW": int(new), "KEPT": int(kept), "ROTATED": 1}
    how = {
        "TILE": tile.tokens,
        "STAGES": tile.stages,
        "WARPS": tile.warps,
        "RESIDENT": tile.resident,
        "CLUSTER": tile.cluster,
    }
    shared = {"SHARED": tile.shared_bytes(size, bits, heads)}
    return own | how | shared | {"EARLY": int(early), "KEY_BIAS": KEY_BIAS[bits], "BULK": int(bulk and not kept)}


def workspace_bytes(batch: int, kv_heads: int, group: int, splits: int, size: int) -> int:
    """Counters (zero between launches) and partial sums of one launch."""
    heads, chunks = block_heads(group, size)
    items = batch * kv_heads * chunks
    return counters_bytes(items) + (4 * items * splits * heads * (size + 4) if splits > 1 else 0)


def counters_bytes(items: int) -> int:
    """Of one counter an item, to a multiple of 128."""
    return -(-4 * items // 128) * 128


def block_heads(group: int, size: int) -> tuple[int, int]:
    """(query heads of one kv head that a block has, blocks for all of them)."""
    own = min(group, MOST_HEADS[size])
    return own, -(-group // own)


def choose(
    batch: int, kv_heads: int, group: int, longest: int, size: int, bits: int, multiprocessors: int
) -> tuple[Tile, int]:
    """Tile and splits of a sequence for a launch, `longest` tokens at most a sequence (measured: README).

    Few heads: a cluster of 8 for each; else about two blocks a multiprocessor, of at least two tiles a warp.
    """
    heads, chunks = block_heads(group, size)
    tile, items = base_tile(size, bits, heads), batch * kv_heads * chunks
    if 8 * items <= multiprocessors and longest <= FAR:
        small, wide = (replace(t, resident=1, cluster=8) for t in (tile, replace(tile, stages=2, warps=8)))
        return wide if longest > 2048 and wide.fits(size, bits, heads) else small, 8
    splits = min(round(2 * multiprocessors / items), longest // (2 * tile.tokens * tile.warps))
    return (replace(tile, cluster=2), 2) if splits == 2 else (tile, max(1, splits))


def base_tile(size: int, bits: int, heads: int) -> Tile:
    """For many heads: as many blocks as registers and shared memory hold."""
    tokens = 32 if 2 * group_bytes(size, bits) < 8448 or (size, bits) == (256, 4) else 16
    most = 4 if size <= 128 and heads <= 8 else 2
    for stages, resident in ((3, 4), (3, 3), (3, 2), (2, 2), (2, 1)):
        tile = Tile(tokens, stages, 4, resident)
        if resident <= most and tile.fits(size, bits, heads):
            break
    return tile


def portable(tile: Tile) -> Tile:
    """The same without clusters, for GPUs that have none: its splits meet in the workspace."""
    return replace(tile, cluster=1)
