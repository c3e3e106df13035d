"""Linear symmetric quantization (arXiv 2012.09852, section III-D): integers with one scale, and their bits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Fixed:
    """Signed integers of so many bits, two's complement; the value of a code is code x scale."""

    code: Ints
    bits: int
    scale: float

    @property
    def value(self) -> Floats:
        """What the codes stand for."""
        return self.code * np.float64(self.scale)


def largest(bits: int) -> int:
    """The largest code: symmetric, so that -2^(bits-1) is not used."""
    return (1 << (bits - 1)) - 1


def quantize(values: Floats, bits: int) -> Fixed:
    """Round to nearest (ties to even), one scale for the whole array: its largest magnitude is the largest code.

    Raises ValueError for values that are not finite, or fewer than 2 bits. Zeros get the scale 1.
    """
    if bits < 2:
        raise ValueError(f"quantize: bits must be at least 2 (a sign and a magnitude), got {bits}")
    if not np.isfinite(values).all():
        raise ValueError(f"quantize: values must be finite, got {values[~np.isfinite(values)][0]}")
    top = float(np.abs(values).max(initial=0.0))
    scale = top / largest(bits) or 1.0  # the smallest denormals would divide to zero
    return Fixed(np.clip(np.rint(values / scale), -largest(bits), largest(bits)).astype(np.int64), bits, scale)


def fits(values: Ints, bits: int) -> bool:
    """Whether all values have a two's complement of that many bits."""
    return bool((values >= -(1 << (bits - 1))).all() and (values < 1 << (bits - 1)).all())


def shift_round(values: Ints, places: int) -> Ints:
    """Divide by 2^places, rounding half up: one addition in front of the shifter."""
    return values + (1 << places >> 1) >> places
