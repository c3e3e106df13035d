"""The cache's bytes, the tiles, the operators' errors; the kernel compiles for what it claims."""

import numpy as np
import pytest

from accel.arithmetic import round_to
from gpu_kernels import runtime
from gpu_kernels.kv4_attention import exact, folded
from gpu_kernels.kv4_attention.config import (
    BITS,
    PORTABLE_BYTES,
    SHARED_BYTES,
    SIZES,
    Tile,
    block_heads,
    choose,
    group_bytes,
    macros,
    page_bytes,
    portable,
    row_bytes,
    workspace_bytes,
)
from gpu_kernels.kv4_attention.packing import Part, key_places, pack, token_places, unpack, value_places

SOURCE = "kv4_attention/kernel.cu"
FORMATS = [(size, bits) for size in SIZES for bits in BITS]


def part(draw: np.random.Generator, size: int, bits: int) -> Part:
    if bits == 16:
        return Part(round_to(draw.normal(size=(2, 3, 64, size)), "float16"), None, None)
    scales = round_to(draw.normal(size=(2, 2, 3, 64)), "float16")
    return Part(draw.integers(0, 2**bits, (2, 3, 64, size)), *scales)


@pytest.mark.parametrize(("size", "bits"), FORMATS)
def test_pages_are_read_back_and_use_every_byte_once(size, bits):
    draw = np.random.default_rng(size + bits)
    key, value = part(draw, size, bits), part(draw, size, bits)
    pages = pack(key, value, bits)
    assert pages.shape == (2, 3, page_bytes(size, bits))
    for found, given in zip(unpack(pages, size, bits), (key, value), strict=True):
        for x, y in zip(found, given, strict=True):
            assert (x is None and y is None) or np.array_equal(x, y)
    assert sorted(token_places(size, bits).ravel()) == list(range(group_bytes(size, bits)))


def test_a_page_has_68_bytes_a_token_for_keys_and_for_values():
    assert page_bytes(128, 4) == 64 * 2 * 68
    assert page_bytes(128, 8) == 64 * 2 * 132
    assert page_bytes(128, 16) == 64 * 2 * 256


def test_the_even_element_is_in_the_low_nibble_and_zero_has_one_sign():
    codes = np.zeros((1, 1, 64, 128), np.uint8)
    codes[0, 0, 17, 6] = 9
    scales = np.ones((1, 1, 64)), np.full((1, 1, 64), -0.0)
    page = pack(Part(codes, *scales), Part(codes * 0, *scales), 4)[0, 0]
    assert page[group_bytes(128, 4) + 64 + 3] == 9
    assert not (page == 0x80).any()


def _worst_conflict(addresses: np.ndarray, width: int) -> int:
    """Most different 4-byte words that one bank has to give to a phase of lanes [lanes]: 128 bytes of them at once."""
    words = (addresses[:, None] + np.arange(0, width, 4)) // 4
    phases = np.split(words, len(words) * width // 128)
    return max(np.bincount(np.unique(phase) % 32).max() for phase in phases)


@pytest.mark.parametrize(("size", "bits"), FORMATS)
def test_no_two_lanes_meet_in_a_bank(size, bits):
    """Lane 4 g + t reads piece t of key rows g and g + 8, piece g of value rows 2 t, 2 t + 1, 2 t + 8, 2 t + 9."""
    row, (g, t) = row_bytes(size, bits), np.divmod(np.arange(32), 4)
    wide, piece = min(row // 4, 16), min(row // 8, 16)
    for first in range(0, row, 4 * wide):
        for half in (0, 8):
            assert _worst_conflict(key_places(size, bits)[g + half, first + t * wide], wide) == 1
    for first in range(0, row, 8 * piece):
        for token in (0, 1, 8, 9):
            assert _worst_conflict(value_places(size, bits)[2 * t + token, first + g * piece], piece) == 1


@pytest.mark.parametrize(("size", "bits"), FORMATS)
@pytest.mark.parametrize("places", [key_places, value_places])
def test_pieces_of_16_bytes_stay_whole(size, bits, places):
    """So that lists of tokens can be gathered by copies of 16 bytes, and lanes load whole vectors."""
    found = places(size, bits).reshape(16, -1, 16)
    assert (found % 16 == np.arange(16)).all()
    assert (np.diff(found, axis=2) == 1).all()


@pytest.mark.parametrize("middle", [0, 10, -100])
def test_vectors_of_8_bits_are_those_of_the_twin(middle):
    x = round_to(np.random.default_rng(3).normal(middle, 1, (40, 32)), "float16")
    x[0] = middle
    found = folded.quantize(x, 8)
    for i, row in enumerate(x):
        codes, scale, zero = exact.quantized(row, 255)
        assert (found.codes[i].tolist(), found.scale[i], found.zero[i]) == (codes, float(scale), float(zero))


def test_a_zero_of_8_bits_stays_finite():
    x = round_to(np.full((1, 32), 1000.0) + np.eye(1, 32), "float16")
    assert folded.quantize(x, 8).zero[0] == -65504


# ---- tiles ----------------------------------------------------------------------------------------------------------


SHAPES = [(b, h, g, n) for b in (1, 2, 16, 64) for h, g in ((8, 4), (1, 71), (32, 1)) for n in (1, 100, 8192, 131072)]


@pytest.mark.parametrize(("size", "bits"), FORMATS)
def test_a_choice_fits_the_multiprocessor_and_the_grid(size, bits):
    for batch, kv_heads, group, longest in SHAPES:
        heads, chunks = block_heads(group, size)
        tile, splits = choose(batch, kv_heads, group, longest, size, bits, 132)
        early, same = choose(batch, kv_heads, group, longest, size, bits, 132, early=True)
        assert same == splits
        assert early.fits(size, bits, heads)
        assert heads * chunks >= group > heads * (chunks - 1)
        assert tile.resident * (tile.shared_bytes(size, bits, heads) + 1024) <= SHARED_BYTES
        assert splits >= 1
        assert splits % tile.cluster == 0
        assert tile.cluster in (1, splits)
        other = portable(early, size, bits, heads)
        assert other.cluster == 1
        assert other.shared_bytes(size, bits, heads) <= PORTABLE_BYTES


def test_choices_that_were_measured():
    """The fastest of the tiles and splits in the README's run."""
    for batch, longest, early, best in (
        (64, 1024, True, (Tile(32, 3, 4, 4), 1)),
        (64, 1024, False, (Tile(32, 2, 4, 4), 1)),
        (40, 2048, True, (Tile(64, 2, 4, 3), 1)),
        (96, 2048, True, (Tile(64, 2, 4, 3), 1)),
        (32, 2048, True, (Tile(32, 3, 4, 4), 1)),
        (16, 4096, False, (Tile(32, 3, 4, 4, 2), 2)),
        (8, 8192, True, (Tile(32, 3, 4, 4), 4)),
        (4, 8192, True, (Tile(32, 3, 4, 4), 8)),
        (2, 8192, True, (Tile(32, 3, 4, 4), 16)),
        (1, 1024, True, (Tile(32, 3, 4, 1, 8), 8)),
        (1, 8192, True, (Tile(64, 2, 8, 1, 8), 8)),
        (1, 8192, False, (Tile(32, 2, 8, 1, 8), 8)),
        (1, 131072, True, (Tile(32, 3, 4, 4), 32)),
    ):
        assert choose(batch, 8, 4, longest, 128, 4, 132, early) == best


def test_a_workspace_holds_counters_and_parts():
    assert workspace_bytes(64, 8, 4, 1, 128) == 64 * 8 * 4
    assert workspace_bytes(1, 8, 4, 3, 128) == 128 + 8 * 3 * 4 * 132 * 4
    assert workspace_bytes(1, 1, 71, 2, 128) == 128 + 5 * 2 * 16 * 132 * 4


VARIANTS = [(4, False, True, 4), (4, True, True, 4), (8, False, True, 4), (16, False, False, 1), (4, False, True, 16)]


@pytest.mark.parametrize("architecture", runtime.ARCHITECTURES)
@pytest.mark.parametrize(("bits", "kept", "new", "heads"), VARIANTS)
def test_it_compiles(architecture, bits, kept, new, heads):
    """Shared memory is the configuration's: the source asserts it."""
    hopper = architecture.startswith("sm_9")
    for batch in (1, 64) if hopper and heads == 4 else (64,):
        tile, _ = choose(batch, 8, heads, 1024, 128, bits, 132)
        fitted = tile if hopper else portable(tile, 128, bits, heads)
        variant = macros(fitted, 128, bits, heads, new, kept, bulk=hopper)
        assert bytes(runtime.compile_cubin(SOURCE, architecture, variant).code)[:4] == b"\x7fELF"


@pytest.mark.parametrize(("size", "bits"), [(64, 8), (256, 4), (256, 16)])
def test_other_head_sizes_compile(size, bits):
    tile, _ = choose(64, 8, 4, 1024, size, bits, 132)
    assert runtime.compile_cubin(SOURCE, "sm_90a", macros(tile, size, bits, 4, True, False)).code


def test_a_wrong_size_of_shared_memory_does_not_compile():
    tile, _ = choose(64, 8, 4, 1024, 128, 4, 132)
    variant = macros(tile, 128, 4, 4, True, False)
    with pytest.raises(Exception, match=r"config\.Tile\.shared_bytes"):
        runtime.compile_cubin(SOURCE, "sm_90a", variant | {"SHARED": variant["SHARED"] + 128})


# ---- operators ------------------------------------------------------------------------------------------------------


def test_operators_tell_what_does_not_fit():
    torch = pytest.importorskip("torch")
    from gpu_kernels.kv4_attention import op

    def given(**changed: object) -> tuple:
        halves = [torch.zeros(2, n, 128, dtype=torch.float16) for n in (8, 2, 2)]
        operands = dict(zip(("query", "key", "value"), halves, strict=True))
        operands |= {name: torch.zeros(2, 64) for name in ("cosine", "sine")}
        operands |= {"cache": op.new_cache(6, 2, 128, 4, "cpu"), "table": torch.zeros(2, 3, dtype=torch.int32)}
        operands |= {"lengths": torch.zeros(2, dtype=torch.int32), "kept": None, "longest": 100, "bits": 4} | changed
        new = tuple(operands.pop(name) for name in ("key", "value", "cosine", "sine"))
        return (operands.pop("query"), new, *operands.values())

    op.check_operands(*given())
    eight = op.new_cache(6, 2, 128, 8, "cpu")
    three, turned = torch.zeros(2, 3, 128).half(), torch.zeros(2, 128, 8).half().transpose(1, 2)
    whole = torch.zeros(2, 12, 128).half()  # as a projection gives them
    op.check_operands(*given(query=whole[:, :8], key=whole[:, 8:10], value=whole[:, 10:]))
    for said, changed in (
        (r"query heads must be a multiple of the cache's 2, got 3", {"query": three}),
        (r"query must be float16 .* got torch.float32", {"query": torch.zeros(2, 8, 128)}),
        (r"query must be .* rows of one piece, .* strides \(1024, 1, 8\)", {"query": turned}),
        (r"key must be float16 \(2, 2, 128\) .* got .*\(2, 3, 128\)", {"key": three}),
        (r"value must be .* as far apart as those of \(256, 128, 1\), .* \(384, 128, 1\)", {"value": three[:, :2]}),
        (r"cosine must be .* \(2, 64\) on cpu, got .*\(2, 128\)", {"cosine": torch.zeros(2, 128)}),
        (r"cache must be .* \(6, 2, 8704\) on cpu, got .*\(6, 2, 16896\)", {"cache": eight}),
        (r"bits must be one of \(4, 8, 16\).* got 5, 128", {"bits": 5}),
        (r"longest must be within 0\.\.191, the tokens of the table, got 192", {"longest": 192}),
        (r"lengths must be .*int32 \(2,\) on cpu, got .*int64", {"lengths": torch.zeros(2, dtype=torch.int64)}),
        (r"kept must be \[B, kv heads, tokens\], got \(2, 2\)", {"kept": (torch.zeros(2, 2), torch.zeros(2, 2))}),
        (r"query and cache must be 3-, table 2-dimensional", {"table": torch.zeros(2, dtype=torch.int32)}),
    ):
        with pytest.raises(ValueError, match=said):
            op.check_operands(*given(**changed))
    with pytest.raises(ValueError, match="head size one of"):
        op.new_cache(1, 1, 32, 4, "cpu")
    with pytest.raises(ValueError, match="sequence must be"):
        op.append(*given()[1][:2], None, None, *[torch.zeros(2)] * 2, given()[3], given()[2], 4)


def test_packing_tells_what_does_not_fit():
    with pytest.raises(ValueError, match=r"codes must be \[N, heads, 64, D\], got \(1, 1, 32, 128\)"):
        pack(*[Part(np.zeros((1, 1, 32, 128)), None, None)] * 2, 16)
    with pytest.raises(ValueError, match=r"pages must be \[N, heads, 8704\] bytes, got \(1, 1, 8703\)"):
        unpack(np.zeros((1, 1, 8703), np.uint8), 128, 4)
