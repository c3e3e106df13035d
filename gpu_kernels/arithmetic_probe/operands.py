"""Operands by suite and seed: bits of A, B and C of tiles, and what these bits stand for. No torch, no CUDA."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_kernels.arithmetic_probe.instructions import COLUMNS, ROWS, Product

FIELDS = {"float16": (5, 10), "bfloat16": (8, 7), "e4m3": (4, 3), "e5m2": (5, 2), "float32": (8, 23)}
WORDS = {"float16": np.uint16, "bfloat16": np.uint16, "e4m3": np.uint8, "e5m2": np.uint8, "float32": np.uint32}
# exponents of A, of B and of C, relative to 1, that a suite draws from; "even" numbers are as likely at each of them
SUITES = {
    "plain": ((-3, 1), (-3, 1), (-3, 4)),
    "wide": ((-14, 15), (-14, 15), (-40, 40)),
    "cancelling": ((-4, 4), (-4, 4), (-6, 8)),
    "subnormal": ((-40, -10), (-40, 8), (-44, -12)),
    "sparse": ((-8, 8), (-8, 8), (-20, 12)),
    "tiny": ((-126, -60), (-66, -40), (-127, -110)),
    "huge": ((40, 64), (40, 64), (110, 127)),
    "special": ((-8, 8), (-8, 8), (-8, 8)),
}
Bits = NDArray[Any]


def suites(operand: str) -> tuple[str, ...]:
    """Suites that make sense for a format; "tiny" and "huge" reach the ends of float32, which only
    bfloat16 products do, "special" holds infinities and NaN."""
    if operand == "int8":
        return ("corners",)
    return tuple(name for name in SUITES if name not in ("tiny", "huge") or operand == "bfloat16")


def _draw(rng: np.random.Generator, form: str, shape: tuple[int, ...], span: tuple[int, int]) -> Bits:
    """Random signs and significands, exponents even over `span` as far as the format has them, subnormals below."""
    exponent_bits, bits = FIELDS[form]
    bias, most = 2 ** (exponent_bits - 1) - 1, 2**exponent_bits - (1 if form == "e4m3" else 2)
    fields = np.clip(rng.integers(span[0] + bias, span[1] + bias, shape, endpoint=True), 0, most)
    rest = rng.integers(0, 2**bits, shape)
    if form == "e4m3":
        rest = np.where((fields == most) & (rest == 7), 6, rest)  # all ones is its NaN
    sign = rng.integers(0, 2, shape) << (exponent_bits + bits)
    return (sign | fields << bits | rest).astype(WORDS[form])


def operands(product: Product, suite: str, tiles: int, steps: int, seed: int) -> tuple[Bits, Bits, Bits]:
    """A [tiles, 64, K], B [tiles, 8, K] in the words of the format, C uint32 [tiles, 64, 8]; K = steps x depth."""
    rng, k = np.random.default_rng(seed), steps * product.depth
    shapes = (tiles, ROWS, k), (tiles, COLUMNS, k), (tiles, ROWS, COLUMNS)
    if product.operand == "int8":
        return _corners(rng, shapes)
    spans = SUITES[suite]
    a, b = (_draw(rng, product.operand, shape, span) for shape, span in zip(shapes[:2], spans[:2], strict=True))
    sums = "float16" if product.sums == "float16" else "float32"
    c = _draw(rng, sums, shapes[2], spans[2]).astype(np.uint32)
    if suite == "sparse":
        a[rng.random(a.shape) < 0.6] = 0
        b[rng.random(b.shape) < 0.3] = 0
        c[rng.random(c.shape) < 0.5] = 0
    if suite == "cancelling":
        _cancel(rng, a, b, product.operand)
    if suite == "special":
        for form, bits in ((product.operand, a), (product.operand, b), (sums, c)):
            _sprinkle(rng, form, bits)
    return a, b, c


def _sprinkle(rng: np.random.Generator, form: str, bits: Bits) -> None:
    """Zeros, infinities and NaN of both signs at one place in 64."""
    exponent_bits, rest = FIELDS[form]
    sign, top = 1 << (exponent_bits + rest), (1 << exponent_bits) - 1 << rest
    odd = [top | (1 << rest) - 1, 0] if form == "e4m3" else [top, top | 1, top | 1 << (rest - 1), 0]
    chosen = rng.choice(np.array([*odd, *(sign | one for one in odd)]), bits.shape)
    bits[...] = np.where(rng.random(bits.shape) < 1 / 64, chosen, bits)


def _cancel(rng: np.random.Generator, a: Bits, b: Bits, form: str) -> None:
    """Make products come in pairs of opposite sign that nearly or quite cancel, at random places."""
    k, sign = a.shape[2], WORDS[form](1 << sum(FIELDS[form]))
    order = rng.permutation(k)
    one, other = order[: k // 2], order[k // 2 :]
    a[:, :, other], b[:, :, other] = a[:, :, one] ^ sign, b[:, :, one]
    last = rng.random(a[:, :, other].shape) < 0.3  # the last bit of some is turned
    a[:, :, other] ^= last.astype(a.dtype)


def _corners(rng: np.random.Generator, shapes: tuple[tuple[int, ...], ...]) -> tuple[Bits, Bits, Bits]:
    """int8 extremes and int32 sums near both ends."""
    a, b = (rng.choice(np.array([-128, -127, -1, 0, 1, 127], np.int8), shape) for shape in shapes[:2])
    c = rng.choice(np.array([-(2**31), -(2**31) + 5, -7, 0, 9, 2**31 - 6, 2**31 - 1], np.int32), shapes[2])
    return a.view(np.uint8), b.view(np.uint8), c.view(np.uint32)


def values(form: str, bits: Bits) -> NDArray[np.float32]:
    """The numbers behind bits of a float format; infinities and NaN of float16, bfloat16, e5m2 and float32 too."""
    if form == "float32":
        return bits.astype(np.uint32).view(np.float32)
    if form == "bfloat16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    if form == "float16":
        return bits.astype(np.uint16).view(np.float16).astype(np.float32)
    if form == "e5m2":
        return (bits.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    sign, field, rest = bits >> 7, (bits >> 3 & 15).astype(int), (bits & 7).astype(float)
    size = np.where(field > 0, np.ldexp(1 + rest / 8, field - 7), np.ldexp(rest / 8, -6))
    return np.where(bits & 127 == 127, np.nan, np.where(sign, -size, size)).astype(np.float32)
