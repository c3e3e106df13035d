"""K and V SRAM with double buffering: which half may be written, which is read (Table I; Fig. 8).

A line holds as many words as the array has multipliers (512 x 12 bit), so that one line a cycle feeds it. Each half of
the 196 608 B has a port of its own: a line of one can be written while a line of the other is read. A half is filled,
read by the queries of its head, released; the paper says so, the released RTL has a ring of lines instead.
"""

from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from dataflow.spatten.modules.fixed_point import Ints, fits
from dataflow.spatten.modules.query_key import cycles as array_cycles
from dataflow.spatten.modules.query_key import leaves, scores_a_cycle


class Half(Enum):
    """What a half is doing."""

    EMPTY = "empty"
    FILLING = "being filled"
    READ = "being read"


class BufferBusy(RuntimeError):
    """A half was asked for what its state does not allow: a fault of the control, not of the user."""


@dataclass(frozen=True)
class Geometry:
    """Size of a buffer; `halves` is 2 for a double buffer."""

    bytes: int
    halves: int
    line_words: int
    word_bits: int

    @property
    def lines(self) -> int:
        """Lines of a half."""
        return self.bytes * 8 // (self.halves * self.line_words * self.word_bits)

    def capacity(self, size: int) -> int:
        """Vectors of that size that fit a half; a vector that is no power of two takes the room of the next."""
        if scores_a_cycle(size, self.line_words):
            return self.lines * scores_a_cycle(size, self.line_words)
        return self.lines // (leaves(size) // self.line_words)


def lines(vectors: int, size: int, line_words: int) -> int:
    """Lines of so many vectors, each read or written in a cycle: those that the array takes (`query_key.cycles`)."""
    return array_cycles(vectors, size, line_words)


def scattered_lines(places: Ints, size: int, line_words: int) -> int:
    """Cycles to read vectors from anywhere, if each slot of a line is a bank with an address of its own.

    At least `lines(len(places))`, which the plan counts: V that local pruning leaves of a prompt is scattered so.
    """
    slots = scores_a_cycle(size, line_words)
    if slots < 1 or len(places) == 0:
        return lines(len(places), size, line_words)
    return int(np.bincount(places % slots).max())


@dataclass
class Buffer:
    """K or V of two heads: the state of each half, its words, and how many lines went in and out."""

    geometry: Geometry
    size: int
    state: list[Half] = field(init=False)
    words: list[Ints] = field(init=False)
    written: int = 0
    read: int = 0

    def __post_init__(self) -> None:
        self.state = [Half.EMPTY] * self.geometry.halves
        self.words = [np.zeros((0, self.size), np.int64)] * self.geometry.halves

    def fill(self, half: int, words: Ints) -> None:
        """Write vectors [m, size] into an empty half. Raises BufferBusy, ValueError where they do not fit."""
        self._expect(half, Half.EMPTY, "written")
        self._check(words)
        self.state[half] = Half.FILLING
        self.words[half] = words.copy()
        self.written += lines(len(words), self.size, self.geometry.line_words)

    def open(self, half: int) -> None:
        """All of it is there: reading may begin."""
        self._expect(half, Half.FILLING, "opened")
        self.state[half] = Half.READ

    def vectors(self, half: int) -> Ints:
        """Read all vectors of a half once."""
        self._expect(half, Half.READ, "read")
        self.read += lines(len(self.words[half]), self.size, self.geometry.line_words)
        return self.words[half]

    def select(self, half: int, places: Ints) -> Ints:
        """Read some vectors of a half. Counted as if they lay in full lines: see `scattered_lines`."""
        self._expect(half, Half.READ, "read")
        self.read += lines(len(places), self.size, self.geometry.line_words)
        return self.words[half][places]

    def refill(self, half: int, words: Ints) -> None:
        """The LSBs have come: the same vectors again, with all bits, while the half belongs to its head."""
        self._expect(half, Half.READ, "refilled")
        if words.shape != self.words[half].shape:
            raise ValueError(f"refill: must have the vectors {self.words[half].shape} of the half, got {words.shape}")
        self._check(words)
        self.words[half] = words.copy()
        self.written += lines(len(words), self.size, self.geometry.line_words)

    def release(self, half: int) -> None:
        """The last query has read it: the next head may be written."""
        self._expect(half, Half.READ, "released")
        self.state[half] = Half.EMPTY

    def _expect(self, half: int, state: Half, action: str) -> None:
        if self.state[half] is not state:
            raise BufferBusy(f"half {half} is {self.state[half].value}: it cannot be {action}")

    def _check(self, words: Ints) -> None:
        g = self.geometry
        if len(words) > g.capacity(self.size):
            raise ValueError(
                f"buffer: {g.lines} lines hold {g.capacity(self.size)} vectors of {self.size}, got {len(words)}"
            )
        if not fits(words, g.word_bits):
            raise ValueError(f"buffer: words must have {g.word_bits} bits, got {words.min()}..{words.max()}")
