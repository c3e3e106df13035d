"""Products as columns of counts, with the bytes of their operands."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from accel.gpu.formats import Format, find_format
from dataflow.gpu.estimate import Floats


@dataclass(frozen=True)
class Problem:
    """Products of one format: columns [points, 1] of counts, and bytes of the three operands, all of a batch."""

    format: Format
    m: Floats
    n: Floats
    k: Floats
    batch: Floats

    @classmethod
    def of(cls, name: str, m: ArrayLike, n: ArrayLike, k: ArrayLike, batch: ArrayLike, least_rows: int) -> "Problem":
        """Paired counts. Raises ValueError for an unknown format."""
        arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(axis, dtype=np.float64)) for axis in (m, n, k, batch)))
        rows, *rest = (axis[:, None] for axis in arrays)
        return cls(find_format(name), np.maximum(rows, least_rows), *rest)

    @property
    def x_bytes(self) -> Floats:
        return self.batch * self.format.activation_bytes(self.m, self.k)  # type: ignore[arg-type]

    @property
    def w_bytes(self) -> Floats:
        return self.batch * self.format.weight_bytes(self.n, self.k)  # type: ignore[arg-type]

    @property
    def y_bytes(self) -> Floats:
        return self.batch * self.m * self.n * self.format.y_bits / 8

    @property
    def operations(self) -> Floats:
        return 2 * self.batch * self.m * self.n * self.k

    def part(self, start: int, stop: int) -> "Problem":
        """Some of the points."""
        columns = (axis[start:stop] for axis in (self.m, self.n, self.k, self.batch))
        return Problem(self.format, *columns)
