"""Instructions in the main loops of our GEMMs with 4-bit weights, counted in machine code.

CUDA 13.0, sm_90a, `cuobjdump -sass`; sm_120 differs by 8 %. A loop trip is one stage for a warp. Of the portable loop
some 100 instructions are skipped in nearly every trip (the step to the next tile); they are not in these numbers.
"""

from gpu_kernels.w4a8_portable.config import Tile

# a warp, 64 channels x 128 inputs, tiles of 16 tokens; of them 0, 34, 86 and 192 widen or unpack
HOPPER = {"w8a8": 50, "w4a8_channel": 95, "w4a8_group": 119, "w4a16": 221}

# (channel_warps, channel_blocks, token_blocks, slices): per channel, per group; without products
PORTABLE = {
    (1, 2, 1, 8): (259, 427),
    (1, 4, 1, 8): (271, 482),
    (2, 2, 1, 4): (153, 280),
    (1, 2, 2, 8): (328, 449),
    (1, 4, 2, 8): (343, 528),
    (4, 1, 2, 1): (109, 160),
    (1, 2, 4, 8): (344, 483),
    (2, 2, 4, 4): (199, 291),
    (4, 1, 4, 1): (138, 179),
    (1, 2, 8, 8): (588, 715),
    (2, 2, 8, 4): (251, 367),
    (4, 2, 8, 1): (237, 328),
    (2, 2, 8, 2): (249, 368),
    (2, 2, 16, 4): (370, 489),
    (4, 2, 16, 1): (318, 422),
    (4, 2, 16, 2): (363, 497),
    (8, 2, 16, 1): (303, 395),
}
_SCALES = 50  # instructions more a group asks for 16 channels of a warp, about


def portable(kind: str, tile: Tile) -> float:
    """Of a warp, a stage, without products; for a tile that was not counted a line through those that were."""
    counted = PORTABLE.get((tile.channel_warps, tile.channel_blocks, tile.token_blocks, tile.slices))
    if counted and kind != "w8a8" and tile.token_warps == 1:
        return float(counted[kind == "w4a8_group"])
    copies = tile.slices * (8 * tile.tokens + tile.channels * (8 if kind == "w8a8" else 4)) / tile.threads
    widened = 28 + (_SCALES if kind == "w4a8_group" else 0)
    return 55 + widened * tile.channel_blocks + 7 * tile.token_blocks + 6.5 * copies
