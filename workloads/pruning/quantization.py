"""Linear symmetric quantization and its two bit planes (SpAtten, section III-D). NumPy.

A number x is held as code * scale, the code a whole number of `bits` bits, and the scale chosen so that
the largest |x| gets the largest code; the most negative code is not used.  The planes of a code are its
upper `msb_bits` (signed) and its lower `lsb_bits` (not signed): MSB * 2**lsb_bits + LSB is the code.
The hardware puts zeros where the low bits are missing, so MSBs alone stand for a number that is lower by
up to 2**lsb_bits - 1 codes; the mean of that shift moves all scores of a query alike and leaves no trace
in the probabilities.  The paper does not say over which numbers a scale is shared: here over one head.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
SPLITS = ((4, 4), (6, 4), (8, 4), (10, 4), (12, 4))  # section III-D: MSBs + LSBs


def largest_code(bits: int) -> int:
    """The largest code of so many bits, at least 1: with 1 bit codes are -1, 0 and 1."""
    return max(2 ** (bits - 1) - 1, 1)


def scale_of(numbers: NDArray[Any], bits: int) -> float:
    """The scale with which the largest |x| gets the largest code; 1 where all are 0."""
    return float(np.abs(numbers).max(initial=0.0)) / largest_code(bits) or 1.0


def quantize(numbers: NDArray[Any], bits: int, scale: float | None = None) -> Ints:
    """Codes int64 of the same shape: nearest, ties to even; beyond the range: its end."""
    top = largest_code(bits)
    unit = scale_of(numbers, bits) if scale is None else scale
    return np.clip(np.rint(numbers / unit), -top, top).astype(np.int64)


def rounded(numbers: NDArray[Any], bits: int) -> NDArray[Any]:
    """The numbers as their codes stand for them."""
    scale = scale_of(numbers, bits)
    return quantize(numbers, bits, scale) * scale


def planes(codes: Ints, lsb_bits: int) -> tuple[Ints, Ints]:
    """(MSBs, LSBs): the codes shifted down with their sign, and the rest, 0 .. 2**lsb_bits - 1."""
    return codes >> lsb_bits, codes & (2**lsb_bits - 1)


def joined(msb: Ints, lsb: Ints | int, lsb_bits: int) -> Ints:
    """The codes of two planes; `lsb` 0 is what the hardware has before it fetches the low bits."""
    return (msb << lsb_bits) | lsb
