"""Tiles of the Hopper GEMMs and which of them to take. No torch, no CUDA: timing models read it too.

A block computes `channels` x `tokens` outputs; its stages of 128 inputs go through shared memory.
"""

from dataclasses import dataclass, replace

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


def unit(kind: str) -> tuple[int, int, int]:
    """What lies together of 64 channels, as a copy takes it: (8-byte words, rows of them, inputs).

    The words of a row are at most 256 (a box's side); 64 inputs, or 128 where a group's scales come with its codes.
    """
    return {
        "w4a8_channel": (256, 1, 64),
        "w4a8_group": (176, 3, 128),
        "w8a8": (256, 2, 64),
        "w4a16": (136, 4, 128),
    }[kind]


def choose(kind: str, tokens: int, channels: int, inputs: int, multiprocessors: int = 132) -> Tile:
    """The tile that the operator takes: up to 64 tokens by `_narrow`, above by the least `estimated_us`.

    Of the tiles measured for 56 shapes on an H200 it takes the fastest, or one within 5 % (per channel) and 4 % (per
    group) of it above 64 tokens; below, one within 10 %.
    """
    if tokens <= 64:
        return _narrow(kind, tokens, channels, inputs, multiprocessors)
    chunks = -(-inputs // CHUNK)
    fitting = [tile for tile in WIDE if tile.split <= chunks and _stages(kind, tile, tile.resident) >= LEAST_STAGES]
    found = min(fitting, key=lambda tile: estimated_us(tile, tokens, channels, inputs, multiprocessors))
    return replace(found, stages=_stages(kind, found, found.resident))


def estimated_us(tile: Tile, tokens: int, channels: int, inputs: int, multiprocessors: int = 132) -> float:
    """Time of a tile of WIDE: per wave of blocks, and per chunk that a multiprocessor works through."""
    wave_us, chunk_us = WIDE[tile]
    blocks, slots = tile.tiles(tokens, channels) * tile.split, multiprocessors * tile.resident
    full, rest = divmod(blocks, slots)
    waves, turns = full + (rest > 0), full * tile.resident + -(-rest // multiprocessors)
    return LAUNCH_US + waves * wave_us + turns * -(-inputs // CHUNK) / tile.split * chunk_us


# Microseconds (per wave, per chunk): fitted to 200 times of an H200, M 128 to 4608, 2026-11-30; within 8 %
LAUNCH_US = 1.6
WIDE = {
    Tile(128, 1, 1, 10, 1, 1): (0.90, 0.225),
    Tile(128, 1, 1, 5, 1, 2): (0.82, 0.235),
    Tile(128, 1, 1, 10, 2, 1): (2.47, 0.22),
    Tile(128, 2, 1, 8, 1, 1): (1.58, 0.33),
    Tile(128, 2, 1, 7, 2, 1): (2.59, 0.38),
    Tile(128, 2, 2, 6, 1, 1): (2.94, 0.625),
    Tile(256, 2, 1, 5, 1, 1): (3.10, 0.607),
}


def _narrow(kind: str, tokens: int, channels: int, inputs: int, multiprocessors: int) -> Tile:
    """64 channels a block, K cut so that 192 blocks or more pull on the memory, in waves as full as can be."""
    size = next(size for size in (8, 16, 32, 64) if size >= tokens)
    most = min(2 if size > 32 else 4, -(-inputs // CHUNK))
    blocks = channels // 64
    split = next((split for split in (1, 2, 4) if split <= most and blocks * split >= 192), 1 << most.bit_length() - 1)

    def tile(resident: int) -> Tile:
        # activations of up to 32 tokens are small: room for a block of the next kernel, which fetches its weights
        together = max(3, resident) if size <= 32 else resident
        one = Tile(size, 1, 1, MOST_STAGES, split, resident)
        return replace(one, stages=_stages(kind, one, together))

    def emptiness(one: Tile) -> tuple[float, int]:
        slots = multiprocessors * one.resident
        waves = -(-blocks * split // slots)
        return round(1 - blocks * split / (waves * slots), 2), waves

    return min((one for one in map(tile, (1, 2, 3, 4)) if one.stages >= LEAST_STAGES), key=emptiness)


LEAST_STAGES, MOST_STAGES = 3, 12
SHARED_BYTES = 227 << 10  # that a multiprocessor of sm_90 gives to blocks; each takes 1 KiB for itself


def _stages(kind: str, tile: Tile, together: int) -> int:
    """As many stages as fit if that many blocks share a multiprocessor, MOST_STAGES at most."""
    room = SHARED_BYTES // together - 1024
    one = replace(tile, stages=1).shared_bytes(kind)
    each = replace(tile, stages=2).shared_bytes(kind) - one
    return min(MOST_STAGES, 1 + (room - one) // each)


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
