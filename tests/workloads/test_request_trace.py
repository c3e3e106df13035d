"""Request traces: what is read is what was written, and every fault has its place."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workloads.request_trace as request_trace
from accel.fault import Faults
from workloads.request_streams import KINDS, Shape, make
from workloads.request_trace import (
    MOST_FAULTS,
    Requests,
    bursts,
    read_requests,
    write_load_store,
    write_requests,
)

HEAD = "cycle,address,rw\n"
CAPACITY = 1 << 20
Row = tuple[int, int, bool]


def rows(blocks: Iterator[Requests]) -> list[Row]:
    return [row for block in blocks for row in zip(*(column.tolist() for column in block), strict=True)]


def block(*requests: Row) -> Requests:
    cycle, address, write = zip(*requests, strict=True)
    return Requests(np.array(cycle, np.int64), np.array(address, np.int64), np.array(write, np.bool_))


def faults(path: Path, text: str | bytes) -> list[str]:
    """The messages for a file of that content, without its name."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Faults) as caught:
        list(read_requests(path, CAPACITY))
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


REQUESTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, (1 << 56) - 1), st.booleans()), min_size=1)


@given(REQUESTS, st.integers(20, 99))
@settings(deadline=None, max_examples=60)
def test_what_was_written_is_read_back_however_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Row], size: int
) -> None:
    cycles = np.cumsum([step for step, _, _ in steps]).tolist()
    written = [(cycle, 64 * number, write) for cycle, (_, number, write) in zip(cycles, steps, strict=True)]
    path = tmp_path_factory.mktemp("trace") / "t.csv"
    assert write_requests(path, [block(row) for row in written]) == len(written)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request_trace, "BLOCK_BYTES", size)
        assert rows(read_requests(path)) == written


@pytest.mark.parametrize(
    "text",
    [
        "cycle,address,rw\n0,64,R\n7,0x80,W\n",
        "cycle,address,rw\r\n0,64,R\r\n7,128,W\r\n\r\n\r\n",
        "\ufeffcycle, address, rw\n\n0, 0x40, r\n7,0X80, w",
    ],
)
def test_spellings_that_mean_the_same(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode())
    assert rows(read_requests(tmp_path / "t.csv")) == [(0, 64, False), (7, 128, True)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1:1: header must be cycle,address,rw, got an empty file"),
        ("0,64,R\n", '1:1: header must be cycle,address,rw, got "0,64,R" (put it above the first request)'),
        (
            "cycle,adress,rw\n",
            "1:1: header must be cycle,address,rw, got \"cycle,adress,rw\" (did you mean 'address'?)",
        ),
        (b"\x93NUMPY\0\1", "1:1: must be a text file (CSV), got bytes that are no text"),
        (HEAD, "2:1: must hold at least one request"),
        (HEAD + "\n\r\n", "4:1: must hold at least one request"),
        (HEAD + "0,64\n", "2:1: must have 3 fields (cycle,address,rw), got 2"),
        (HEAD + "0,64,R,\n", "2:1: must have 3 fields (cycle,address,rw), got 4"),
        (HEAD + "0,64,R\n0,6", "3:1: must have 3 fields (cycle,address,rw), got 2 (the file ends inside this line)"),
        (HEAD + "0,64,", "2:6: rw: must be R or W, got nothing (the file ends inside this line)"),
        (HEAD + "0,64,read\n", "2:6: rw: must be R or W, got read (did you mean 'R'?)"),
        (HEAD + "0,6 4,R\n", "2:3: address: must be a whole number, got 6 4"),
        (HEAD + "1.5,64,R\n", "2:1: cycle: must be a whole number, got 1.5"),
        (HEAD + ",64,R\n", "2:1: cycle: must be a whole number, got nothing"),
        (HEAD + "-3,64,R\n", "2:1: cycle: must be >= 0 and below 2**50, got -3"),
        (HEAD + "0,-64,R\n", "2:3: address: must be >= 0, got -64"),
        (HEAD + "0,96,R\n", "2:3: address: must be a multiple of 64, got 96"),
        (HEAD + "0,0x100000,R\n", "2:3: address: must be <= 0xfffc0: the memory holds 1048576 bytes, got 0x100000"),
        (HEAD + "0,0xffffffffffffffc0,R\n", "2:3: address: must be <= 0xfffc0: the memory holds 1048576 bytes, got 0x"),
        (
            HEAD + "0,99999999999999999999,R\n",
            "2:3: address: must be <= 0xfffc0: the memory holds 1048576 bytes, got 9",
        ),
        (HEAD + "8,64,R\n\n9,0,W\n7,64,R\n", "5:1: cycle: must not be smaller than in the line before, got 7"),
    ],
)
def test_a_fault_has_place_rule_and_value(tmp_path: Path, text: str | bytes, message: str) -> None:
    (told,) = faults(tmp_path / "t.csv", text)
    assert told.startswith(message)


def test_all_faults_are_told_in_order_of_place(tmp_path: Path) -> None:
    told = faults(tmp_path / "t.csv", HEAD + "0,1,R\nx,y,z\n5,64,R\n4,-64,W\n")
    assert [line.split(":")[:2] for line in told] == [
        ["2", "3"], ["3", "1"], ["3", "3"], ["3", "5"], ["5", "1"], ["5", "3"],
    ]  # fmt: skip


def test_many_faults_end_with_a_word(tmp_path: Path) -> None:
    told = faults(tmp_path / "t.csv", HEAD + "0,1,R\n" * 100)
    assert len(told) == MOST_FAULTS + 1
    assert told[-1] == f"{MOST_FAULTS + 2}:3: more faults from here on"


def test_lines_are_counted_and_cycles_compared_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_trace, "BLOCK_BYTES", 32)
    lines = [f"{n},64,R\n" for n in range(40)]
    assert faults(tmp_path / "t.csv", HEAD + "".join(lines) + "38,64,R\n40,64,Q\n") == [
        "42:1: cycle: must not be smaller than in the line before, got 38",
        "43:7: rw: must be R or W, got Q",
    ]
    for n in range(1, 40):  # wherever the cut falls
        swapped = [*lines[: n - 1], lines[n], lines[n - 1], *lines[n + 1 :]]
        (told,) = faults(tmp_path / "t.csv", HEAD + "".join(swapped))
        assert told.startswith(f"{n + 2}:1: cycle: must not be smaller")


def test_nothing_is_given_out_after_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_trace, "BLOCK_BYTES", 16)
    (tmp_path / "t.csv").write_text(HEAD + "0,0,R\n" * 20 + "0,1,R\n" + "0,0,R\n" * 20)
    given_out: list[Requests] = []
    with pytest.raises(Faults):
        given_out.extend(read_requests(tmp_path / "t.csv"))
    assert sum(len(some.cycle) for some in given_out) <= 20


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text(HEAD)
    with pytest.raises(Faults, match=r"trase\.csv: no such file \(did you mean 'trace\.csv'\?"):
        list(read_requests(tmp_path / "trase.csv"))


def test_load_store_has_a_line_a_burst(tmp_path: Path) -> None:
    path = tmp_path / "t.trace"
    requests = [block((0, 0, False), (5, 0x1C0, True))]
    assert write_load_store(path, requests, 32) == 4
    assert path.read_text() == "LD 0x0\nLD 0x20\nST 0x1c0\nST 0x1e0\n"
    assert write_load_store(path, requests, 64) == 2
    assert path.read_text() == "LD 0x0\nST 0x1c0\n"


def test_pieces_of_memory_touch_whole_bursts() -> None:
    address, size = np.array([30, 64, 96]), np.array([4, 32, 65])
    starts, writes = bursts(address, size, np.array([True, False, True]), 32)
    assert starts.tolist() == [0, 32, 64, 96, 128, 160]
    assert writes.tolist() == [True, True, False, True, True, True]


@pytest.mark.parametrize("kind", KINDS)
def test_streams_are_sound(kind: str, tmp_path: Path) -> None:
    """Of the asked length, aligned, the same for a seed; as a file, accepted by the reader."""
    several = [rows(make(kind, 70_000, seed=seed, rate=0.5)) for seed in (1, 1, 2)]
    assert len(several[0]) == 70_000
    assert several[0] == several[1] != several[2]
    places = [{address for _, address, _ in some} for some in several]
    assert (places[0] == places[2]) == (kind in ("sequential", "strided", "mixed"))
    write_requests(tmp_path / "t.csv", make(kind, 70_000, seed=1, rate=0.5))
    assert rows(read_requests(tmp_path / "t.csv")) == several[0]
    assert several[0][-1][0] == pytest.approx(140_000, rel=0.02)
    assert any(write for *_, write in several[0]) == kind.startswith("mixed")


def addresses(kind: str, requests: int, **shape: float) -> list[int]:
    return [address for _, address, _ in rows(make(kind, requests, seed=5, **shape))]


def test_strides_cover_the_footprint_once_a_round() -> None:
    assert addresses("strided", 6, footprint_bytes=384, stride_bytes=128) == [0, 128, 256, 64, 192, 320]
    assert addresses("sequential", 4, footprint_bytes=192) == [0, 64, 128, 0]


def test_a_chase_visits_every_request_once() -> None:
    assert sorted(addresses("chase", 512, footprint_bytes=512 * 64)) == list(range(0, 512 * 64, 64))


def test_a_gather_reads_k_then_v_of_the_same_kept_tokens() -> None:
    shape = {"tokens": 64, "heads": 2, "keep": 0.25, "row_bytes": 128, "footprint_bytes": 1 << 20}
    got = np.array(addresses("gather", 4 * 32, **shape)).reshape(4, 16, 2)  # K, V of two heads; token; half of a row
    assert (got[:, :, 1] - got[:, :, 0] == 64).all()
    kept = got[0, :, 0] // 128
    assert len(set(kept)) == 16
    assert (np.diff(kept) > 0).all()
    assert (got[1] - got[0] == 1 << 20).all()
    assert (got[2] - got[0] == 64 * 128).all()  # the other head: the same tokens


def test_planes_read_few_low_bits_of_kept_tokens_only() -> None:
    shape = {"tokens": 64, "heads": 1, "keep": 0.5, "again": 0.25, "footprint_bytes": 1 << 20}
    got = np.array(addresses("planes", 40, **shape))
    high, low = got[:32], got[32:] - (1 << 20)
    assert set(low) < set(high)
    assert (np.diff(low) > 0).all()


def test_mixed_reads_two_streams_and_writes_a_third() -> None:
    got = rows(make("mixed", 6, write_share=1 / 3, footprint_bytes=1 << 20))
    far = 1 << 20
    assert [(address, write) for _, address, write in got] == [
        (0, False), (far, False), (2 * far, True), (64, False), (far + 64, False), (2 * far + 64, True),
    ]  # fmt: skip
    writes = [write for *_, write in rows(make("mixed_random", 50_000, write_share=0.3))]
    assert sum(writes) == pytest.approx(15_000, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "sequental"}, "no kind 'sequental' (did you mean 'sequential'?"),
        ({"row_byte": 3}, "row_byte: no such parameter (did you mean 'row_bytes'?"),
        ({"row_bytes": 100}, "row_bytes: must be a multiple of 64, got 100"),
        ({"heads": 0}, "heads: must be >= 1, got 0"),
        ({"again": 1.5}, "again: must be a share 0..1, got 1.5"),
        ({"keep": 0.0}, "keep: must leave at least one of 1024 tokens, got 0.0"),
        ({"requests": 0}, "requests: must be >= 1, got 0"),
        ({"rate": float("nan")}, "rate: must be >= 0, and keep cycles below 2**50, got nan"),
        ({"rate": 1e-300}, "rate: must be >= 0, and keep cycles below 2**50, got 1e-300"),
        ({"rate": -1.0}, "rate: must be >= 0, and keep cycles below 2**50, got -1.0"),
    ],
)
def test_what_no_stream_can_be(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make(**({"kind": "gather", "requests": 9} | arguments))  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


def test_a_shape_counts_kept_tokens() -> None:
    assert Shape(tokens=1000, keep=0.25).kept == 250
