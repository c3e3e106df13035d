"""Operands of the probed scalar instructions, and what the rules say they give. No torch, no CUDA."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from accel.arithmetic import flush, fma, fma_bfloat16, fma_float16, round_to, to_bfloat16, to_float16
from accel.formats import number
from gpu_kernels.arithmetic_probe.instructions import SCALARS
from gpu_kernels.arithmetic_probe.operands import values

Words = NDArray[np.uint32]
Floats = NDArray[np.float32]
NAN = {"float32": 0x7FFFFFFF, "float16": 0x7FFF, "bfloat16": 0x7FFF}  # what an H200 writes
# instruction -> what it stands for, in float64, and from where to where it is measured
APPROXIMATE: dict[str, tuple[Callable[[Any], Any], float, float]] = {
    "reciprocal_approximate": (np.reciprocal, 1.0, 2.0),
    "reciprocal_root_approximate": (lambda x: 1 / np.sqrt(x), 1.0, 4.0),
    "exp2_approximate": (np.exp2, -126.0, 0.0),
}


def operands(name: str, count: int, seed: int) -> list[Words]:
    """Words uint32 [count] of each operand, every bit pattern as likely; half of the sums nearly cancel or tie."""
    arity, form = SCALARS[name]
    rng = np.random.default_rng(seed)
    top = 1 << (16 if form in NAN else 32)
    found = [rng.integers(0, top, count, dtype=np.uint64).astype(np.uint32) for _ in range(arity)]
    if arity == 3:
        _oppose(rng, form, found)
    return found


def _oppose(rng: np.random.Generator, form: str, found: list[Words]) -> None:
    """Make half of the addends the negated product, but for their last bits."""
    kind, near = (form, 4) if form in NAN else ("float32", 1 << 12)
    half = len(found[0]) // 2
    x, y = (values(kind, one[:half]) for one in found[:2])
    with np.errstate(all="ignore"):
        bits = words(kind, x * y if kind == "float32" else round_to(x.astype(float) * y, kind))
    sign = np.uint32(1 << (31 if kind == "float32" else 15))
    found[2][:half] = bits ^ sign ^ rng.integers(0, near, half).astype(np.uint32)


def words(form: str, found: Floats) -> Words:
    """Bits of values on the grid of a format, in the low half of a word where it has 16; NaN as an H200 writes it."""
    with np.errstate(all="ignore"):
        bits = {
            "float32": lambda: found.view(np.uint32),
            "float16": lambda: found.astype(np.float16).view(np.uint16).astype(np.uint32),
            "bfloat16": lambda: found.view(np.uint32) >> 16,
        }[form]()
    return np.where(np.isnan(found), np.uint32(NAN[form]), bits).astype(np.uint32)


@njit(cache=True, parallel=True)
def _fused(kind, a, b, c):  # type: ignore[no-untyped-def]
    found = np.empty(len(a), np.float32)
    for i in prange(len(a)):
        if kind == 0:
            found[i] = fma(a[i], b[i], c[i])
        elif kind == 1:
            found[i] = flush(fma(flush(a[i]), flush(b[i]), flush(c[i])))
        elif kind == 2:
            found[i] = fma_float16(a[i], b[i], c[i])
        else:
            found[i] = fma_bfloat16(a[i], b[i], c[i])
    return found


@njit(cache=True, parallel=True)
def _rounded(sixteen, x):  # type: ignore[no-untyped-def]
    found = np.empty(len(x), np.float32)
    for i in prange(len(x)):
        found[i] = to_float16(x[i]) if sixteen else to_bfloat16(x[i])
    return found


def _integer(x: Floats, low: int, high: int) -> NDArray[np.int64]:
    """Nearest even, saturating; NaN gives 0."""
    with np.errstate(invalid="ignore"):
        whole = np.clip(np.rint(x.astype(np.float64)), low, high)
    return np.where(np.isnan(x), 0, whole).astype(np.int64)


def expected(name: str, *given: Words) -> Words:
    """What the instruction gives, by our rules. KeyError for an approximate one."""
    form = SCALARS[name][1]
    kind = form if form in NAN else "float32"
    x, *rest = (values(kind, one) for one in given)
    with np.errstate(all="ignore"):
        if name.startswith("fma"):
            which = {"fma_float32": 0, "fma_ftz_float32": 1}.get(name, 2 if kind == "float16" else 3)
            return words(kind, _fused(which, x, *rest))
        if name.startswith(("multiply", "add", "divide")):
            return words(kind, _two(name, kind, x, rest[0]))
    if name in ("float16_of_float32", "bfloat16_of_float32"):
        target = name.partition("_")[0]
        return words(target, _rounded(target == "float16", x))
    if name in ("e4m3_of_float32", "e5m2_of_float32"):
        with np.errstate(invalid="ignore"):
            return number(name[:4]).encode(x).astype(np.uint32)
    if name == "float32_of_s32":
        return given[0].view(np.int32).astype(np.float32).view(np.uint32)
    low, high = {"s8": (-128, 127), "u8": (0, 255), "s32": (-(2**31), 2**31 - 1)}[name.partition("_")[0]]
    return (_integer(x, low, high) & (0xFFFFFFFF if name[0] == "s" and low < -128 else 0xFF)).astype(np.uint32)


def _two(name: str, kind: str, x: Floats, y: Floats) -> Floats:
    """Product, sum or quotient of two numbers, rounded once."""
    if name == "multiply_ftz_float32":
        return flushed(flushed(x) * flushed(y))
    if kind == "float32":
        return x / y
    wide, other = x.astype(np.float64), y.astype(np.float64)
    return round_to({"m": np.multiply, "a": np.add, "d": np.divide}[name[0]](wide, other), kind)


def flushed(x: Floats) -> Floats:
    """`flush` of each."""
    return np.where(np.abs(x) < np.float32(2**-126), np.copysign(np.float32(0), x), x)


def significands() -> list[Words]:
    """Every pair of float16 significands: all quotients but for their exponents."""
    ones = np.arange(1024, dtype=np.uint32) | 0x3C00
    return [np.repeat(ones, 1024), np.tile(ones, 1024)]
