"""A layout is a permutation, and a permutation of a tiled array is a sentence.

Arrangement("N h2 i2 r8 | K c2 q4 e4", "N K (r q) (c i e h)") reads: of a matrix [32 N, 32 K], the row has the digits N,
h (0..1), i (0..1), r (0..7), the column K, c, q, e; it is stored as [N, K, 8 x 4, 2 x 2 x 4 x 2] in the order given.
A factor without a number takes what the shape leaves; it comes first in its axis.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

Factor = tuple[str, int]  # name, size; 0 where the shape decides


def _factors(text: str) -> list[Factor]:
    return [(name, int(size or 0)) for name, size in re.findall(r"([A-Za-z])(\d*)", text)]


def _resolved(where: str, factors: list[Factor], dimension: int) -> dict[str, int]:
    """Sizes by name of the factors of one axis."""
    tile = prod(size for _, size in factors if size)
    free = [name for name, size in factors if not size]
    if dimension % tile or (not free and dimension != tile):
        rule = f"a multiple of {tile}" if free else f"{tile}"
        raise ValueError(f"{where}: must be {rule}, got {dimension}")
    return {name: size or dimension // tile for name, size in factors}


@dataclass(frozen=True)
class Arrangement:
    """name says what is arranged, for messages; source and target as above, with the same factors."""

    name: str
    source: str
    target: str

    @cached_property
    def _axes(self) -> list[list[Factor]]:
        return [_factors(axis) for axis in self.source.split("|")]

    @cached_property
    def _groups(self) -> list[list[Factor]]:
        sizes = {name: size for axis in self._axes for name, size in axis}
        groups = re.findall(r"\(([^)]*)\)|([A-Za-z])", self.target)
        named = [[(name, sizes[name]) for name, _ in _factors(many or one)] for many, one in groups]
        assert sorted(name for group in named for name, _ in group) == sorted(sizes), self.target
        return named

    def _sizes(self, shape: tuple[int, ...], axes: list[list[Factor]]) -> dict[str, int]:
        if len(shape) != len(axes):
            raise ValueError(f"{self.name}: must have {len(axes)} axes, got shape {shape}")
        found: dict[str, int] = {}
        for place, (axis, dimension) in enumerate(zip(axes, shape, strict=True)):
            found |= _resolved(f"{self.name}: axis {place} of {shape}", axis, dimension)
        return found

    def _moved(self, x: Any, given: list[list[Factor]], wanted: list[list[Factor]]) -> Any:
        sizes = self._sizes(x.shape, given)
        order = [name for axis in given for name, _ in axis]
        places = [order.index(name) for axis in wanted for name, _ in axis]
        shape = [prod(sizes[name] for name, _ in axis) for axis in wanted]
        parts = x.reshape([sizes[name] for name in order]).transpose(places)
        return np.ascontiguousarray(parts).reshape(shape)

    def pack(self, x: Any) -> Any:
        """The array as it is stored. Raises ValueError for a shape that does not fit the tiles."""
        return self._moved(np.asarray(x), self._axes, self._groups)

    def unpack(self, stored: Any) -> Any:
        """The inverse of `pack`."""
        return self._moved(np.asarray(stored), self._groups, self._axes)
