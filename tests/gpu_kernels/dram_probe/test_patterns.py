"""Address streams: against slow loops, in hand-made cases, and against the C++ of kernel.cu compiled for the host."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gpu_kernels.dram_probe import patterns
from gpu_kernels.dram_probe.compiler import SOURCE, stream
from gpu_kernels.dram_probe.patterns import GIB, HEADS, TOKENS, Gather, Pattern, Walk, requests
from gpu_kernels.dram_probe.suite import suite

SMALL: tuple[Pattern, ...] = (
    Walk("sequential", 128, 5000, 1 << 20),
    Walk("strided", 32, 4000, 1 << 20, 512),
    Walk("strided", 64, 3000, 1 << 20, 65536),
    Walk("random", 32, 4096, 1 << 17, seed=7),
    Walk("random", 64, 2048, 1 << 17, seed=2**31),
    Walk("cached", 256, 3000, 1 << 17, seed=9),
    Gather("kv", 32, 5, 2, 1 << 30, seed=1),
    Gather("kv", 256, 75, 1, 1 << 22, seed=2),
    Gather("planes", 64, 100, 2, 1 << 30, 3, second_percent=25),
    Gather("planes", 128, 50, 1, 1 << 21, 4, second_percent=6),
)


def slow_gather(pattern: Gather) -> list[int]:
    """The order as the paper tells it: layer by layer, head by head, first array, then second."""
    address = []
    for layer, tokens in enumerate(pattern.tokens().tolist()):
        for head in range(HEADS):
            base = (layer * HEADS + head) * TOKENS * pattern.row_bytes
            address += [base + token * pattern.row_bytes for token in tokens[: pattern.kept]]
            base += pattern.region_bytes
            address += [base + token * pattern.row_bytes for token in tokens[pattern.kept :]]
    return address


@pytest.mark.parametrize("pattern", [p for p in SMALL if isinstance(p, Gather)], ids=lambda p: p.name)
def test_gathers_go_head_after_head(pattern: Gather) -> None:
    assert pattern.starts(0, pattern.rows).tolist() == slow_gather(pattern)


@pytest.mark.parametrize(("keep", "kept"), [(5, 51), (10, 102), (25, 256), (50, 512), (75, 768), (100, 1024)])
def test_kept_tokens_are_drawn_sorted_and_differ_by_layer(keep: int, kept: int) -> None:
    tokens = Gather("kv", 64, keep, 3, GIB, seed=5).tokens()
    assert tokens.shape == (3, 2 * kept)
    assert (tokens[:, :kept] == tokens[:, kept:]).all()
    assert (np.diff(tokens[:, :kept].astype(int)) > 0).all()
    assert len({row.tobytes() for row in tokens}) == (3 if keep < 100 else 1)


def test_the_lsb_plane_is_read_at_a_share_of_the_kept_rows() -> None:
    pattern = Gather("planes", 64, 50, 2, GIB, 6, second_percent=25)
    first, second = np.split(pattern.tokens(), [512], axis=1)
    assert second.shape == (2, 128)
    assert all(set(b) < set(a) for a, b in zip(first.tolist(), second.tolist(), strict=True))
    assert (np.diff(second.astype(int)) > 0).all()


@pytest.mark.parametrize("bits", range(3, 14))
def test_random_reads_every_place_once(bits: int) -> None:
    starts = Walk("random", 32, 1 << bits, 32 << bits, seed=bits).starts(0, 1 << bits)
    assert sorted(starts.tolist()) == list(range(0, 32 << bits, 32))


def test_random_has_no_order_left() -> None:
    """Neighbours of the stream are spread over all residues; a walk in equal steps would show few differences."""
    starts = Walk("random", 32, 1 << 16, 1 << 34, seed=3).starts(0, 1 << 16)
    assert np.unique(np.diff(starts)).size > 65_000
    assert np.bincount(starts >> 30, minlength=16).min() > 3_700
    assert np.bincount(starts >> 5 & 15, minlength=16).min() > 3_700


@pytest.mark.parametrize("stride", [64, 128, 256, 1024, 65536])
def test_strided_reads_nothing_twice(stride: int) -> None:
    rows = (1 << 20) // stride * max(1, stride // 256)
    starts = Walk("strided", 32, rows, 1 << 20, stride).starts(0, rows)
    assert np.unique(starts).size == rows
    assert starts.max() < 1 << 20
    assert set(np.diff(starts[: (1 << 20) // stride])) == {stride}


@pytest.mark.parametrize("pattern", SMALL, ids=lambda p: p.name)
def test_a_part_is_the_same_stream(pattern: Pattern) -> None:
    whole = pattern.starts(0, pattern.rows)
    assert (pattern.starts(700, 1500) == whole[700:1500]).all()
    part = pattern.prefix(pattern.useful_bytes // 2)
    assert 0 < part.rows < pattern.rows or getattr(pattern, "layers", 0) == 1
    assert (part.starts(0, part.rows) == whole[: part.rows]).all()


@pytest.mark.parametrize("pattern", suite(), ids=lambda p: p.name)
def test_the_suite_stays_inside_its_footprint(pattern: Pattern) -> None:
    part = pattern if isinstance(pattern, Walk) else pattern.prefix(1 << 20)
    starts = np.concatenate([part.starts(0, 2000), part.starts(part.rows - 2000, part.rows)])
    assert (starts % pattern.row_bytes == 0).all()
    assert starts.min() >= 0
    assert starts.max() + pattern.row_bytes <= pattern.footprint_bytes


def test_names_of_the_suite_are_unique() -> None:
    assert len({pattern.name for pattern in suite()}) == len(suite())


def test_requests_cover_rows_and_merge_neighbours() -> None:
    assert requests(np.array([0, 32, 96, 64, 256]), 32).tolist() == [0, 64, 256]
    assert requests(np.array([0, 128]), 128).tolist() == [0, 64, 128, 192]
    assert requests(np.array([96, 32]), 32, request_bytes=32).tolist() == [96, 32]
    assert requests(np.array([64, 128]), 64, request_bytes=128).tolist() == [0, 128]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Walk("zigzag", 32, 1, 64), "got 'zigzag'"),
        (lambda: Walk("random", 32, 65, 2048), "rows must be 1 to 64, got 65"),
        (lambda: Walk("strided", 32, 33, 2048, 64), "rows must be 1 to 32, got 33"),
        (lambda: Walk("sequential", 32, 0, 64), "got 0"),
        (lambda: Gather("kv", 64, 0, 1, GIB, 1), "percentages must be 1 to 100"),
        (lambda: Gather("kv", 64, 5, 2, 1 << 20, 1), "holds fewer than 2 layers"),
        (lambda: Gather("qk", 64, 5, 1, GIB, 1), "got 'qk'"),
    ],
)
def test_a_stream_that_cannot_be_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_constants_of_kernel_and_patterns_agree() -> None:
    source = SOURCE.read_text(encoding="utf-8")
    found = {name: int(value) for name, value in re.findall(r"constexpr u32 (\w+) = (\d+);", source)}
    assert {name: getattr(patterns, name) for name in ("TOKENS", "HEADS", "PASS_BYTES")}.items() <= found.items()


HOST = """
#include <cstdio>
#define __device__
template <class T> T __ldg(const T* place) { return *place; }
"""


def host_program(streams: list[Pattern]) -> str:
    """kernel.cu up to its kernel, without the PTX, and a main that prints each stream's addresses."""
    source = SOURCE.read_text(encoding="utf-8").partition("// ---- kernel")[0]
    head, rest = source.partition("// ---- instruction wrappers")[0], source.partition("// ---- streams")[2]
    main = []
    for pattern in streams:
        gathered = isinstance(pattern, Gather)
        lists = ",".join(map(str, pattern.tokens().ravel().tolist())) if gathered else "0"
        region, seed = (pattern.region_bytes, 0) if isinstance(pattern, Gather) else (0, pattern.seed)
        main.append(f"{{ static const u16 lists[] = {{{lists}}}; Arguments given{{lists, {region}ull, {seed}u}};")
        main.append(f"for (u32 row = 0; row < {pattern.rows}u; ++row) ")
        main.append(f'std::printf("%llu\\n", {stream(pattern)}::start(given, row)); }}')
    return HOST + head + "//" + rest + "int main() {" + "\n".join(main) + "}"


def test_kernel_and_patterns_read_the_same_addresses(tmp_path: Path) -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    (tmp_path / "streams.cpp").write_text(host_program(list(SMALL)), encoding="utf-8")
    command = [compiler, "-std=c++17", "-O1", "-o", str(tmp_path / "streams"), str(tmp_path / "streams.cpp")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    text = subprocess.run([tmp_path / "streams"], check=True, capture_output=True, text=True).stdout
    assert list(map(int, text.split())) == [start for p in SMALL for start in p.starts(0, p.rows).tolist()]
