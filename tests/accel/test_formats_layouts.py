"""Packing and layouts: each a bijection, element by element, and where the sources say each element lies."""

import numpy as np
import pytest

from accel.formats import layouts
from accel.formats.arrangement import Arrangement
from accel.formats.fragments import fragment
from accel.formats.packing import pack_nibbles, unpack_nibbles

TILES = {  # the smallest shape of each layout
    "QSERVE_WEIGHT": (32, 32),
    "QSERVE_GROUP": (32, 1),
    "NUNCHAKU_WEIGHT": (128, 64),
    "NUNCHAKU_ACTIVATION": (256, 64),
    "NUNCHAKU_WEIGHT_SCALE": (128, 1),
    "NUNCHAKU_ACTIVATION_SCALE": (256, 1),
}


def numbered(rows: int, columns: int):
    return np.arange(rows * columns).reshape(rows, columns)


@pytest.mark.parametrize("name", TILES)
@pytest.mark.parametrize("times", [(1, 1), (2, 3), (3, 2)])
def test_every_element_is_stored_once_and_comes_back(name, times):
    layout = getattr(layouts, name)
    x = numbered(TILES[name][0] * times[0], TILES[name][1] * times[1])
    stored = layout.pack(x)
    assert stored.flags["C_CONTIGUOUS"]
    assert np.array_equal(np.sort(stored.ravel()), np.arange(x.size))
    assert np.array_equal(layout.unpack(stored), x)


@pytest.mark.parametrize("name", [name for name in TILES if "SCALE" not in name and "GROUP" not in name])
def test_nibbles_of_a_layout_come_back(name):
    layout, draw = getattr(layouts, name), np.random.default_rng(1)
    codes = draw.integers(-8, 8, tuple(2 * size for size in TILES[name]))
    packed = layouts.pack_codes(layout, codes)
    assert (packed.dtype, packed.size) == (np.uint8, codes.size // 2)
    assert np.array_equal(layouts.unpack_codes(layout, packed, signed=True), codes)


def test_qserve_weights_lie_where_the_kernel_reads_them():
    """omniserve: lane, byte and nibble of an element of a 32 x 32 tile; tiles along K first."""
    q = np.random.default_rng(2).integers(0, 16, (64, 96))
    packed = layouts.pack_codes(layouts.QSERVE_WEIGHT, q).reshape(-1)
    for n in range(64):
        for k in range(96):
            tile, lane = n // 32 * 3 + k // 32, n % 8 * 4 + k % 16 // 4
            byte = k % 32 // 16 * 8 + n // 8 % 2 * 4 + k % 4
            value = packed[tile * 512 + lane * 16 + byte]
            assert (value >> 4 if n % 32 >= 16 else value & 15) == q[n, k]


def test_three_operations_unpack_eight_qserve_weights():
    """lo = w & 0x0F0F0F0F are four neighbours along K, hi = w >> 4 likewise of 16 output channels further."""
    q = np.random.default_rng(3).integers(0, 16, (32, 32))
    words = layouts.pack_codes(layouts.QSERVE_WEIGHT, q).reshape(-1).view("<u4")
    low, high = (words & 0x0F0F0F0F).view(np.uint8), ((words & 0xF0F0F0F0) >> 4).view(np.uint8)
    lane, part = 13, 2  # row 3 of 8, columns 4 to 7 of 16; the second half of K
    place = (lane * 4 + part) * 4
    assert low[place : place + 4].tolist() == q[3, 20:24].tolist()
    assert high[place : place + 4].tolist() == q[19, 20:24].tolist()


def test_qserve_scales_go_round_by_eight():
    found = layouts.QSERVE_GROUP.pack(numbered(64, 2))
    assert found.shape == (2, 64)
    assert (found[0, :9] // 2).tolist() == [0, 8, 16, 24, 1, 9, 17, 25, 2]
    assert (found[1, 32:36] // 2).tolist() == [32, 40, 48, 56]
    assert (found % 2 == [[0], [1]]).all()


def test_zero_entries_take_the_zero_point_off_modulo_256():
    q, z, s = (axis.ravel() for axis in np.meshgrid(np.arange(16), np.arange(16), np.arange(1, 18)))
    entry = layouts.qserve_zero_entries(s, z)
    byte = ((q * s + entry) % 256).astype(np.uint8).view(np.int8)
    inside = np.abs((q - z) * s) < 128
    assert np.array_equal(byte[inside], ((q - z) * s)[inside])
    assert entry[(z == 7) & (s == 16)][0] == 256 - 112


def test_nunchaku_weights_are_b_fragments():
    """A lane's 16 bytes: for both runs of 8 output channels its fragment of m16n8k64, as the PTX ISA numbers it."""
    x = numbered(256, 128)
    stored = layouts.NUNCHAKU_WEIGHT.pack(x)
    assert stored.shape == (2, 2, 8, 32, 32)
    b = fragment("mma.m16n8k64.s4", "B").places()  # [32, 16, 2]: k, n
    for half in (0, 1):
        k, n = b[..., 0] + 64, b[..., 1] + 128 + 5 * 16 + 8 * half
        assert np.array_equal(stored[1, 1, 5, :, 16 * half : 16 * half + 16], x[n, k])


def test_nunchaku_activations_are_a_fragments():
    x = numbered(256, 128)
    stored = layouts.NUNCHAKU_ACTIVATION.pack(x)
    assert stored.shape == (1, 2, 8, 2, 32, 32)
    a = fragment("mma.m16n8k64.s4", "A").places()
    assert np.array_equal(stored[0, 1, 3, 1], x[a[..., 0] + 3 * 32 + 16, a[..., 1] + 64])


def test_nunchaku_scales_lie_as_in_the_accumulator():
    weight = layouts.NUNCHAKU_WEIGHT_SCALE.pack(numbered(128, 1))[0, 0]
    assert weight[[0, 1, 4, 31]].tolist() == [[0, 1, 8, 9], [2, 3, 10, 11], [16, 17, 24, 25], [118, 119, 126, 127]]
    activation = layouts.NUNCHAKU_ACTIVATION_SCALE.pack(numbered(256, 1))[0, 0]
    assert activation.shape == (8, 16, 2)
    assert activation[0, [0, 7, 8]].tolist() == [[0, 8], [7, 15], [16, 24]]
    assert activation[3, 0].tolist() == [96, 104]


def test_every_byte_is_two_nibbles():
    everything = np.arange(256, dtype=np.uint8)
    codes = unpack_nibbles(everything)
    assert np.array_equal(codes[0::2], everything % 16)
    assert np.array_equal(codes[1::2], everything // 16)
    assert np.array_equal(pack_nibbles(codes), everything)
    signed = unpack_nibbles(everything, signed=True)
    assert (signed.min(), signed.max()) == (-8, 7)
    assert np.array_equal(signed % 16, codes)
    assert np.array_equal(pack_nibbles(signed), everything)


def test_an_odd_number_of_nibbles():
    codes = np.arange(15, dtype=np.uint8).reshape(3, 5)
    packed = pack_nibbles(codes)
    assert packed.shape == (3, 3)
    assert np.array_equal(unpack_nibbles(packed, 5), codes)
    assert pack_nibbles(np.zeros((2, 0), int)).shape == (2, 0)
    with pytest.raises(ValueError, match="the unused nibble after code 4 must be 0"):
        unpack_nibbles(packed | 16, 5)
    with pytest.raises(ValueError, match="3 bytes hold 6 codes or one fewer, got count = 4"):
        unpack_nibbles(packed, 4)


@pytest.mark.parametrize("heads", [1, 3])
def test_a_kv4_page_comes_back(heads):
    draw = np.random.default_rng(4)
    codes = draw.integers(0, 16, (heads, 64, 128)).astype(np.uint8)
    scale, zero = (draw.normal(size=(heads, 64)).astype(np.float16).astype(np.float32) for _ in range(2))
    page = layouts.kv4_page(codes, scale, zero)
    assert page.shape == (68 * 64 * heads,)
    for given, back in zip((codes, scale, zero), layouts.read_kv4_page(page, heads, 128), strict=True):
        assert np.array_equal(given, back)
    head, token = heads - 1, 5
    start = (head * 64 + token) * 64
    assert page[start] == codes[head, token, 0] + 16 * codes[head, token, 1]
    at = heads * 64 * 64 + (head * 64 + token) * 2
    assert page[at : at + 2].view(np.float16)[0] == scale[head, token]
    at += heads * 64 * 2
    assert page[at : at + 2].view(np.float16)[0] == zero[head, token]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: layouts.NUNCHAKU_WEIGHT.pack(np.zeros((64, 64))), r"axis 0 of \(64, 64\): must be a multiple of 128"),
        (lambda: layouts.QSERVE_WEIGHT.pack(np.zeros((32, 40))), "must be a multiple of 32, got 40"),
        (lambda: layouts.QSERVE_WEIGHT.pack(np.zeros(32)), r"weights \[N, K\]: must have 2 axes, got shape \(32,\)"),
        (lambda: layouts.QSERVE_WEIGHT.unpack(np.zeros((1, 1, 31, 32))), "axis 2 of .*: must be 32, got 31"),
        (lambda: pack_nibbles([16]), r"codes must lie in -8\.\.15, got 16\.\.16"),
        (lambda: pack_nibbles([1.5]), "codes must be integers"),
        (lambda: unpack_nibbles([1]), "packed codes must be uint8"),
        (lambda: layouts.kv4_page(np.zeros((1, 63, 4), int), 0, 0), r"codes must be \[heads, 64, even D\]"),
        (lambda: layouts.kv4_page(np.zeros((1, 64, 4), int), np.ones((1, 63)), 0), r"scale must be \(1, 64\)"),
        (
            lambda: layouts.kv4_page(np.zeros((1, 64, 4), int), np.full((1, 64), 0.1), np.ones((1, 64))),
            "must be float16 numbers",
        ),
        (lambda: layouts.read_kv4_page(np.zeros(100), 1, 4), r"1 heads of 4 need 384 bytes, got \(100,\)"),
    ],
)  # fmt: skip
def test_refusals(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_a_sentence_that_loses_a_factor_is_ours_to_mend():
    with pytest.raises(AssertionError):
        Arrangement("x", "N a2 | K", "N K").pack(np.zeros((2, 2)))
