"""Scalar arithmetic of GPUs, bit for bit: float32 fma, and 16-bit floats, which Numba does not have on a CPU.

A 16-bit float travels as a float32 on the grid of its format: "float16" (11 significant bits, to 65504) or "bfloat16"
(8 bits, the range of float32). Everything rounds to nearest even; subnormals are kept, what is too large is infinite.
A sum that is rounded twice (float64 or float32, then 16 bits) can be wrong by a unit: where two roundings follow one
another here, the first rounds to odd, which leaves the second what it needs (Boldo and Melquiond, "When double
rounding is odd", 2005: two bits more than the result has are enough).
What of this an H200 does likewise: `gpu_kernels/arithmetic_probe`.
"""

from typing import Any, Literal

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

Form = Literal["float16", "bfloat16"]
Floats = NDArray[np.float32]
FORMS = ("float16", "bfloat16")


@intrinsic
def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """a x b + c in float32 with one rounding: LLVM's fma, which is exact with and without an instruction for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


def _reinterpreted(source: Any, result: Any) -> Any:
    """An intrinsic that reads the bits of a number as another type; Numba widens int32 sums, so they are cut first."""

    def reinterpret(typing_context: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            bits = context.cast(builder, arguments[0], x, source)
            return builder.bitcast(bits, context.get_value_type(result))

        return result(x), generate

    return intrinsic(reinterpret)


bits32, float_of32 = _reinterpreted(types.float32, types.int32), _reinterpreted(types.int32, types.float32)
bits64, float_of64 = _reinterpreted(types.float64, types.int64), _reinterpreted(types.int64, types.float64)


@njit(cache=True)
def to_float16(x):  # type: ignore[no-untyped-def]
    """A float32 rounded to float16."""
    bits = bits32(np.float32(x))
    sign, size = bits & np.int32(-0x80000000), bits & np.int32(0x7FFFFFFF)
    normal = (size + np.int32(0xFFF) + ((size >> 13) & np.int32(1))) & np.int32(~0x1FFF)
    tiny = bits32((abs(np.float32(x)) + np.float32(0.5)) - np.float32(0.5))  # to multiples of 2^-24
    size16 = tiny if size < 0x38800000 else normal  # below 2^-14
    large = np.int32(0x7F800000) if size <= 0x7F800000 else size  # a NaN stays what it is
    return float_of32(sign | (large if normal >= 0x47800000 else size16))  # from 65536 on


@njit(cache=True)
def to_bfloat16(x):  # type: ignore[no-untyped-def]
    """A float32 rounded to bfloat16."""
    bits = bits32(np.float32(x))
    sign, size = bits & np.int32(-0x80000000), bits & np.int32(0x7FFFFFFF)
    rounded = (size + np.int32(0x7FFF) + ((size >> 16) & np.int32(1))) & np.int32(~0xFFFF)
    return float_of32(sign | (size if size > 0x7F800000 else rounded))


@njit(cache=True)
def to_form(x, half):  # type: ignore[no-untyped-def]
    """A float32 rounded to float16 if `half`, else to bfloat16."""
    return to_float16(x) if half else to_bfloat16(x)


@njit(cache=True)
def flush(x):  # type: ignore[no-untyped-def]
    """A float32 with subnormals replaced by zero of the same sign, as `-ftz=true` code takes and gives them."""
    bits = bits32(np.float32(x))
    return float_of32(bits & np.int32(-0x80000000) if (bits & 0x7F800000) == 0 else bits)


@njit(cache=True)
def _sum_to_odd(p, c):  # type: ignore[no-untyped-def]
    """p + c in float32, rounded to odd: where the sum is not exact, the neighbour whose last bit is 1."""
    s = np.float32(p + c)
    back = np.float32(s - p)
    rest = np.float32(np.float32(p - np.float32(s - back)) + np.float32(c - back))  # exact: s + rest = p + c
    bits = bits32(s)
    step = np.int32(1) if (rest > 0) == (s > 0) else np.int32(-1)
    inexact = (rest != 0) & ((bits & 1) == 0) & ((bits & 0x7F800000) != 0x7F800000)
    return float_of32(bits + (step if inexact else np.int32(0)))


@njit(cache=True)
def fma_float16(a, b, c):  # type: ignore[no-untyped-def]
    """a x b + c of float16 numbers with one rounding; the product is exact in float32, the sum goes to odd."""
    return to_float16(_sum_to_odd(np.float32(np.float32(a) * np.float32(b)), np.float32(c)))


@njit(cache=True)
def narrow_to_odd(x):  # type: ignore[no-untyped-def]
    """A float64 as float32, rounded to odd."""
    near = np.float32(x)
    bits = bits32(near)
    size, wide = abs(np.float64(near)), abs(x)
    step = np.int32(1) if size < wide else np.int32(-1)
    inexact = (size != wide) & ((bits & 1) == 0) & ((bits & 0x7F800000) != 0x7F800000)
    return float_of32(bits + (step if inexact else np.int32(0)))


@njit(cache=True)
def fma_bfloat16(a, b, c):  # type: ignore[no-untyped-def]
    """a x b + c of bfloat16 numbers with one rounding, through float64: products leave the range of float32."""
    p, d = np.float64(a) * np.float64(b), np.float64(c)
    s = p + d
    back = s - p
    rest = (p - (s - back)) + (d - back)  # exact: s + rest = p + c
    bits = bits64(s)
    step = np.int64(1) if (rest > 0) == (s > 0) else np.int64(-1)
    inexact = (rest != 0) & ((bits & 1) == 0) & np.isfinite(s)
    odd = float_of64(bits + (step if inexact else np.int64(0)))
    return to_bfloat16(narrow_to_odd(odd))


@njit(cache=True)
def _each_float16(values):  # type: ignore[no-untyped-def]
    found = np.empty(len(values), np.float32)
    for i in range(len(values)):
        found[i] = to_float16(narrow_to_odd(values[i]))
    return found


@njit(cache=True)
def _each_bfloat16(values):  # type: ignore[no-untyped-def]
    found = np.empty(len(values), np.float32)
    for i in range(len(values)):
        found[i] = to_bfloat16(narrow_to_odd(values[i]))
    return found


@njit(cache=True)
def butterfly(parts, count):  # type: ignore[no-untyped-def]
    """Sum of the first `count` of `parts`, a power of two, halving the distance as a warp does; overwrites them."""
    half = count // 2
    while half > 0:
        for i in range(half):
            parts[i] += parts[i + half]
        half //= 2
    return parts[0]


def check_form(form: str) -> None:
    """ValueError unless `form` names a 16-bit float."""
    if form not in FORMS:
        raise ValueError(f"form: must be one of {', '.join(FORMS)}, got {form!r}")


def round_to(x: Any, form: str) -> Floats:
    """float32 array of the same shape on the grid of `form`; float32 and float64 input is rounded once.

    Raises ValueError for another form, and for what is not a real number.
    """
    check_form(form)
    given = np.asarray(x)
    if given.dtype.kind not in "fiub":
        raise ValueError(f"round_to: must get real numbers, got {given.dtype}")
    values = np.ascontiguousarray(given, np.float64)
    each = _each_float16 if form == "float16" else _each_bfloat16
    found: Floats = each(values.ravel()).reshape(given.shape)
    return found
