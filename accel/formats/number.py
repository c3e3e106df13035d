"""Numbers of 8 bits and fewer: a format is the table of its values.

| format | codes | source |
| --- | --- | --- |
| int4, int8 | two's complement | |
| uint4, uint8 | plain | |
| e2m1 | sign, 2 bits of exponent, 1 of fraction; no NaN, no infinity; to 6 | OCP Microscaling Formats 1.0, 5.3.3 |
| e4m3 | sign, 4, 3; no infinity, code 0x7f is NaN; to 448 | OCP 8-bit Floating Point 1.0 (E4M3) |
| e5m2 | sign, 5, 2; infinity and NaN as in IEEE 754; to 57344 | OCP 8-bit Floating Point 1.0 (E5M2) |
| nf4 | 16 quantiles of a normal distribution, -1 to 1 | QLoRA, arXiv 2305.14314, appendix E |

Encoding takes the nearest value. A tie goes to the even code, in nf4 to the lower value: there the limits are the
middles rounded to float32, compared by `>`, as bitsandbytes does it (six float32 numbers, each within 4e-8 of a
middle, thus go down although the upper value is nearer). What is too large, infinity too, becomes the largest finite
value of its sign. A zero keeps its sign where the format has one. NaN becomes the NaN 0x7f in e4m3 and e5m2 and +6 in
e2m1 (PTX ISA, `cvt` with `.satfinite`), and 0 in the integers (PTX ISA, `cvt` to integers) and in nf4 (our choice).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Wide = NDArray[np.float64]

NF4_VALUES = (  # QLoRA, arXiv 2305.14314, appendix E
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Number:
    """A format (see above).

    values     float32 [2^bits], the value of each code; NaN and infinite ones are never the result of encoding a number
    sign       the bit that negates a value, 0 where no bit does (integers, nf4)
    nan        the code of NaN
    ascending  codes of the finite values from the smallest up; without those whose sign bit is set
    limits     float64 [len(ascending) - 1]: what is above limits[i] is encoded as ascending[i + 1] or more
    """

    name: str
    bits: int
    values: Floats
    sign: int
    nan: int
    ascending: Codes
    limits: Wide

    @property
    def largest(self) -> float:
        """The largest finite value."""
        return float(self.values[self.ascending[-1]])

    @property
    def smallest(self) -> float:
        """The smallest finite value."""
        return -self.largest if self.sign else float(self.values[self.ascending[0]])

    def encode(self, x: Any) -> Codes:
        """uint8 codes of the same shape; float32 and float64 input is rounded once. ValueError for no real numbers."""
        numbers = np.asarray(x)
        if numbers.dtype.kind not in "fiub":
            raise ValueError(f"{self.name}: must encode real numbers, got {numbers.dtype}")
        places = np.searchsorted(self.limits, np.abs(numbers) if self.sign else numbers, side="left")
        codes = self.ascending[np.minimum(places, len(self.limits))]
        if self.sign:
            codes = codes | np.where(np.signbit(numbers), self.sign, 0).astype(np.uint8)
        found: Codes = np.where(np.isnan(numbers), np.uint8(self.nan), codes)
        return found

    def decode(self, codes: Any) -> Floats:
        """float32 values of the same shape. Raises ValueError for a code outside the format."""
        found = np.asarray(codes)
        if found.dtype.kind not in "iu":
            raise ValueError(f"{self.name}: codes must be integers, got {found.dtype}")
        if found.size and (found.min() < 0 or found.max() >= len(self.values)):
            raise ValueError(
                f"{self.name}: codes must lie in 0..{len(self.values) - 1}, got {found.min()}..{found.max()}"
            )
        values: Floats = self.values[found]
        return values


def _build(name: str, values: Wide, nan: int, signed: bool = False) -> Number:
    """A format from its values by code; `signed`: the upper half of the codes negates the lower."""
    bits = len(values).bit_length() - 1
    sign = len(values) // 2 if signed else 0
    codes = np.arange(sign or len(values))
    codes = codes[np.isfinite(values[codes])]
    ascending = codes[np.argsort(values[codes])]
    low, high = ascending[:-1], ascending[1:]
    middles = (values[low] + values[high]) / 2
    limits = np.where(high % 2 == 0, np.nextafter(middles, -np.inf), middles)
    singles, order = values.astype(np.float32), ascending.astype(np.uint8)
    return Number(name, bits, _fixed(singles), sign, nan, _fixed(order), _fixed(limits))


def _fixed(array: Any) -> Any:
    array.setflags(write=False)
    return array


def _unsigned(name: str, bits: int) -> Number:
    return _build(name, np.arange(2.0**bits), nan=0)


def _signed(name: str, bits: int) -> Number:
    codes = np.arange(2**bits)
    return _build(name, np.where(codes < 2 ** (bits - 1), codes, codes - 2**bits).astype(np.float64), nan=0)


def _float_values(exponent_bits: int, fraction_bits: int) -> Wide:
    """Values by code of sign, exponent (bias 2^(exponent_bits - 1) - 1) and fraction, all finite."""
    size = np.arange(2 ** (exponent_bits + fraction_bits))
    exponent, fraction = size >> fraction_bits, size & (2**fraction_bits - 1)
    whole = np.where(exponent > 0, 2**fraction_bits, 0) + fraction
    bias = 2 ** (exponent_bits - 1) - 1
    values = np.ldexp(whole.astype(np.float64), np.maximum(exponent, 1) - bias - fraction_bits)
    return np.concatenate([values, -values])


def _e2m1(name: str) -> Number:
    return _build(name, _float_values(2, 1), nan=7, signed=True)


def _e4m3(name: str) -> Number:
    values = _float_values(4, 3)
    values[[0x7F, 0xFF]] = np.nan
    return _build(name, values, nan=0x7F, signed=True)


def _e5m2(name: str) -> Number:
    values = _float_values(5, 2)
    values[0x7C], values[0xFC] = np.inf, -np.inf
    values[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
    return _build(name, values, nan=0x7F, signed=True)


def _nf4(name: str) -> Number:
    values = np.array(NF4_VALUES)
    limits = ((values[:-1] + values[1:]) / 2).astype(np.float32).astype(np.float64)
    return replace(_build(name, values, nan=7), limits=_fixed(limits))


_FORMATS: dict[str, Callable[[str], Number]] = {
    "int4": lambda name: _signed(name, 4),
    "uint4": lambda name: _unsigned(name, 4),
    "int8": lambda name: _signed(name, 8),
    "uint8": lambda name: _unsigned(name, 8),
    "e2m1": _e2m1,
    "e4m3": _e4m3,
    "e5m2": _e5m2,
    "nf4": _nf4,
}


def names() -> tuple[str, ...]:
    """The formats by name."""
    return tuple(_FORMATS)


@cache
def _made(name: str) -> Number:
    return _FORMATS[name](name)


def number(name: str) -> Number:
    """The format `name`. Raises ValueError for an unknown one."""
    if name not in _FORMATS:
        near = get_close_matches(name.lower(), _FORMATS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"number format: must be one of {', '.join(_FORMATS)}, got {name!r}{hint}")
    return _made(name)
