"""Tiles of the attention kernel, sizes of its cache and workspace, and how sequences are split. No torch, no CUDA."""

from dataclasses import dataclass, replace

PAGE_TOKENS, GROUP_TOKENS = 64, 16
BITS, SIZES = (4, 8, 16), (64, 128, 256)
MOST_HEADS = {64: 16, 128: 16, 256: 8}  # query heads of one kv head in a block, by head size: what registers hold
KEY_BIAS = {4: 64, 8: -128, 16: 0}  # what key codes are moved by on the tensor cores
CENTER = {4: 8, 8: 128, 16: 0}  # what value codes are moved by, downwards
HEADROOM = 8  # log2 of the largest weight when the reference of the exponents is set; 2^15 at most later
SHARED_BYTES = 227 << 10  # of a multiprocessor of sm_90, 1 KB of it a block's own
PORTABLE_BYTES = 99 << 10  # of a block of sm_86 and sm_89
MOST_SPLITS = 32  # more take longer to add up than they save
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

    def fitting(self, size: int, bits: int, heads: int, other: "Tile") -> "Tile":
        """This tile, or the other where shared memory is too small for it."""
        return self if self.tokens <= 64 and self.fits(size, bits, heads) else other

    def filled(self, blocks: int, multiprocessors: int) -> float:
        """Share of the places for blocks that are taken, over the rounds that so many blocks need."""
        places = self.resident * multiprocessors
        return blocks / (-(-blocks // places) * places)


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
    batch: int,
    kv_heads: int,
    group: int,
    longest: int,
    size: int,
    bits: int,
    multiprocessors: int,
    early: bool = False,
) -> tuple[Tile, int]:
    """Tile and splits of a sequence for a launch, `longest` tokens at most a sequence (measured: README).

    The splits, and so the workspace, are the same with and without `early`.
    """
    heads, chunks = block_heads(group, size)
    tile, items = base_tile(size, bits, heads), batch * kv_heads * chunks
    if _in_clusters(items, longest, multiprocessors):
        return _cluster_of_8(tile, longest, early).fitting(size, bits, heads, replace(tile, resident=1, cluster=8)), 8
    if items > multiprocessors:
        return _whole(tile, items, size, bits, heads, multiprocessors, early), 1
    least = 512 if items > 8 else 1024  # tokens of a split
    splits = max(1, min(round(2 * multiprocessors / items), longest // least, MOST_SPLITS))
    together = splits == 2 or (splits == 4 and 4 * items <= multiprocessors)
    return replace(tile, cluster=splits if together else 1), splits


def _in_clusters(items: int, longest: int, multiprocessors: int) -> bool:
    """Whether a cluster of 8 for each of few heads is faster than a workspace."""
    return 8 * items <= multiprocessors and longest <= (8192 if 16 * items <= multiprocessors else 4096)


def _cluster_of_8(tile: Tile, longest: int, early: bool) -> Tile:
    wide = replace(tile, tokens=2 * tile.tokens if early else tile.tokens, stages=2, warps=8)
    return replace(wide if longest > 2048 else tile, resident=1, cluster=8)


def _whole(tile: Tile, items: int, size: int, bits: int, heads: int, multiprocessors: int, early: bool) -> Tile:
    """A block a head: of two ways to fill a multiprocessor, the one whose last round of blocks is fuller."""
    if bits != 4 or size != 128 or heads > 8:
        return tile
    fewer = replace(tile, tokens=64, stages=2, resident=3)
    if items > 2 * multiprocessors and fewer.filled(items, multiprocessors) > tile.filled(items, multiprocessors) + 0.1:
        return fewer
    return tile if early else replace(tile, stages=2)


def base_tile(size: int, bits: int, heads: int) -> Tile:
    """For many heads: as many blocks as registers and shared memory hold."""
    tokens = 32 if 2 * group_bytes(size, bits) < 8448 or (size, bits) == (256, 4) else 16
    most = 4 if size <= 128 and heads <= 8 else 2
    for stages, resident in ((3, 4), (3, 3), (3, 2), (2, 2), (2, 1)):
        tile = Tile(tokens, stages, 4, resident)
        if resident <= most and tile.fits(size, bits, heads):
            break
    return tile


def portable(tile: Tile, size: int, bits: int, heads: int) -> Tile:
    """For GPUs without clusters: splits meet in the workspace, shared memory is what sm_86 gives a block."""
    for tokens, stages in ((32, 3), (32, 2), (16, 3), (16, 2), (16, 1)):
        found = Tile(min(tokens, tile.tokens), stages, 4, min(tile.resident, 4 if size <= 128 and heads <= 8 else 2))
        if found.shared_bytes(size, bits, heads) <= PORTABLE_BYTES:
            break
    return found
