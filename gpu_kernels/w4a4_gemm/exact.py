"""Twin of `model` and `low_rank`: Python integers and Fractions, a number at a time; finite operands.

How a tensor core adds is taken from `accel.tensor_core.exact`, the slow twin of the product that the model uses.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from accel.tensor_core import rule
from accel.tensor_core.exact import dot
from gpu_kernels.exact_rounding import Exact, exact, flush, to_float32, to_form

Row = list[Exact]


def numbers(row: Any) -> list[Any]:
    """A row of floats as Fractions."""
    return [exact(v) for v in row]


def quotients(row: Any, smooth: Any, shift: Any, form: str) -> list[Any]:
    """(x + shift) / smooth, a 16-bit addition and a 16-bit division."""
    return [
        to_form(to_form(v + exact(shift), form) / s, form) for v, s in zip(numbers(row), numbers(smooth), strict=True)
    ]


def integer(value: Any, scale: Any, low: int, high: int) -> int:
    """value times the reciprocal of the scale, as the GPU gets it (small scales count as 0), to the nearest integer."""
    if value == 0 or flush(scale) == 0:
        return high if value > 0 else low if value < 0 else 0
    scaled = to_float32(value * to_float32(1 / scale))
    return min(max(round(scaled), low), high)


def quantize_group(values: Sequence[Any], unsigned: bool, form: str) -> tuple[list[int], Exact]:
    """Codes of 64 values, and the scale as it is stored."""
    scale = to_float32(max(abs(v) for v in values) * to_float32(Fraction(1, 15 if unsigned else 7)))
    low, high = (0, 15) if unsigned else (-8, 7)
    return [integer(v, scale, low, high) for v in values], to_form(scale, form)


def down(row: Any, weights: Any, form: str, architecture: str) -> Row:
    """lora_act of one token: sums of 128 inputs on the tensor core, added upwards in float32."""
    how, found = rule(architecture, form), []
    for weight in weights:
        total: Exact = Fraction(0)
        for k in range(0, len(row), 128):
            part = dot(numbers(row[k : k + 128]), numbers(weight[k : k + 128]), Fraction(0), how)
            total = to_float32(total + part)
        found.append(total)
    return found


def up(y: Exact, lora_act: Any, weight: Any, form: str, architecture: str, strengths: Any) -> Exact:
    """One output plus the low-rank branch, in `form`."""
    if len(weight) == 0:
        return y
    by_rank = [Fraction(1) if strengths is None else exact(strengths[r // 16]) for r in range(len(weight))]
    left = [to_form(to_float32(a * s), form) for a, s in zip(lora_act, by_rank, strict=True)]
    return to_form(dot(left, numbers(weight), y, rule(architecture, form)), form)  # type: ignore[arg-type]


def written(y: Exact, form: str) -> Exact:
    """float16 is kept within +-65504."""
    most = Fraction(65504)
    return min(max(y, -most), most) if form == "float16" else y


def epilogue(
    y: Exact, n: int, lora_act: Any, state: Mapping[str, Any], form: str, architecture: str, strengths: Any
) -> Exact:
    """Bias, then the low-rank branch, then what is written, of one output of channel n."""
    if state.get("bias") is not None:
        y = to_form(y + exact(state["bias"][n]), form)
    weight = state["up"][n] if state.get("up") is not None else []
    return written(up(y, lora_act, weight, form, architecture, strengths), form)


def accumulated(x: Any, x_scales: Any, weights: Any, scales: Any, form: str) -> Exact:
    """One sum over K: an FMA in `form` for each group of 64."""
    total: Exact = Fraction(0)
    for group, (x_scale, scale) in enumerate(zip(x_scales, scales, strict=True)):
        part = slice(64 * group, 64 * group + 64)
        integers = sum(int(a) * int(b) for a, b in zip(x[part], weights[part], strict=True))
        factor = to_form(exact(x_scale) * exact(scale), form)
        total = to_form(to_form(Fraction(integers), form) * factor + total, form)
    return total


def quantize(x: Any, state: Mapping[str, Any], form: str, architecture: str) -> tuple[list[Any], list[Any], list[Row]]:
    """Codes, scales and lora_act, as rows."""
    shift = state.get("shift", 0)
    codes, scales = [], []
    for row in x:
        values = quotients(row, state["smooth"], shift, form)
        groups = [quantize_group(values[k : k + 64], shift > 0, form) for k in range(0, len(values), 64)]
        codes.append([code for group, _ in groups for code in group])
        scales.append([scale for _, scale in groups])
    weights = state["down"] if state.get("down") is not None else []
    return codes, scales, [down(row, weights, form, architecture) for row in x]


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
    return [
        [
            epilogue(accumulated(row, s, weights, scales, form), n, act, state, form, architecture, strengths)
            for n, (weights, scales) in enumerate(zip(state["codes"], state["scale"], strict=True))
        ]
        for row, s, act in zip(codes_x, scale_x, lora_act, strict=True)
    ]
