"""Number formats: every code, every float16, middles, NaN and infinities, against a twin that shares no code."""

import math
from bisect import bisect_left
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from accel.formats import names, number

FLOAT16 = np.arange(65536, dtype=np.uint16).view(np.float16)
FLOATS = {"e2m1": (2, 1), "e4m3": (4, 3), "e5m2": (5, 2)}  # bits of exponent and of fraction
SPECIAL = {"e4m3": {0x7F, 0xFF}, "e5m2": {0x7C, 0x7D, 0x7E, 0x7F, 0xFC, 0xFD, 0xFE, 0xFF}}  # OCP: no finite number
BITSANDBYTES = (  # limits of its NF4, as float32
    -0.8480964004993439, -0.6106329262256622, -0.4599952697753906, -0.33967943489551544, -0.23460740596055984,
    -0.13791173323988914, -0.045525018125772476, 0.03979014977812767, 0.1202552504837513, 0.2035212516784668,
    0.2920137718319893, 0.3893125355243683, 0.5016634166240692, 0.6427869200706482, 0.8614784181118011,
)  # fmt: skip


def float_value(code: int, exponent_bits: int, fraction_bits: int) -> Fraction:
    """Value of sign, exponent, fraction, read as IEEE 754 would without its special exponent."""
    sign, size = divmod(code, 2 ** (exponent_bits + fraction_bits))
    exponent, fraction = divmod(size, 2**fraction_bits)
    bias = 2 ** (exponent_bits - 1) - 1
    hidden = 1 if exponent else 0
    value = (hidden + Fraction(fraction, 2**fraction_bits)) * Fraction(2) ** (max(exponent, 1) - bias)
    return -value if sign else value


def table(name: str) -> dict[int, Fraction]:
    """The finite values of a format by code."""
    if name in FLOATS:
        codes = range(2 ** (1 + sum(FLOATS[name])))
        return {c: float_value(c, *FLOATS[name]) for c in codes if c not in SPECIAL.get(name, ())}
    if name == "nf4":
        return {c: Fraction(float(v)) for c, v in enumerate(number("nf4").values)}
    bits = int(name.lstrip("uint"))
    values = range(2**bits) if name.startswith("u") else range(-(2 ** (bits - 1)), 2 ** (bits - 1))
    return {v % 2**bits: Fraction(v) for v in values}


class Twin:
    """Nearest code by bisection; float16 numbers and values of formats are exact as Python floats, their gap too."""

    def __init__(self, name: str) -> None:
        self.name, self.signed = name, name in FLOATS
        by_value = sorted((float(v), c) for c, v in table(name).items() if v or c in (0, 7))
        self.values, self.codes = [v for v, _ in by_value], [c for _, c in by_value]

    def encode(self, x: float) -> int:
        if math.isnan(x):
            return {"e4m3": 0x7F, "e5m2": 0x7F, "e2m1": 7, "nf4": 7}.get(self.name, 0)
        near = bisect_left(self.values, x)
        around = [i for i in (near - 1, near) if 0 <= i < len(self.values)]
        order = (lambda i: i) if self.name == "nf4" else (lambda i: self.codes[i] % 2)
        best = min(around, key=lambda i: (abs(x - self.values[i]), order(i)))
        negative_zero = self.signed and self.values[best] == 0 and math.copysign(1, x) < 0
        return 8 << (4 * (self.name != "e2m1")) if negative_zero else self.codes[best]


@pytest.mark.parametrize("name", names())
def test_every_value_and_every_code_comes_back(name):
    one, expected = number(name), table(name)
    assert one.values.shape == (2**one.bits,)
    finite = np.isfinite(one.values)
    assert set(np.flatnonzero(finite)) == set(expected)
    assert {c: Fraction(float(one.values[c])) for c in expected} == expected
    codes = np.flatnonzero(finite)
    assert np.array_equal(one.encode(one.decode(codes)), codes)
    assert (one.smallest, one.largest) == (min(expected.values()), max(expected.values()))


@pytest.mark.parametrize("name", names())
def test_every_float16_goes_to_the_nearest(name):
    twin = Twin(name)
    found = number(name).encode(FLOAT16)
    expected = np.array([twin.encode(x) for x in FLOAT16.tolist()], np.uint8)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", [name for name in names() if name != "nf4"])
def test_middles_go_to_the_even_code_and_float64_is_rounded_once(name):
    one = number(name)
    numbers = sorted({float(v) for v in table(name).values()})
    for low, high in pairwise(numbers):
        middle = (low + high) / 2
        below, at, above = one.encode(np.array([np.nextafter(middle, -9e9), middle, np.nextafter(middle, 9e9)]))
        assert (one.values[below], one.values[above]) == (low, high)
        assert at % 2 == 0
        assert one.values[at] in (low, high)


def test_nf4_has_the_limits_of_bitsandbytes():
    limits = np.array(BITSANDBYTES, np.float32)
    one = number("nf4")
    assert np.array_equal(one.encode(limits), np.arange(15))
    assert np.array_equal(one.encode(np.nextafter(limits, np.float32(2))), np.arange(1, 16))


def test_nf4_differs_from_the_nearest_value_at_six_float32_numbers():
    one, limits = number("nf4"), np.array(BITSANDBYTES, np.float32)
    values = one.values.astype(np.float64)
    nearer_above = limits.astype(np.float64) > (values[:-1] + values[1:]) / 2
    assert nearer_above.sum() == 6


def test_what_is_no_number():
    x = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-30, -1e-30])
    assert number("e4m3").encode(x).tolist() == [0x7F, 0x7E, 0xFE, 0x80, 0, 0x80]
    assert number("e5m2").encode(x).tolist() == [0x7F, 0x7B, 0xFB, 0x80, 0, 0x80]
    assert number("e2m1").encode(x).tolist() == [7, 7, 15, 8, 0, 8]
    assert number("int4").encode(x).tolist() == [0, 7, 8, 0, 0, 0]
    assert number("uint8").encode(x).tolist() == [0, 255, 0, 0, 0, 0]
    assert number("nf4").encode(x).tolist() == [7, 15, 0, 7, 7, 7]
    assert np.signbit(number("e2m1").decode([8]))[0]
    assert number("e5m2").decode([0x7C, 0xFC]).tolist() == [np.inf, -np.inf]
    assert np.isnan(number("e4m3").decode([0x7F, 0xFF])).all()


@pytest.mark.parametrize(("name", "kind"), [("e4m3", "float8_e4m3fn"), ("e5m2", "float8_e5m2")])
def test_torch_rounds_finite_numbers_alike(name, kind):
    """It differs above the largest number (e5m2 becomes infinite) and in the sign of NaN."""
    torch = pytest.importorskip("torch")
    one = number(name)
    within = FLOAT16[np.abs(FLOAT16) <= one.largest]
    theirs = torch.from_numpy(within.copy()).to(getattr(torch, kind)).view(torch.uint8).numpy()
    assert np.array_equal(one.encode(within), theirs)
    everything = torch.arange(256, dtype=torch.uint8).view(getattr(torch, kind)).float().numpy()
    assert np.array_equal(one.values, everything, equal_nan=True)


def test_shapes_are_kept_and_tables_cannot_be_changed():
    one = number("int4")
    assert one.encode(np.zeros((2, 0, 3))).shape == (2, 0, 3)
    assert one.encode(2.6) == 3
    assert one.decode([[1, 15]]).tolist() == [[1.0, -1.0]]
    assert one.decode([[1, 15]]).dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        one.values[0] = 1


def test_faults_are_told():
    with pytest.raises(ValueError, match=r"must be one of int4, .*, got 'E4M3FN'; did you mean 'e4m3'\?"):
        number("E4M3FN")
    with pytest.raises(ValueError, match=r"int4: codes must lie in 0\.\.15, got -1\.\.3"):
        number("int4").decode([-1, 3])
    with pytest.raises(ValueError, match="int4: codes must be integers, got float64"):
        number("int4").decode([1.0])
