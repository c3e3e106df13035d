"""W4A4: golden cases in exact fractions, which the twin and the model must both give."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.arithmetic import round_to
from gpu_kernels.w4a4_gemm import exact, model
from tests.gpu_kernels.golden_cases import read, told, told_exact

GOLDEN = Path(__file__).parent / "golden" / "w4a4.json"
SHIFT = 0.171875
MATRICES = ("codes", "scale", "down", "up")
VECTORS = ("smooth", "bias", "strengths")  # one row each in the file


def case(seed: int, form: str, inputs: int = 64, rank: int = 0, shift: float = 0.0, **given: Any) -> dict[str, Any]:
    """Operands of two tokens and three outputs; those `given` take the place of the drawn ones, whose bits are few."""
    draw = np.random.default_rng(seed)
    low = 0 if shift else -128
    found: dict[str, Any] = {
        "form": form,
        "shift": shift,
        "x": draw.integers(low, 128, (2, inputs)) / 32,
        "codes": draw.integers(-7, 8, (3, inputs)),
        "scale": draw.integers(1, 64, (3, inputs // 64)) / 512,
        "smooth": draw.integers(2, 16, inputs) / 8,
        "down": draw.integers(-8, 9, (rank, inputs)) / 64 if rank else None,
        "up": draw.integers(-8, 9, (3, rank)) / 16 if rank else None,
        "bias": draw.integers(-64, 65, 3) / 16,
        "strengths": None,
        "architecture": "sm_90",
    }
    return found | given


def spread(seed: int, shape: tuple[int, ...], form: str, low: int, high: int) -> Any:
    """Numbers with all their bits, 2^low to 2^high."""
    draw = np.random.default_rng(seed)
    return round_to(draw.normal(size=shape) * 2.0 ** draw.integers(low, high, shape), form)


def all_bits(seed: int, form: str) -> dict[str, Any]:
    """Four groups, whose order shows."""
    shapes = {"x": (2, 256), "scale": (3, 4), "down": (2, 256), "up": (3, 2)}
    return case(seed, form, 256) | {name: spread(seed, shape, form, -6, 2) for name, shape in shapes.items()}


def largest() -> Any:
    """Inputs that all take the code 7 or, shifted, 15."""
    return np.full((2, 64), 3.5)


ONES = {"smooth": np.ones(64)}
HALVES = np.array([[7, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, -0.5, -1.5, -2.5, -6.5, -7, 0, 1, 2] * 4] * 2)  # scale 1
ODD = np.array([[7] * 63 + [w] for w in (-1, 1, 6)])  # sums of 3080 (3072 in bfloat16), 3094, 3129
SPARSE = np.array([[1.0, *[0.0] * 62, -0.25, *[0.0] * 64], [0.0] * 128])  # groups of zeros only
CASES = {
    "float16": case(1, "float16"),
    "bfloat16": case(2, "bfloat16"),
    "float16_rank_16": case(3, "float16", rank=16),
    "bfloat16_rank_16": case(4, "bfloat16", rank=16),
    "float16_unsigned": case(5, "float16", rank=16, shift=SHIFT),
    "bfloat16_unsigned": case(6, "bfloat16", rank=16, shift=SHIFT),
    "float16_three_groups": case(7, "float16", 192, 16),
    "bfloat16_three_groups": case(8, "bfloat16", 192, 16),
    "rank_32_with_strengths": case(9, "float16", rank=32, strengths=[0.75, -1.3]),
    "rank_20": case(10, "bfloat16", rank=20),
    "no_bias": case(11, "float16", rank=16, bias=None),
    "groups_of_zeros": case(12, "float16", 128, x=SPARSE),
    "zeros_shifted": case(13, "bfloat16", shift=SHIFT, x=np.zeros((2, 64))),
    "ties": case(14, "float16", x=HALVES, **ONES),
    "least_sum": case(15, "float16", x=largest(), **ONES, codes=np.full((3, 64), -8)),
    "largest_sum_in_bfloat16": case(16, "bfloat16", x=largest(), **ONES, codes=np.full((3, 64), 7)),
    "least_sum_unsigned": case(17, "bfloat16", shift=SHIFT, x=largest(), codes=np.full((3, 64), -8), **ONES),
    "odd_sum_in_bfloat16": case(24, "bfloat16", x=largest(), codes=ODD, scale=np.full((3, 1), 2.5), bias=None, **ONES),
    "overflow": case(18, "float16", x=largest() * 4096, scale=np.full((3, 1), 64.0), codes=np.full((3, 64), 7)),
    "subnormal_scales": case(19, "float16", 128, x=spread(1, (2, 128), "float16", -24, -15), bias=None),
    "all_bits_float16": all_bits(20, "float16"),
    "all_bits_bfloat16": all_bits(21, "bfloat16"),
    "all_bits_unsigned": case(25, "bfloat16", shift=SHIFT, x=np.abs(spread(15, (2, 64), "bfloat16", -6, 2))),
    "flushed_scale_bfloat16": case(22, "bfloat16", x=spread(6, (2, 64), "bfloat16", -127, -124), **ONES),
    "ampere": case(23, "float16", rank=32, x=spread(7, (2, 64), "float16", -6, 4), architecture="sm_80"),
}


def state_of(operands: dict[str, Any]) -> dict[str, Any]:
    names = ("codes", "scale", "smooth", "down", "up", "bias", "shift")
    state = {name: operands[name] for name in names if operands[name] is not None}
    return state | {"codes": np.asarray(operands["codes"], np.int8)}


def by_twin(operands: dict[str, Any]) -> dict[str, Any]:
    form, architecture, state = operands["form"], operands["architecture"], state_of(operands)
    codes, scales, lora_act = exact.quantize(operands["x"], state, form, architecture)
    y = exact.gemm(codes, scales, lora_act, state, form, architecture, operands["strengths"])
    results = {"codes_x": codes, "scale_x": told_exact(scales), "lora_act": told_exact(lora_act), "y": told_exact(y)}
    return {name: told(rows) for name, rows in results.items()}


def written_down(operands: dict[str, Any]) -> dict[str, Any]:
    rows = {name: None if operands[name] is None else told(np.array([operands[name]])) for name in VECTORS}
    return {name: told(value) for name, value in operands.items()} | rows


def from_file(operands: dict[str, Any]) -> dict[str, Any]:
    rows = {name: None if operands[name] is None else operands[name][0] for name in VECTORS}
    return operands | rows


def test_twin_gives_the_golden_cases(golden):
    assert len(CASES) >= 20
    golden(GOLDEN, {name: written_down(operands) | by_twin(operands) for name, operands in CASES.items()})


@pytest.mark.parametrize("name", CASES)
def test_model_gives_the_golden_cases(name):
    operands = from_file(read(GOLDEN)[name])
    state, form, architecture = state_of(operands), operands["form"], operands["architecture"]
    codes, scales, lora_act = model.quantize(operands["x"], state, form, architecture)
    assert np.array_equal(codes, operands["codes_x"])
    assert np.array_equal(scales, operands["scale_x"])
    assert np.array_equal(lora_act.ravel(), np.ravel(operands["lora_act"]))
    y = model.gemm(codes, scales, lora_act, state, form, operands["strengths"], architecture)
    assert np.array_equal(y, operands["y"])
