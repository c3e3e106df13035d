"""Rounding to a number of significant bits, beside float16 and float32 of `workloads.rounding`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workloads.rounding import Rounding

FACT_BITS = 11  # significant bits of float16; here with the exponents of float32
_LEAST_EXPONENT = -126  # smallest normal number of float32 and bfloat16


@dataclass
class SignificantRounding(Rounding):
    """`Rounding` that also knows statistics (11 bits, float32's range) and bfloat16 (8 bits, that range)."""

    def to_significant(self, values: NDArray[np.float64], bits: int = FACT_BITS) -> NDArray[np.float32]:
        """Nearest even with so many significant bits; below 2^-126 on the grid of 2^-126. ValueError if not finite."""
        _, exponents = np.frexp(values)
        grid = np.ldexp(1.0, np.maximum(exponents, _LEAST_EXPONENT + 1) - bits)
        rounded = np.rint(values / grid) * grid
        beyond = ~(np.abs(rounded) <= np.finfo(np.float32).max)
        if beyond.any():
            raise ValueError(f"facts: must be finite in float32, got {values[beyond][0]}")
        self._count(values, (np.floor(values / grid) + 0.5) * grid)
        return rounded.astype(np.float32)

    def to_bits(self, values: NDArray[np.float64], form: str) -> NDArray[np.uint16]:
        """Bit patterns of float16 or bfloat16, rounded once from float64 to nearest even."""
        if form == "float16":
            return self.to_float(values, np.float16).view(np.uint16)
        return (self.to_significant(values, 8).view(np.uint32) >> 16).astype(np.uint16)


def from_bits(bits: NDArray[np.uint16], form: str) -> NDArray[np.float64]:
    """The numbers behind bit patterns of float16 or bfloat16, exactly."""
    if form == "float16":
        return bits.view(np.float16).astype(np.float64)
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
