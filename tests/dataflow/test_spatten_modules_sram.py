"""SpAtten's K/V SRAM: its size, its lines, and the states of its halves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.spatten.modules.attention import Datapath
from dataflow.spatten.modules.buffers import Buffer, BufferBusy, Geometry, Half, lines, scattered_lines
from tests.dataflow.spatten_heads import spatten

KEY = Datapath.of(spatten()).key_sram


def test_the_published_size_is_two_halves_of_1024_vectors() -> None:
    assert (KEY.bytes, KEY.halves, KEY.lines, KEY.line_words) == (196_608, 2, 128, 512)
    assert 8 * KEY.bytes == 2 * 1024 * 64 * 12
    assert {size: KEY.capacity(size) for size in (32, 48, 64, 128, 256, 512, 1024)} == {
        32: 2048, 48: 1024, 64: 1024, 128: 512, 256: 256, 512: 128, 1024: 64,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("vectors", "size", "expected"), [(1, 64, 1), (8, 64, 1), (9, 64, 2), (3, 1024, 6), (1024, 64, 128)]
)
def test_lines(vectors: int, size: int, expected: int) -> None:
    assert lines(vectors, size, 512) == expected


def test_scattered_vectors_meet_in_a_slot() -> None:
    """8 slots a line: 16 neighbours need 2 cycles, 16 of one slot 16."""
    assert scattered_lines(np.arange(16), 64, 512) == lines(16, 64, 512) == 2
    assert scattered_lines(8 * np.arange(16), 64, 512) == 16
    assert scattered_lines(np.arange(0, 1024, 3), 64, 512) == 43 == lines(342, 64, 512)
    assert scattered_lines(np.arange(3), 1024, 512) == 6
    assert scattered_lines(np.arange(0), 64, 512) == 0


def some(vectors: int) -> np.ndarray:
    return np.arange(4 * vectors).reshape(vectors, 4)


ACTIONS = ("fill", "open", "vectors", "release", "refill")
SMALL = Geometry(bytes=48, halves=2, line_words=8, word_bits=12)  # 2 lines a half, of 2 vectors of 4


def test_a_half_is_filled_read_and_released_while_the_other_is_filled() -> None:
    buffer = Buffer(SMALL, 4)
    buffer.fill(0, some(3))
    buffer.open(0)
    buffer.fill(1, some(4) + 100)  # the next head, meanwhile
    assert buffer.vectors(0).tolist() == some(3).tolist()
    assert buffer.select(0, np.array([2, 0])).tolist() == some(3)[[2, 0]].tolist()
    assert (buffer.read, buffer.written) == (2 + 1, 2 + 2)
    buffer.refill(0, some(3) + 1)
    assert buffer.vectors(0).tolist() == (some(3) + 1).tolist()
    buffer.release(0)
    assert buffer.state == [Half.EMPTY, Half.FILLING]
    buffer.fill(0, some(2))
    assert (buffer.read, buffer.written) == (5, 7)


@pytest.mark.parametrize(
    ("before", "action", "why"),
    [
        ([], "open", "half 0 is empty: it cannot be opened"),
        ([], "vectors", "half 0 is empty: it cannot be read"),
        (["fill"], "vectors", "half 0 is being filled: it cannot be read"),
        (["fill"], "fill", "half 0 is being filled: it cannot be written"),
        (["fill", "open"], "fill", "half 0 is being read: it cannot be written"),
        (["fill", "open", "release"], "release", "half 0 is empty: it cannot be released"),
        (["fill"], "refill", "half 0 is being filled: it cannot be refilled"),
        (["fill", "open", "release"], "vectors", "half 0 is empty: it cannot be read"),
    ],
)
def test_what_a_half_refuses(before: list[str], action: str, why: str) -> None:
    buffer = Buffer(SMALL, 4)

    def do(name: str) -> None:
        getattr(buffer, name)(0, *([some(3)] if name in ("fill", "refill") else []))

    for name in before:
        do(name)
    with pytest.raises(BufferBusy, match=why):
        do(action)


def test_what_does_not_fit_is_refused() -> None:
    buffer = Buffer(SMALL, 4)
    with pytest.raises(ValueError, match="2 lines hold 4 vectors of 4, got 5"):
        buffer.fill(0, some(5))
    with pytest.raises(ValueError, match=r"12 bits, got -2049\.\.0"):
        buffer.fill(0, np.array([[0, 0, 0, -2049]]))
    assert buffer.state[0] is Half.EMPTY
    buffer.fill(0, some(3))
    buffer.open(0)
    with pytest.raises(ValueError, match=r"the vectors \(3, 4\)"):
        buffer.refill(0, some(2))


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 1)), max_size=40))
def test_a_half_never_loses_what_is_still_to_be_read(actions: list[tuple[str, int]]) -> None:
    """Against a list of permitted successors; each fill writes other words."""
    follows = {"empty": {"fill": "filling"}, "filling": {"open": "read"},
               "read": {"vectors": "read", "refill": "read", "release": "empty"}}  # fmt: skip
    buffer, state, held = Buffer(SMALL, 4), ["empty"] * 2, [some(0)] * 2
    for number, (action, half) in enumerate(actions):
        new = some(3) + number
        arguments = [new] if "fill" in action else []
        if action not in follows[state[half]]:
            with pytest.raises(BufferBusy):
                getattr(buffer, action)(half, *arguments)
            continue
        found = getattr(buffer, action)(half, *arguments)
        state[half] = follows[state[half]][action]
        held[half] = new if arguments else held[half]
        assert action != "vectors" or found.tolist() == held[half].tolist()
