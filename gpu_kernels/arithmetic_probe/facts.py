"""Directed questions to a matrix instruction: single dot products whose result gives one constant of its rule away."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_kernels.arithmetic_probe.instructions import COLUMNS, ROWS, Product
from gpu_kernels.arithmetic_probe.operands import FIELDS, WORDS, values

Words = NDArray[np.uint32]
Terms = dict[int, tuple[float, float]]  # place in K -> the two factors
Run = Callable[[Any, Any, Words], Words]  # A, B, C of tiles -> D


def encode(form: str, number: float) -> int:
    """The bits of a number that the format has; ValueError otherwise."""
    every = np.arange(1 << min(16, 1 + sum(FIELDS[form]))).astype(WORDS[form])
    if form == "float32":
        return int(np.float32(number).view(np.uint32))
    found = np.flatnonzero(values(form, every) == np.float32(number))
    if not len(found):
        raise ValueError(f"{form} has no {number}")
    return int(found[0])


def dots(run: Run, product: Product, cases: Sequence[tuple[Terms, float]], steps: int = 1) -> NDArray[np.float32]:
    """c plus the sum of the terms, for each (terms, c): a tile each, its first row and column."""
    k, form = steps * product.depth, product.operand
    a = np.zeros((len(cases), ROWS, k), WORDS[form])
    b = np.zeros((len(cases), COLUMNS, k), WORDS[form])
    c = np.zeros((len(cases), ROWS, COLUMNS), np.uint32)
    sums = "float16" if product.sums == "float16" else "float32"
    for i, (terms, start) in enumerate(cases):
        c[i, 0, 0] = encode(sums, start)
        for place, (one, other) in terms.items():
            a[i, 0, place], b[i, 0, place] = encode(form, one), encode(form, other)
    return values(sums, run(a, b, c)[:, 0, 0].copy())


def _split(power: int, product: Product) -> tuple[float, float]:
    """2^power as two factors of the format."""
    low = {"e4m3": -9, "e5m2": -16, "float16": -24, "bfloat16": -60}[product.operand]
    first = max(power, low)
    return 2.0**first, 2.0 ** (power - first)


def _last(found: Sequence[bool]) -> int:
    return max((i for i, seen in enumerate(found) if seen), default=-1)


def facts(run: Run, product: Product) -> dict[str, Any]:
    """The constants of the rule (`accel.tensor_core.rules`), each from its own question:

    product_bits, sum_bits   the smallest product, and accumulator, not lost beside products of 1 and -1: 2^-bits
    product_beside_sum_bits  the smallest product beside an accumulator of 1
    width                    how many products are added at once: the first one that no longer shares a sum with c
    significand_bits         as product_bits beside 1.5 x 1.5: the same if products are not normalised first
    negative_rest            what -2^-(bits + 1) leaves beside 1: 0 if it is cut towards zero
    result                   1 plus 3/4 of a unit in the last place, and minus that: how the result is rounded
    ties                     1 plus half a unit, and the next number plus half a unit
    lost_negative            whether a negative sum that is too small for the result becomes -0 (float16: no such sum)
    """
    reach = 30 if product.operand != "e4m3" else 18
    powers = range(reach)
    one, minus = (1.0, 1.0), (-1.0, 1.0)
    product_bits = _last(dots(run, product, [({0: one, 1: minus, 2: _split(-j, product)}, 0.0) for j in powers]) != 0)
    least = 24 if product.sums == "float16" else 40
    sum_bits = _last(dots(run, product, [({0: one, 1: minus}, 2.0**-j) for j in range(least + 1)]) != 0)
    beside = _last(dots(run, product, [({1: minus, 2: _split(-j, product)}, 1.0) for j in powers]) != 0)
    square = (1.5, 1.5), (-1.5, 1.5)
    wide = _last(dots(run, product, [({0: square[0], 1: square[1], 2: _split(-j, product)}, 0.0) for j in powers]) != 0)
    tiny = _split(-min(beside + 1, reach - 1), product)
    places = range(1, 4 * product.depth)
    kept = dots(run, product, [({0: minus, p: tiny}, 1.0) for p in places], steps=4) != 0
    negative = (-tiny[0], tiny[1])
    return {
        "product_bits": product_bits,
        "sum_bits": sum_bits,
        "product_beside_sum_bits": beside,
        "significand_bits": wide,
        "width": int(np.argmax(kept)) + 1 if kept.any() else None,
        "negative_rest": float(dots(run, product, [({0: one, 1: minus, 2: negative}, 0.0)])[0]),
        **_ends(run, product),
    }


def _ends(run: Run, product: Product) -> dict[str, Any]:
    """Rounding of the result, overflow, zeros and NaN."""
    bits = 10 if product.sums == "float16" else 23
    found: dict[str, Any] = {}
    if product.operand in ("float16", "bfloat16"):
        half, fourth = _split(-bits - 1, product), _split(-bits - 2, product)
        above = dots(
            run, product, [({0: half, 1: fourth}, 1.0), ({0: (-half[0], half[1]), 1: (-fourth[0], fourth[1])}, -1.0)]
        )
        found["result"] = [float((x - s) * 2.0**bits) for x, s in zip(above.astype(float), (1, -1), strict=True)]
        ties = dots(run, product, [({0: half}, 1.0), ({0: half}, 1.0 + 2.0**-bits)])
        found["ties"] = [float((x - 1) * 2.0**bits) for x in ties.astype(float)]
    if bits == 10 or product.operand == "bfloat16":
        tiny = 2.0**-13 if bits == 10 else 2.0**-80
        found["lost_negative"] = bool(np.signbit(dots(run, product, [({0: (-tiny, tiny)}, 0.0)])[0]))
    found["negative_zero"] = bool(np.signbit(dots(run, product, [({0: (-1.0, 0.0)}, -0.0)])[0]))
    found["cancelled_zero_negative"] = bool(np.signbit(dots(run, product, [({0: (-1.0, 1.0)}, 1.0)])[0]))
    return found
