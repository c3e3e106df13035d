"""The portable kernel without a GPU: it compiles, weights lie as mma reads them, schedules cover every tile."""

import re

import numpy as np
import pytest
import torch

from gpu_kernels import runtime
from gpu_kernels.bench.shapes import gemms
from gpu_kernels.w4a8_gemm import packing
from gpu_kernels.w4a8_portable import ablations, check, op
from gpu_kernels.w4a8_portable.config import (
    COUNTERS,
    KINDS,
    PARTIAL_SUMS,
    RESERVED_BYTES,
    SHARED_BYTES,
    TWINS,
    Schedule,
    Tile,
    choose,
    even,
    macros,
    split,
    tiles_of,
    whole,
)

SOURCE = "w4a8_portable/kernel.cu"
KIND_NAMES = tuple(KINDS)


def compiled(kind, tile, architecture, float16=True, twin="whole"):
    fitted = tile.fitted(kind, architecture)
    return bytes(runtime.compile_cubin(SOURCE, architecture, macros(kind, fitted, float16, twin)).code)


@pytest.mark.parametrize("architecture", runtime.ARCHITECTURES)
def test_every_chosen_tile_compiles(architecture):
    """Kinds and forms take turns, so that each is met on every architecture."""
    for index, tile in enumerate(tiles_of("w4a8_group", architecture)):
        kind = KIND_NAMES[index % 3]
        assert compiled(kind, tile, architecture, index % 2 == 0)[:4] == b"\x7fELF"


@pytest.mark.parametrize("twin", [twin for twin in TWINS if twin != "whole"])
def test_twins_compile_to_something_else(twin):
    tile = tiles_of("w4a8_group", "sm_90a")[0]
    assert compiled("w4a8_group", tile, "sm_90a", twin=twin) != compiled("w4a8_group", tile, "sm_90a")


def test_each_twin_lacks_what_it_says():
    assert ablations.twins_of("w4a8_group") == tuple(TWINS)
    assert "no_scales" not in ablations.twins_of("w4a8_channel")
    assert ablations.twins_of("w8a8") == ("whole", "no_products", "loads_only")


# ---- layout ----
def register_places(lane):
    """(row, first of four inputs) of the four registers of operand A, m16n8k32 (PTX ISA, fragments for s8)."""
    g, c = lane // 4, lane % 4
    return [(g + 8 * (i % 2), 4 * c + 16 * (i // 2)) for i in range(4)]


def widened(piece, step):
    """What the kernel makes of a lane's 16 bytes: the operand's four registers as 4 bytes each."""
    words = piece.view(np.uint32)[2 * step : 2 * step + 2]
    nibbles = [word >> shift & 0x0F0F0F0F for word in words.tolist() for shift in (0, 4)]
    return [np.array([x >> 8 * e & 255 for e in range(4)]) for x in nibbles]


@pytest.mark.parametrize(("channels", "inputs"), [(64, 128), (128, 192)])
def test_four_bit_codes_lie_as_the_product_reads_them(channels, inputs):
    codes = np.random.default_rng(1).integers(0, 16, (channels, inputs), np.uint8)
    packed = packing.pack_channel(codes).reshape(channels // 64, -1)
    for rows in range(0, channels, 16):
        for part in range(inputs // 64):
            for lane in range(32):
                at = part * 2048 + rows % 64 // 16 * 512 + lane * 16
                for step in range(2):
                    found = widened(packed[rows // 64, at : at + 16], step)
                    for (row, k), four in zip(register_places(lane), found, strict=True):
                        first = part * 64 + step * 32 + k
                        assert (four == codes[rows + row, first : first + 4]).all()


def test_int8_weights_lie_as_the_product_reads_them():
    weights = np.random.default_rng(2).integers(-128, 128, (64, 192), np.int8)
    packed = packing.pack_int8(weights).reshape(-1)
    for rows in range(0, 64, 16):
        for step in range(6):
            for lane in range(32):
                at = step * 2048 + rows // 16 * 512 + lane * 16
                for i, (row, k) in enumerate(register_places(lane)):
                    four = packed[at + 4 * i : at + 4 * i + 4].view(np.int8)
                    assert (four == weights[rows + row, step * 32 + k : step * 32 + k + 4]).all()


def test_scales_and_zeros_follow_the_codes():
    draw = np.random.default_rng(3)
    scale, zero = draw.integers(0, 8, (128, 2), np.uint8), draw.integers(0, 16, (128, 2), np.uint8)
    packed = packing.pack_group(draw.integers(0, 16, (128, 256), np.uint8), scale, zero)
    for channel in range(128):
        g, h = channel % 8, channel // 8 % 2
        for group in range(2):
            at = group * 4224 + 4096 + channel % 64 // 16 * 32 + g * 4 + 2 * h
            assert packed[channel // 64, at : at + 2].tolist() == [scale[channel, group], zero[channel, group]]


def test_a_word_is_widened_as_the_model_does():
    """word s + 0x80808080 - 0x01010101 z s, then the top bits turned: every protected code, scale and zero."""
    for s in range(18):
        for z in range(16):
            q = np.array([q for q in range(16) if -128 <= (q - z) * s <= 127 and q * s <= 255], np.uint32)
            four = np.stack([q, q[::-1], np.roll(q, 1), np.roll(q, 2)])
            word = (four.astype(np.int64) << np.array([[0], [8], [16], [24]])).sum(axis=0)
            made = ((word * s + 0x80808080 - 0x01010101 * z * s) % 2**32 ^ 0x80808080).astype(np.uint32)
            found = made.view(np.int8).reshape(-1, 4).T
            assert (found == (four.astype(np.int64) - z) * s).all()


# ---- schedules ----
def covered(plan: Schedule, tokens, channels, inputs):
    """How often each (tile, chunk) is worked on: the kernel's Walk."""
    tile = plan.tile
    tiles, chunks = tile.tiles(tokens, channels), -(-inputs // tile.chunk)
    times = np.zeros((tiles, chunks), int)
    units = (tiles - plan.whole) * chunks
    for block in range(plan.blocks):
        times[np.arange(block, plan.whole, plan.blocks)] += 1
        unit, last = units * block // plan.blocks, units * (block + 1) // plan.blocks
        times.reshape(-1)[plan.whole * chunks + unit : plan.whole * chunks + last] += 1
    return times


@pytest.mark.parametrize("architecture", runtime.ARCHITECTURES)
def test_chosen_schedules_cover_every_tile_and_fit(architecture):
    for shape in gemms():
        for kind in KINDS:
            plan = choose(kind, shape.m, shape.n, shape.k, 132, architecture)
            assert (covered(plan, shape.m, shape.n, shape.k) == 1).all()
            assert plan.cut <= COUNTERS
            assert plan.partial_sums <= PARTIAL_SUMS
            used = plan.tile.resident * (plan.tile.shared_bytes(kind) + RESERVED_BYTES)
            assert used <= SHARED_BYTES[architecture]
            assert plan.tile.threads <= 1024
            assert plan.cut == plan.tile.tiles(shape.m, shape.n) - plan.whole


def test_schedules_by_hand():
    tile = Tile(4, 2, 4, 8, 1, 4, 1)  # 256 channels x 128 tokens
    assert (tile.channels, tile.tokens, tile.threads, tile.chunk) == (256, 128, 256, 128)
    assert whole(tile, 1024, 4096, 132) == Schedule(tile, 128, 128, 0)
    assert even(tile, 1024, 6144, 4096, 132) == Schedule(tile, 132, 0, 192)
    assert even(tile, 4096, 6144, 4096, 132) == Schedule(tile, 132, 4 * 132, 768 - 4 * 132)
    assert split(tile, 128, 4096, 4096, 8) == Schedule(tile, 128, 0, 16)
    assert split(tile, 128, 4096, 4096, 1) == Schedule(tile, 16, 16, 0)
    assert split(tile, 128, 4096, 256, 8).blocks == 32


def test_stages_blocks_and_slices_make_way_for_small_shared_memories():
    tile = Tile(4, 2, 4, 8, 1, 5, 1)
    assert [tile.fitted("w4a8_group", here).stages for here in SHARED_BYTES] == [4, 2, 2, 5]
    assert Tile(4, 1, 2, 16, 1, 4, 2).fitted("w4a8_group", "sm_90a") == Tile(4, 1, 2, 16, 1, 4, 2)
    assert Tile(4, 1, 2, 16, 1, 4, 2).fitted("w8a8", "sm_90a") == Tile(4, 1, 2, 16, 1, 3, 2)
    assert Tile(4, 1, 2, 16, 1, 4, 2).fitted("w4a8_group", "sm_86") == Tile(4, 1, 2, 16, 1, 3, 1)
    assert Tile(1, 1, 2, 8, 8, 2, 1).fitted("w4a8_group", "sm_89") == Tile(1, 1, 2, 8, 4, 2, 1)
    with pytest.raises(ValueError, match="no stage of"):
        Tile(8, 4, 4, 16, 1, 2, 1).fitted("w8a8", "sm_86")


# ---- cases ----
def test_cases_are_what_they_say():
    names = [case.name for case in check.CASES]
    assert len(set(names)) == len(names)
    assert len({case.seed for case in check.CASES}) == len(names)
    by_name = {case.name: case for case in check.CASES}
    lowest = check.operands(by_name["w8a8 float16 lowest"])
    assert (lowest["x"] == -128).all()
    assert (lowest["codes"] == -128).all()
    assert not check.operands(by_name["w4a8_group float16 zero"])["group_scale"].any()
    tiny = np.abs(check.operands(by_name["w8a8 bfloat16 subnormal"])["scale"])
    assert tiny.max() < 2.0**-120
    own = {(case.kind, case.tile, case.cut) for case in check.CASES}
    assert {(kind, tile, cut) for kind, tile in check._TILES for cut in (0, 1, 3)} <= own


def test_cases_meet_what_is_chosen_for_many_tokens():
    own = {(case.kind, case.tile) for case in check.CASES if case.tile}
    for kind in KINDS:
        assert (kind, tuple(vars(tiles_of(kind, "sm_90a")[-1]).values())) in own


@pytest.mark.parametrize("kind", KINDS)
def test_cases_pack_and_overflow_where_they_say(kind):
    for case in check.CASES:
        if case.kind == kind == "w4a8_group":
            given = check.operands(case)
            packing.pack_group(given["codes"], given["group_scale"], given["group_zero"])
    wide = next(case for case in check.CASES if case.name == f"{kind} float16 overflow")
    assert 0x7C00 in check.expected(wide)["y"] & 0x7FFF


def test_a_fault_is_found():
    case = next(case for case in check.CASES if re.search("float16 bias", case.name))
    right = check.expected(case)
    assert check.fault(case, right, right) == ""
    wrong = {"y": right["y"].copy()}
    wrong["y"][2, 3] ^= 1
    assert "1 of 4224 differ, first at (2, 3)" in check.fault(case, right, wrong)
    assert "must be" in check.fault(case, right, {"y": right["y"][1:]})


# ---- operators without a GPU ----
def vectors(*sizes):
    return [torch.ones(size, dtype=torch.float16) for size in sizes]


def test_operands_that_do_not_fit_are_refused():
    x, packed = torch.zeros(2, 128, dtype=torch.int8), torch.zeros(1, 4224, dtype=torch.uint8)
    a, s = vectors(2, 64)
    with pytest.raises(
        ValueError, match=r"w4a8_group: x must be a CUDA matrix \[M, K\] of int8, got torch.int8 \[2, 128\]"
    ):
        op.w4a8_group(x, a, packed, s)
    with pytest.raises(ValueError, match=r"w8a8: x must be a CUDA matrix"):
        op.w8a8(x, a, packed, s)
    meta = [one.to("meta") for one in (x, a, packed, s)]  # traced: nothing is launched, shapes are right
    assert op.w8a8(*meta).shape == (2, 64)
    with pytest.raises(ValueError, match=r"w4a8_channel: needs scaled_zero, got None"):
        op.portable_gemm("w4a8_channel", x, packed, s, None, None, a, a, torch.zeros(2, 64), torch.zeros(1))
    with pytest.raises(ValueError, match=r"kind must be one of w4a8_channel, w4a8_group, w8a8, got 'w4a4'"):
        op.portable_gemm(
            "w4a4", x, packed, s, None, None, a, None, torch.zeros(2, 64), torch.zeros(1, dtype=torch.int32)
        )


def test_a_schedule_beyond_the_workspace_is_refused():
    plan = split(Tile(4, 1, 2, 16, 1, 4, 2), 4096, 49152, 8192, 64)
    x, packed = torch.zeros(2, 128, dtype=torch.int8), torch.zeros(1, 4224, dtype=torch.uint8)
    a, s = vectors(2, 64)
    with pytest.raises(ValueError, match="the workspace holds 16777216 sums of 4096 tiles"):
        op.run("w4a8_group", plan, x, packed, s, None, None, a, None, torch.zeros(2, 64), torch.zeros(1))
