"""The sorter that the engine is compared with (arXiv 2012.09852, section V-D): merge sort on Batcher's networks.

The paper compares with "a Batcher odd-even sorter" for 1024 inputs, of a width that it does not state. Read here: it
takes as many values a cycle as the engine has comparators. Rows of `width` values go through an odd-even sorting
network; then passes over all rows merge sorted runs in pairs, a row a cycle, through an odd-even merging network of
2 * width inputs: the lower half is the next row of the run, the upper half waits for the row that comes. Left out:
memories, and the pipeline of that feedback (here it takes one cycle, in favour of the sorter). A single network that
sorts 1024 values at once would have 24 063 comparators.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataflow.spatten.topk.rule import filter_cycles, select_by_rank

Stage = tuple[tuple[int, int], ...]


def sorting_network(n: int) -> tuple[Stage, ...]:
    """Batcher's odd-even merge sort of n = 2**m lanes: m (m + 1) / 2 stages of (lane, higher lane)."""
    _power_of_two(n)
    spans = [1 << i for i in range(n.bit_length() - 1)]
    return tuple(stage for span in spans for stage in _merge(n, span))


def merging_network(n: int) -> tuple[Stage, ...]:
    """Its last part, which merges two sorted halves of n = 2**m lanes: m stages."""
    _power_of_two(n)
    return _merge(n, n // 2)


def _power_of_two(n: int) -> None:
    if n < 2 or n & (n - 1):
        raise ValueError(f"Batcher network: lanes must be a power of two >= 2, got {n}")


def _merge(n: int, span: int) -> tuple[Stage, ...]:
    """Runs of `span` sorted lanes become runs of 2 * span: distances span, span / 2 ... 1."""
    distances = [span >> i for i in range(span.bit_length())]
    return tuple(
        tuple(
            (i, i + d)
            for j in range(d % span, n - d, 2 * d)
            for i in range(j, j + d)
            if i // (2 * span) == (i + d) // (2 * span)
        )
        for d in distances
    )


def comparators(network: tuple[Stage, ...]) -> int:
    """Compare-and-exchange elements of a network."""
    return sum(map(len, network))


def apply_network(network: tuple[Stage, ...], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """values [..., lanes] through the stages: the smaller of each pair to the lower lane."""
    values = values.copy()
    for stage in network:
        low, high = np.array(stage, np.int64).reshape(-1, 2).T
        first, second = values[..., low], values[..., high]
        values[..., low], values[..., high] = np.minimum(first, second), np.maximum(first, second)
    return values


@dataclass(frozen=True)
class BatcherSorter:
    """Merge sort, `width` (a power of two) values a cycle."""

    width: int = 16

    @property
    def comparators(self) -> int:
        """Of both networks, and one that compares the heads of two runs."""
        return comparators(sorting_network(self.width)) + comparators(merging_network(2 * self.width)) + 1

    def passes(self, n: int) -> int:
        """Over all rows: one that sorts rows, then one for every doubling of the runs."""
        return 1 + (self._rows(n) - 1).bit_length()

    def cycles(self, n: int) -> int:
        """A pass begins when the last row of the one before has left the network's pipeline (a stage a cycle)."""
        depth = len(sorting_network(self.width)) + (self.passes(n) - 1) * len(merging_network(2 * self.width))
        return self.passes(n) * self._rows(n) + depth

    def comparisons(self, n: int) -> int:
        """Compare-and-exchange operations of a sort."""
        merge = comparators(merging_network(2 * self.width)) + 1
        return self._rows(n) * (comparators(sorting_network(self.width)) + (self.passes(n) - 1) * merge)

    def sort(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """values [n] in rising order, as the rows go through the networks."""
        rows = np.full(self._rows(len(values)) * self.width, np.inf)
        rows[: len(values)] = values
        runs = [row[None] for row in apply_network(sorting_network(self.width), rows.reshape(-1, self.width))]
        while len(runs) > 1:
            pairs = zip(runs[::2], runs[1::2], strict=False)
            runs = [self._merge_runs(a, b) for a, b in pairs] + runs[len(runs) // 2 * 2 :]
        return runs[0].reshape(-1)[: len(values)]

    def _merge_runs(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sorted rows a and b into one run: the row with the smaller head goes next to what the last row left."""
        network, out = merging_network(2 * self.width), []
        held, waiting = a[0], [list(b), list(a[1:])]
        while waiting[0] or waiting[1]:
            turn = min((rows[0][0], side) for side, rows in enumerate(waiting) if rows)[1]
            both = apply_network(network, np.concatenate([held, waiting[turn].pop(0)]))
            out.append(both[: self.width])
            held = both[self.width :]
        return np.array([*out, held])

    def _rows(self, n: int) -> int:
        return -(-n // self.width)


@dataclass(frozen=True)
class Comparison:
    """The engine over the sorter, mean over the pivots.

    engine_cycles, sorter_cycles             of one vector; the engine's hold the filter
    throughput_ratio                         of these: one vector at a time in both
    streaming_ratio                          the engine's filter works beside the next search, the sorter's networks
                                             never run dry
    power_ratio                              comparisons a cycle of the sorter over those of the engine, both arrays and
                                             the filter counted: power where each comparison costs the same
    comparator_ratio                         comparators built, of the sorter over those of the two arrays
    """

    engine_cycles: float
    sorter_cycles: int
    throughput_ratio: float
    streaming_ratio: float
    power_ratio: float
    comparator_ratio: float


def compare_with_sorter(
    n: int = 1024, keep: int = 512, lanes: int = 16, overhead: int = 3, draws: int = 20_000
) -> Comparison:
    """Both on n values, the engine at its worst rank, the median (section V-D: 1.4x throughput, 3.5x less power)."""
    sorter = BatcherSorter(lanes)
    runs = np.array([select_by_rank(n, keep, lanes, overhead, seed) for seed in range(draws)], np.float64)
    find, compared = runs[:, 0].mean(), runs[:, 2].mean()
    engine = find + filter_cycles(n, lanes)
    sort, streaming = sorter.cycles(n), sorter.passes(n) * -(-n // lanes)
    activity = 2 * (compared + n) / engine
    return Comparison(
        float(engine),
        sort,
        float(sort / engine),
        float(streaming / find),
        float(sorter.comparisons(n) / sort / activity),
        sorter.comparators / (2 * lanes),
    )
