"""Streaming statistics of the channels of a tensor: the result does not depend on how its rows were cut."""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
QUANTILE = Fraction(999, 1000)  # of |x| per channel
TAIL = 64  # largest magnitudes kept of each channel: exact up to 63 999 rows


def from_top(rows: int, share: Fraction = QUANTILE) -> int:
    """How many of `rows` values lie above the nearest-rank quantile: the ceil(share x rows)-th smallest."""
    return rows - max(ceil(share * rows), 1)


@dataclass(frozen=True)
class Channels:
    """Statistics of the columns of x [rows, channels]; `+` joins those of two blocks of rows.

    total, square, fourth   float64 [channels]   sums of x, x^2 and x^4
    largest                 float64 [k, channels]   the min(rows, tail) largest |x| of each channel, falling
    """

    rows: int
    tail: int
    total: Floats
    square: Floats
    fourth: Floats
    largest: Floats

    @classmethod
    def of(cls, x: Floats, tail: int = TAIL) -> "Channels":
        """Those of one block [rows, channels], rows >= 1."""
        squares = x * x
        sums = x.sum(axis=0), squares.sum(axis=0), (squares * squares).sum(axis=0)
        return cls(len(x), tail, *sums, _largest(np.abs(x), tail))

    def __add__(self, other: "Channels") -> "Channels":
        return Channels(
            self.rows + other.rows,
            self.tail,
            self.total + other.total,
            self.square + other.square,
            self.fourth + other.fourth,
            _largest(np.concatenate((self.largest, other.largest)), self.tail),
        )

    @property
    def absmax(self) -> Floats:
        return self.largest[0]

    @property
    def mean(self) -> Floats:
        return self.total / self.rows

    @property
    def rms(self) -> Floats:
        return np.sqrt(self.square / self.rows)

    @property
    def quantile(self) -> Floats:
        """The 99.9 % quantile of |x|: nearest rank, so it is one of the values. ValueError: `tail` is too short."""
        place = from_top(self.rows)
        if place >= self.tail:
            raise ValueError(f"record_values: tail must be > {place} for {self.rows} rows, got {self.tail}")
        return self.largest[place]

    @property
    def kurtosis(self) -> Floats:
        """mean(x^4) / mean(x^2)^2 about zero, as symmetric quantizers are; 3 if normal, 0 for a dead channel."""
        return _ratio(self.fourth * self.rows, self.square**2)

    @property
    def layer_kurtosis(self) -> float:
        """The same over all channels at once."""
        count = self.rows * len(self.square)
        return float(_ratio(self.fourth.sum() * count, self.square.sum() ** 2))


def _largest(magnitudes: Floats, tail: int) -> Floats:
    if len(magnitudes) > tail:
        magnitudes = np.partition(magnitudes, len(magnitudes) - tail, axis=0)[-tail:]
    return -np.sort(-magnitudes, axis=0)


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(np.asarray(above, float)), where=np.asarray(below) > 0)
