"""Tiles of the Hopper GEMMs and which of them to take. No torch, no CUDA: timing models read it too.

A block computes `channels` x `tokens` outputs; its stages of 128 inputs go through shared memory.
"""

from dataclasses import dataclass

KINDS = {"w4a8_channel": 0, "w4a8_group": 1, "w8a8": 2, "w4a16": 3}  # the macro KIND of kernel.cu
CHUNK = 128  # inputs a stage
_CODE_BYTES = {"w4a8_channel": 4096, "w4a8_group": 4096, "w8a8": 8192, "w4a16": 4096}  # 64 channels x CHUNK
_SCALE_BYTES = {"w4a8_group": 128, "w4a16": 256}
_ACCUMULATORS = 256  # 64-channel blocks x tokens a thread block holds with an even share of registers


@dataclass(frozen=True)
class Tile:
    """How one thread block works.

    tokens        8, 16, 32, 64, 128 or 256: the N of wgmma
    warpgroups    that multiply, 1 or 2 (one more warp or warpgroup feeds them)
    blocks        of 64 channels that each of them has
    stages        of the ring in shared memory
    split         blocks (a cluster) that share a tile, each a part of K: 1, 2, 4 or 8
    resident      blocks a multiprocessor has room for
    """

    tokens: int
    warpgroups: int
    blocks: int
    stages: int
    split: int = 1
    resident: int = 1

    @property
    def channels(self) -> int:
        """Output channels of a block."""
        return 64 * self.warpgroups * self.blocks

    @property
    def threads(self) -> int:
        """Threads of a block."""
        large = self.warpgroups * self.blocks * self.tokens > _ACCUMULATORS
        return 128 * self.warpgroups + (128 if large else 32)

    @property
    def owned(self) -> int:
        """Tokens that a block writes in the end (OWN in kernel.cu)."""
        return self.tokens // min(self.split, self.tokens // 8)

    def shared_bytes(self, kind: str) -> int:
        """Dynamic shared memory: stages and barriers, staging of results, facts of tokens, sums from other blocks."""
        x = self.tokens * CHUNK * (2 if kind == "w4a16" else 1)
        once = 64 if self.tokens > 64 and self.owned > 32 else min(self.owned, 32)  # PASS
        parts = (self.split - 1) * self.channels * self.owned * 4
        ring = self.stages * (x + self.channels // 64 * block_bytes(kind) + 16)
        return ring + self.warpgroups * (once * 128 + self.owned * 8) + parts

    def tiles(self, tokens: int, channels: int) -> int:
        """Tiles of a problem, each the work of one cluster."""
        return -(-tokens // self.tokens) * -(-channels // self.channels)

    def grid(self, tokens: int, channels: int, multiprocessors: int) -> int:
        """Clusters: one a tile, but not more single blocks than run at once, which then take tile after tile."""
        tiles = self.tiles(tokens, channels)
        return min(tiles, multiprocessors * self.resident) if self.split == 1 else tiles


def block_bytes(kind: str) -> int:
    """Packed bytes of 64 channels x 128 inputs."""
    return _CODE_BYTES[kind] + _SCALE_BYTES.get(kind, 0)


def packed_bytes(kind: str, channels: int, inputs: int) -> int:
    """Packed bytes of a weight matrix; a last half chunk is half as long (only where there are no scales in it)."""
    return channels // 64 * inputs * block_bytes(kind) // CHUNK


def choose(kind: str, tokens: int, channels: int, inputs: int, multiprocessors: int = 132) -> Tile:
    """The tile that the operator takes."""
    for most, tile in SMALL:
        if tokens <= most:
            return tile
    return LARGE


SMALL = (
    (8, Tile(8, 2, 1, 8, 1, 2)),
    (16, Tile(16, 2, 1, 8, 1, 2)),
    (32, Tile(32, 2, 1, 7, 1, 2)),
    (64, Tile(64, 2, 1, 5, 1, 2)),
)
LARGE = Tile(256, 2, 1, 4)


def wgmma_macros(kind: str, tokens: int, float16: bool) -> dict[str, str]:
    """The macros WGMMA and WGMMA_SUMS: the instruction for that many tokens, and its accumulators.

    PTX ISA, "Asynchronous warpgroup level matrix multiply-accumulate": m64nNk32 of s8, m64nNk16 of 16-bit floats.
    """
    count = tokens // 2
    sums = ", ".join(f"%{i}" for i in range(count))
    a = ", ".join(f"%{count + i}" for i in range(4))
    form = "f16" if float16 else "bf16"
    types = f"k16.f32.{form}.{form}" if kind == "w4a16" else "k32.s32.s8.s8"
    signs = ", 1, 1, 0" if kind == "w4a16" else ""
    text = f"wgmma.mma_async.sync.aligned.m64n{tokens}{types} {{{sums}}}, {{{a}}}, %{count + 4}, more{signs};"
    letter = "f" if kind == "w4a16" else "r"
    return {
        "WGMMA": f'"{{ .reg .pred more; setp.ne.b32 more, %{count + 5}, 0; {text} }}"',
        "WGMMA_SUMS": ", ".join(f'"+{letter}"(d[{i}])' for i in range(count)),
    }


def macros(kind: str, tile: Tile, float16: bool) -> dict[str, object]:
    """All macros of kernel.cu."""
    return {
        "KIND": KINDS[kind],
        "TOKENS": tile.tokens,
        "WARPGROUPS": tile.warpgroups,
        "BLOCKS": tile.blocks,
        "STAGES": tile.stages,
        "SPLIT": tile.split,
        "RESIDENT": tile.resident,
        "FLOAT16": int(float16),
        **wgmma_macros(kind, tile.tokens, float16),
    }
