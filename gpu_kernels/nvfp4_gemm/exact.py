"""Twin of `model`: Fractions, a number at a time; finite operands. The low-rank branch is that of W4A4's twin.

Fractions have one zero: where the model has the code of -0, the twin may have that of 0.
"""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from accel.tensor_core.exact import scaled_dot
from gpu_kernels.exact_rounding import Exact, exact, flush, to_float32, to_form
from gpu_kernels.w4a4_gemm.exact import Row, down, epilogue, quotients

E2M1 = [Fraction(n, 2) for n in (0, 1, 2, 3, 4, 6, 8, 12)]


def e4m3_value(code: int) -> Fraction:
    """Value of an unsigned E4M3 code, 0..126."""
    exponent, fraction = code // 8, code % 8
    return Fraction(fraction, 512) if exponent == 0 else Fraction(8 + fraction) * Fraction(2) ** (exponent - 10)


E4M3 = [e4m3_value(code) for code in range(127)]


def nearest(value: Any, values: Sequence[Fraction]) -> int:
    """Place of the value nearest to a positive one; of two, the even place."""
    return min(range(len(values)), key=lambda i: (abs(values[i] - value), i % 2))


def e2m1_value(code: int) -> Fraction:
    """Value of an E2M1 code, 0..15."""
    return -E2M1[code - 8] if code > 7 else E2M1[code]


def e2m1_code(value: Any, scale: Any) -> int:
    """value times the reciprocal of the scale as E2M1; 0 x infinity is not a number, which is 6."""
    if value == 0 or flush(scale) == 0:
        return 15 if value < 0 else 7 if flush(scale) == 0 else 0
    scaled = to_float32(value * to_float32(1 / scale))
    return nearest(abs(scaled), E2M1) + (8 if scaled < 0 else 0)


def quantize_group(values: Sequence[Any]) -> tuple[list[int], int]:
    """E2M1 codes of 16 values and the E4M3 code of their scale; the codes know the scale before its rounding."""
    scale: Exact = to_float32(max(abs(v) for v in values) * to_float32(Fraction(1, 6)))
    scale = scale if scale < 448 else Fraction(448)
    return [e2m1_code(v, scale) for v in values], nearest(scale, E4M3)


def accumulated(x: Any, x_scales: Any, weights: Any, scales: Any) -> Exact:
    """One sum over K, as Blackwell's tensor cores are said to add it."""
    values = [[e2m1_value(int(code)) for code in codes] for codes in (x, weights)]
    factors = [[E4M3[int(code)] for code in codes] for codes in (x_scales, scales)]
    return scaled_dot(values[0], factors[0], values[1], factors[1])


def quantize(x: Any, state: Mapping[str, Any], form: str, architecture: str) -> tuple[list[Any], list[Any], list[Row]]:
    """E2M1 codes, E4M3 codes and lora_act, as rows."""
    codes, scales = [], []
    for row in x:
        values = quotients(row, state["smooth"], 0, form)
        groups = [quantize_group(values[k : k + 16]) for k in range(0, len(values), 16)]
        codes.append([code for group, _ in groups for code in group])
        scales.append([scale for _, scale in groups])
    weights = state["down"] if state.get("down") is not None else []
    return codes, scales, [down(row, weights, form, architecture) for row in x]


def _tensor_scale(state: Mapping[str, Any]) -> Callable[[int], Exact]:
    given = state["tensor_scale"]
    return lambda n: exact(given[n] if getattr(given, "ndim", 0) else given)


def gemm(
    codes_x: Any,
    scale_x: Any,
    lora_act: Any,
    state: Mapping[str, Any],
    form: str,
    architecture: str,
    strengths: Any = None,
) -> list[Row]:
    """y [M][N]; lora_act as Fractions."""
    tensor_scale, found = _tensor_scale(state), []
    for row, x_scales, act in zip(codes_x, scale_x, lora_act, strict=True):
        outputs = []
        for n, (weights, scales) in enumerate(zip(state["codes"], state["scale"], strict=True)):
            scaled = to_float32(accumulated(row, x_scales, weights, scales) * tensor_scale(n))
            outputs.append(epilogue(to_form(scaled, form), n, act, state, form, architecture, strengths))
        found.append(outputs)
    return found
