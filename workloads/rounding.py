"""Rounding of float64 facts to their stored formats, with a count of the values near a rounding boundary."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Relative. Between instruction sets (AVX-512, and MKL and ATen held to their least) the facts of five texts
# differed by at most 2.4e-14; within 1e-9 lies every fiftieth value that is rounded to float32.
NEAR = 1e-12


@dataclass
class Rounding:
    """Rounds, and counts `values` and those within 1e-12 (relative) of a rounding boundary, `near_ties`."""

    values: int = 0
    near_ties: int = 0

    def to_float(self, values: NDArray[np.float64], dtype: Any) -> NDArray[Any]:
        """Nearest even in float16 or float32. Raises ValueError for a value that is not finite there."""
        with np.errstate(over="ignore"):  # reported below
            stored = values.astype(dtype)
        if not np.isfinite(stored).all():
            raise ValueError(f"facts: must be finite in {np.dtype(dtype)}, got {values[~np.isfinite(stored)][0]}")
        toward = np.where(values > stored, np.inf, -np.inf).astype(dtype)
        middle = (stored.astype(np.float64) + np.nextafter(stored, toward)) / 2
        self._count(values, middle)
        return stored

    def to_byte(self, shares: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Nearest even of 255 x share; shares 0..1."""
        scaled = shares * 255
        self._count(scaled, np.floor(scaled) + 0.5)
        return np.rint(scaled).astype(np.uint8)

    def _count(self, values: NDArray[np.float64], boundary: NDArray[np.float64]) -> None:
        self.values += values.size
        self.near_ties += int((np.abs(values - boundary) <= NEAR * np.abs(values)).sum())
