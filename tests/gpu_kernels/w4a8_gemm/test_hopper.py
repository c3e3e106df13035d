"""The Hopper GEMMs without a GPU: they compile, weights are packed as the fragments ask, tiles fit, errors are told."""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from gpu_kernels import runtime
from gpu_kernels.w4a8_gemm import check, packing
from gpu_kernels.w4a8_gemm.config import KINDS, SHARED_BYTES, WIDE, Tile, choose, macros, packed_bytes
from gpu_kernels.w4a8_gemm.model import group_weights

SHAPES = ((6144, 4096), (28672, 4096), (4096, 14336), (64, 128), (192, 384))
TOKENS = (1, 8, 9, 16, 17, 33, 64, 65, 128, 200, 256, 1024, 5000)


@pytest.mark.parametrize(
    ("kind", "tokens"),
    [("w4a8_channel", 1), ("w4a8_group", 64), ("w4a8_group", 4096), ("w8a8", 128), ("w4a16", 64)],
)
def test_it_compiles(kind: str, tokens: int) -> None:
    pytest.importorskip("cuda.core")
    tile = choose(kind, tokens, 6144, 4096)
    cubin = runtime.compile_cubin("w4a8_gemm/kernel.cu", "sm_90a", macros(kind, tile, tokens % 128 == 0)).code
    assert b"gemm" in cubin


@pytest.mark.parametrize("kind", KINDS)
def test_the_chosen_tile_fits(kind: str) -> None:
    for tokens, (outputs, inputs) in product(TOKENS, SHAPES):
        tile = choose(kind, tokens, outputs, inputs)
        assert tile.shared_bytes(kind) + 1024 <= SHARED_BYTES // tile.resident
        assert tile.stages >= 3  # a stage is waited for while the two before it are in use
        assert tile.split <= -(-inputs // 128)  # every block of a cluster has a chunk
        assert tile.tokens >= min(tokens, 128) or tokens > 64
        assert tile.resident * tile.threads <= 2048


def test_more_multiprocessors_take_more_blocks() -> None:
    few, many = (choose("w4a8_channel", 16, 4096, 4096, sms) for sms in (64, 132))
    assert many.grid(16, 4096, 132) * many.split >= few.grid(16, 4096, 64) * few.split


def test_a_wider_tile_needs_more_shared_memory() -> None:
    tile = next(iter(WIDE))
    sizes = [replace(tile, tokens=tokens).shared_bytes("w4a8_group") for tokens in (64, 128, 256)]
    assert sizes == sorted(set(sizes))
    assert replace(tile, split=4).shared_bytes("w8a8") > tile.shared_bytes("w8a8")


# ---- packing ----------------------------------------------------------------------------------------------------


def drawn(low: int, high: int, outputs: int = 192, inputs: int = 256) -> Any:
    return np.random.default_rng(3).integers(low, high, (outputs, inputs))


def test_channel_weights_come_back() -> None:
    q = drawn(0, 16, 128, 192)
    packed = packing.pack_channel(q)
    assert packed.size == packed_bytes("w4a8_channel", 128, 192)
    assert np.array_equal(packing.unpack_channel(packed, 192), q)


def test_group_weights_come_back() -> None:
    q, s, z = drawn(0, 16), drawn(1, 9, 192, 2), drawn(0, 16, 192, 2)
    packed = packing.pack_group(q, s, z)
    assert packed.size == packed_bytes("w4a8_group", 192, 256)
    for found, wanted in zip(packing.unpack_group(packed, 256), (q, s, z), strict=True):
        assert np.array_equal(found, wanted)


def test_int8_weights_come_back() -> None:
    w = drawn(-128, 128)
    packed = packing.pack_int8(w)
    assert packed.size == packed_bytes("w8a8", 192, 256)
    assert np.array_equal(packing.unpack_int8(packed, 256), w)


def lane_of(n: int, k: int) -> tuple[int, int, int, int]:
    """(thread, half of the rows, half of 32 inputs, byte) of A[n][k]: PTX ISA, fragments of wgmma for 8-bit types."""
    warp, row = divmod(n % 64, 16)
    half, g = divmod(row, 8)
    part, column = divmod(k % 32, 16)
    c, byte = divmod(column, 4)
    return warp * 32 + g * 4 + c, half, part, byte


def test_a_code_lies_where_its_lane_reads_it() -> None:
    q, w = drawn(0, 16), drawn(-128, 128)
    nibbles = packing.pack_channel(q).reshape(3, 4, 128, 2, 2, 4)  # blocks, 64 inputs, thread, step, part, byte
    bytes8 = packing.pack_int8(w).view(np.int8).reshape(3, 4, 2, 128, 2, 2, 4)
    for n, k in ((0, 0), (77, 133), (191, 255), (9, 17), (63, 64), (120, 47)):
        thread, half, part, byte = lane_of(n, k)
        place = n // 64, k // 64, thread, k % 64 // 32, part, byte
        assert nibbles[place] >> 4 * half & 15 == q[n, k]
        assert bytes8[n // 64, k // 64, k % 64 // 32, thread, part, half, byte] == w[n, k]


def test_a16_pairs_lie_where_their_lane_reads_them() -> None:
    q = drawn(0, 16, 64, 256)
    packed = packing.pack_a16(q, np.full((64, 2), 0.5), drawn(0, 16, 64, 2)).reshape(2, 4096 + 256)
    words = np.ascontiguousarray(packed[:, :4096]).view("<u4").reshape(4, 128, 4)  # 64 inputs, thread, step of 16
    for n, k in ((0, 0), (33, 201), (63, 255), (8, 9), (17, 100)):
        warp, row = divmod(n, 16)
        half, g = divmod(row, 8)
        part, column = divmod(k % 16, 8)
        word = words[k // 64, warp * 32 + g * 4 + column // 2, k % 64 // 16]
        assert word >> 4 * (part * 2 + half) + 16 * (column % 2) & 15 == q[n, k]


def test_one_multiplication_widens_four_weights() -> None:
    """What operand.cuh does with a word, for every scale, zero and code that packing lets through."""
    codes = np.arange(16, dtype=np.int64)
    for s, z in product(range(18), range(16)):
        fine = (np.abs((codes - z) * s + 0.5) < 128) & (codes * s <= 255)
        q = codes[fine]
        for four in (q[:4], q[-4:], q[::-1][:4], np.resize(q, 4)):
            four = np.resize(four, 4)
            word = int(sum(int(code) << 8 * i for i, code in enumerate(four)))
            wide = (word * s + (128 - z * s) * 0x01010101 & 0xFFFFFFFF) ^ 0x80808080
            found = np.frombuffer(wide.to_bytes(4, "little"), np.int8)
            wanted = group_weights(np.resize(four, (1, 128)), [[s]], [[z]])[0, :4]
            assert np.array_equal(found, wanted), (s, z, four)


@pytest.mark.parametrize(("scale", "zero", "code"), [(16, 7, 15), (17, 0, 8), (20, 10, 15)])
def test_weights_that_leave_int8_are_refused(scale: int, zero: int, code: int) -> None:
    q, s, z = np.full((64, 128), zero), np.ones((64, 1), int), np.full((64, 1), zero)
    q[5, 17], s[5] = code, scale
    with pytest.raises(ValueError, match=f"channel 5, input 17: .* got code {code}, zero {zero}, scale {scale}"):
        packing.pack_group(q, s, z)


@pytest.mark.parametrize("shape", [(60, 128), (64, 32), (0, 64)])
def test_shapes_that_are_no_blocks_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="N must be a multiple of 64 and K of 64"):
        packing.pack_channel(np.zeros(shape, int))


# ---- operators --------------------------------------------------------------------------------------------------


def test_operands_that_do_not_fit_are_told() -> None:
    torch = pytest.importorskip("torch")
    from gpu_kernels.w4a8_gemm import op

    x, packed = torch.zeros(3, 128, dtype=torch.int8), torch.zeros(2, 4096, dtype=torch.uint8)
    with pytest.raises(ValueError, match="x must be a contiguous CUDA matrix"):
        op._check_matrix("w4a8_channel", x, torch.float16)
    with pytest.raises(ValueError, match=r"scale must be float16 or bfloat16, got torch\.float32"):
        op._check_matrix("w4a8_channel", x, torch.float32)
    assert op._outputs("w4a8_channel", x, packed) == 128
    with pytest.raises(ValueError, match="packed must be for K = 128, got 4095 bytes"):
        op._outputs("w4a8_channel", x, packed[:, :4095].contiguous())
    with pytest.raises(ValueError, match=r"token_scale must be contiguous torch.float16 \[3\]"):
        op._check_vector("w8a8", "token_scale", torch.zeros(4, dtype=torch.float16), 3, torch.float16, x)


def test_a_machine_without_a_gpu_is_told() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    from gpu_kernels.w4a8_gemm import op

    with pytest.raises(RuntimeError, match="need a CUDA device"):
        op.w4a16(torch.zeros(2, 128, dtype=torch.float16), torch.zeros(1, 4352, dtype=torch.uint8))


def test_cases_cover_every_wide_tile_and_tail() -> None:
    names = {case.name for case in check.CASES}
    assert len(names) == len(check.CASES)
    used = {Tile(*case.tile) for case in check.CASES if case.tile}
    assert set(WIDE) <= used
    assert {tile.split for tile in used} >= {1, 2, 4, 8}


@pytest.mark.parametrize("case", [case for case in check.CASES if case.extreme], ids=lambda case: str(case.name))
def test_extreme_operands_give_finite_outputs(case: check.Case) -> None:
    assert np.isfinite(check.expected(case)["y"]).all()


def test_a_missing_vector_is_told() -> None:
    pytest.importorskip("torch")
    from gpu_kernels.w4a8_gemm import op

    with pytest.raises(ValueError, match="w4a8_channel: needs scaled_zero, got None"):
        op.check_needed("w4a8_channel", {"scale": np.ones(1)})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="kind must be one of"):
        op.hopper_gemm("w4", *[op.torch.zeros(1)] * 8)


def test_one_wrong_output_of_w4a16_is_seen() -> None:
    case = next(case for case in check.CASES if case.name == "w4a16_700x640x256")
    wanted = check.expected(case)
    off = {"y": wanted["y"].copy()}
    assert check.fault(case, wanted, off) == ""
    off["y"][3, 5] += 1.0 + np.abs(wanted["y"]).max()
    assert "of one output" in check.fault(case, wanted, off)
    infinite = {"y": np.full_like(wanted["y"], np.inf)}
    assert check.fault(case, infinite, infinite) != ""


def test_a_damaged_cubin_is_made_again(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cuda.core")
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path))
    text = 'extern "C" __global__ void f(int* a) { a[0] = 1; }'
    whole = bytes(runtime.compile_cubin("f.cu", "sm_90a", text=text).code)
    (kept,) = (file for file in (tmp_path / "cubins").rglob("*") if file.is_file() and file.stat().st_size > 1000)
    kept.write_bytes(b"damaged")
    assert bytes(runtime.compile_cubin("f.cu", "sm_90a", text=text).code) == whole
    monkeypatch.setenv("TILEWRIGHT_CACHE", "/dev/null")
    assert bytes(runtime.compile_cubin("f.cu", "sm_90a", text=text).code) == whole
