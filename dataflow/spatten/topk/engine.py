"""The top-k engine as hardware (arXiv 2012.09852, section IV-B, Alg. 3, Fig. 9), row by row and in cycles.

Left out: the load of the input (in the accelerator it arrives from the softmax, row by row), and a sink that stalls.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataflow.spatten.topk.eliminator import ZeroEliminator
from dataflow.spatten.topk.rule import next_random

Values = NDArray[np.float64]
DECIDE_CYCLES = 1  # compare counts with the wanted rank, draw the pivot's place, address its row
PIVOT_CYCLES = 1  # pivot out of its row; address of the first row
WRITE_CYCLES = 1  # the last row, compared in the cycle before, is packed and written


class SurvivorFifo:
    """FIFO_L or FIFO_R: `depth` rows of `lanes` values, one memory a lane.

    Packed values are rotated to where the last ones ended, so that rows fill without holes; a segment begins at a
    new row. A segment may be read while the next is written: never more is written than was read, so that a vector of
    up to lanes * depth values fits whatever the pivots are.
    """

    def __init__(self, lanes: int, depth: int) -> None:
        self.lanes, self.depth = lanes, depth
        self.memory = np.zeros((depth, lanes))
        self.write_base, self.read_base, self.size = 0, 0, 0

    def turn(self) -> None:
        """What was written becomes readable; writing goes on in the row behind it."""
        self.read_base = self.write_base
        self.write_base = (self.write_base - -self.size // self.lanes) % self.depth
        self.size = 0

    def push(self, values: Values) -> None:
        """Up to `lanes` values; raises ValueError where they do not fit."""
        if self.size + len(values) > self.lanes * self.depth:
            raise ValueError(f"FIFO: {self.lanes} lanes of {self.depth} rows are full")
        places = self.size + np.arange(len(values))
        self.memory[(self.write_base + places // self.lanes) % self.depth, places % self.lanes] = values
        self.size += len(values)

    def row(self, number: int) -> Values:
        """A row of the readable segment."""
        return self.memory[(self.read_base + number) % self.depth].copy()


@dataclass(frozen=True)
class Pass:
    """One pass: its pivot, how many of the survivors were smaller, equal and larger, and its cycles."""

    pivot: float
    smaller: int
    equal: int
    larger: int
    cycles: int


@dataclass(frozen=True)
class Selection:
    """What the engine found.

    winners         positions of the winners, int64 [keep], in original order
    threshold       the keep-th largest value; `ties` values equal to it stay, the first ones
    passes          of the quick-select
    filter_cycles   of the filter behind it
    """

    winners: NDArray[np.int64]
    threshold: float
    ties: int
    passes: tuple[Pass, ...]
    filter_cycles: int

    @property
    def find_cycles(self) -> int:
        """From the first decision to the one that ends the search."""
        return sum(each.cycles for each in self.passes)


@dataclass(frozen=True)
class TopKEngine:
    """Two arrays of `lanes` comparators, FIFO_L, FIFO_R and an input buffer of `depth` rows (Table I: 16 and 64).

    registered_shifts   with registers between the shifts in front of the FIFOs, which lengthens every pass; the filter
                        has them always
    """

    lanes: int = 16
    depth: int = 64
    registered_shifts: bool = False

    @property
    def overhead_cycles(self) -> int:
        """Cycles of a pass beyond one a row."""
        shifts = ZeroEliminator(self.lanes).shifts if self.registered_shifts else 0
        return DECIDE_CYCLES + PIVOT_CYCLES + WRITE_CYCLES + shifts

    def select(self, values: Values, keep: int, seed: int) -> Selection:
        """The `keep` largest of values [n]; pivots from splitmix64. Raises ValueError where it would be refused."""
        if len(values) > self.lanes * self.depth:
            raise ValueError(f"TopKEngine: {self.lanes} lanes of {self.depth} rows hold no {len(values)} values")
        if not 1 <= keep <= len(values):
            raise ValueError(f"TopKEngine: keep must be in 1..{len(values)}, got {keep}")
        threshold, ties, passes = self._find(values, keep, seed)
        rows = -(-len(values) // self.lanes)
        cycles = rows + ZeroEliminator(self.lanes).shifts
        return Selection(self._filter(values, threshold, ties), threshold, ties, passes, cycles)

    def _find(self, values: Values, keep: int, seed: int) -> tuple[float, int, tuple[Pass, ...]]:
        """Alg. 3: pass after pass, until the wanted rank is among the values equal to the pivot."""
        source, left, right = (SurvivorFifo(self.lanes, self.depth) for _ in range(3))
        for first in range(0, len(values), self.lanes):
            source.push(values[first : first + self.lanes])
        state, passes = np.uint64(seed), []
        while True:
            survivors = source.size
            for fifo in {source, left, right}:
                fifo.turn()
            state, bits = map(np.uint64, next_random(state))
            passes.append(self._pass(source, survivors, (int(bits) >> 33) * survivors >> 31, left, right))
            if left.size + right.size + passes[-1].equal != survivors:
                raise AssertionError("a value was lost")
            if right.size < keep <= right.size + passes[-1].equal:
                return passes[-1].pivot, keep - right.size, tuple(passes)
            if keep <= right.size:
                source = right
            else:
                source, keep = left, keep - right.size - passes[-1].equal

    def _pass(self, source: SurvivorFifo, survivors: int, place: int, left: SurvivorFifo, right: SurvivorFifo) -> Pass:
        """All survivors past one pivot: a row a cycle through '<' and '>', each with its zero eliminator."""
        eliminator, equal = ZeroEliminator(self.lanes), 0
        rows = -(-survivors // self.lanes)
        pivot = float(source.row(place // self.lanes)[place % self.lanes])
        for number in range(rows):
            row = source.row(number)
            valid = number * self.lanes + np.arange(self.lanes) < survivors
            smaller, larger = valid & (row < pivot), valid & (row > pivot)
            equal += int(np.count_nonzero(valid & ~smaller & ~larger))
            left.push(eliminator.pack(row, smaller))
            right.push(eliminator.pack(row, larger))
        return Pass(pivot, left.size, equal, right.size, rows + self.overhead_cycles)

    def _filter(self, values: Values, threshold: float, ties: int) -> NDArray[np.int64]:
        """The buffered input once more: what is above, and the first `ties` of what equals, packed row by row."""
        eliminator, found = ZeroEliminator(self.lanes), []
        for first in range(0, len(values), self.lanes):
            row = np.full(self.lanes, -np.inf)
            row[: len(values) - first] = values[first : first + self.lanes]
            equal = row == threshold
            tied = equal & (np.cumsum(equal) <= ties)
            ties -= int(np.count_nonzero(tied))
            found.append(eliminator.pack(first + np.arange(self.lanes), (row > threshold) | tied))
        return np.concatenate(found).astype(np.int64)
