"""W4A4 in NVFP4: golden cases in exact fractions, which the twin and the model must both give."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.arithmetic import round_to
from accel.formats import number
from gpu_kernels.nvfp4_gemm import exact, model
from tests.gpu_kernels.golden_cases import read, told, told_exact

GOLDEN = Path(__file__).parent / "golden" / "nvfp4.json"
VECTORS = ("smooth", "tensor_scale", "bias", "strengths")  # one row each in the file


def case(seed: int, form: str, inputs: int = 64, rank: int = 0, **given: Any) -> dict[str, Any]:
    """Operands of two tokens and three outputs; those `given` take the place of the drawn ones, whose bits are few."""
    draw = np.random.default_rng(seed)
    found: dict[str, Any] = {
        "form": form,
        "x": draw.integers(-128, 128, (2, inputs)) / 32,
        "codes": draw.integers(0, 16, (3, inputs)),
        "scale": draw.integers(0, 127, (3, inputs // 16)),
        "tensor_scale": np.array([0.0078125]),
        "smooth": draw.integers(2, 16, inputs) / 8,
        "down": draw.integers(-8, 9, (rank, inputs)) / 64 if rank else None,
        "up": draw.integers(-8, 9, (3, rank)) / 16 if rank else None,
        "bias": draw.integers(-64, 65, 3) / 16,
        "strengths": None,
        "architecture": "sm_120",
    }
    return found | given


def spread(seed: int, shape: tuple[int, ...], form: str, low: int, high: int) -> Any:
    """Numbers with all their bits, 2^low to 2^high."""
    draw = np.random.default_rng(seed)
    return round_to(draw.normal(size=shape) * 2.0 ** draw.integers(low, high, shape), form)


def all_bits(seed: int, form: str, rank: int = 0) -> dict[str, Any]:
    """Four steps of 64 inputs."""
    x = spread(seed, (2, 256), form, -8, 8)
    return case(seed, form, 256, rank, x=x, tensor_scale=np.array([0.0123], np.float32))


def cancelling(seed: int) -> dict[str, Any]:
    """A large step, the same subtracted, and a small one, which is lost if it comes before either."""
    draw = np.random.default_rng(seed)
    x = np.concatenate([np.full((2, 128), 2688.0), draw.integers(-6, 7, (2, 64))], axis=1)
    codes = np.concatenate([np.full((3, 64), 7), np.full((3, 64), 15), draw.integers(0, 16, (3, 64))], axis=1)
    scale = np.concatenate([np.full((3, 8), 126), np.full((3, 4), 32)], axis=1)
    ones = {"smooth": np.ones(192), "tensor_scale": np.ones(1), "bias": None}
    return case(seed, "float16", 192, x=x, codes=codes, scale=scale, **ones)


def cancelling_inside(seed: int) -> dict[str, Any]:
    """Large products that a step both adds and subtracts: what is small between them stays."""
    draw = np.random.default_rng(seed)
    small, large = draw.integers(-6, 7, (2, 16)), np.full((2, 16), 2688.0)
    codes = [np.full((3, 16), 7), draw.integers(0, 16, (3, 16)), np.full((3, 16), 15), np.zeros((3, 16), int)]
    scale = np.array([[126, 32, 126, 32]] * 3)
    operands = {"x": np.concatenate([large, small, large, small], axis=1), "codes": np.concatenate(codes, axis=1)}
    return case(seed, "float16", scale=scale, tensor_scale=np.ones(1), bias=None, **operands, **ONES)


def cut(seed: int) -> dict[str, Any]:
    """A large step, one of 1 3/4 units in its last place, and the large one taken back: cut, 1 unit is left, not 2."""
    large, small = np.full((2, 64), 2688.0), np.array([[12.0, 2.0, *[0.0] * 62]] * 2)
    codes = np.concatenate([np.full((3, 128), 2), np.full((3, 64), 10)], axis=1)  # 1 and -1
    scale = np.concatenate([np.full((3, 4), 126), np.full((3, 4), 0x38), np.full((3, 4), 126)], axis=1)  # 448 and 1
    ones = {"smooth": np.ones(192), "tensor_scale": np.ones(1), "bias": None}
    return case(seed, "float16", 192, x=np.concatenate([large, small, large], axis=1), codes=codes, scale=scale, **ones)


ONES = {"smooth": np.ones(64)}
LARGEST = {"codes": np.full((3, 64), 7), "scale": np.full((3, 4), 126)}
TIES = np.array([[6, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, -0.25, -0.75, -1.25, -1.75, -2.5, -3.5, -5, 0] * 4] * 2)
CASES = {
    "float16": case(1, "float16"),
    "bfloat16": case(2, "bfloat16"),
    "float16_rank_16": case(3, "float16", rank=16),
    "bfloat16_rank_16": case(4, "bfloat16", rank=16),
    "rank_32_with_strengths": case(5, "bfloat16", rank=32, strengths=[0.75, -1.3]),
    "rank_20": case(6, "float16", rank=20),
    "no_bias": case(7, "bfloat16", rank=16, bias=None),
    "scale_of_each_output": case(8, "float16", tensor_scale=np.array([0.001, 0.0123, 3.0], np.float32)),
    "three_steps": case(9, "bfloat16", 192),
    "groups_of_zeros": case(10, "float16", x=np.array([[1.0, *[0.0] * 62, -0.25], [0.0] * 64])),
    "ties": case(11, "float16", x=TIES, **ONES),
    "scale_is_a_tie": case(12, "float16", x=np.full((2, 64), 6 * 1.0625), **ONES),  # between 1 and 1.125
    "scale_vanishes": case(13, "bfloat16", x=np.full((2, 64), 6 * 2.0**-10), **ONES),  # half of the least E4M3
    "subnormal_scale": case(14, "float16", x=spread(1, (2, 64), "float16", -9, -4), **ONES),
    "scale_saturates": case(15, "bfloat16", x=spread(2, (2, 64), "bfloat16", 10, 15), **ONES),
    "flushed_scale": case(16, "bfloat16", x=spread(3, (2, 64), "bfloat16", -127, -124), **ONES),
    "largest_sum": case(17, "bfloat16", x=np.full((2, 64), 2688.0), **LARGEST),
    "overflow": case(18, "float16", x=np.full((2, 64), -2688.0), **LARGEST),
    "all_bits_float16": all_bits(19, "float16"),
    "all_bits_bfloat16": all_bits(20, "bfloat16", 2),
    "large_steps_cancel": cancelling(22),
    "a_step_is_cut": cut(24),
    "a_step_cancels": cancelling_inside(23),
    "hopper": case(21, "bfloat16", rank=16, x=spread(4, (2, 64), "bfloat16", -6, 4), architecture="sm_90"),
}


def state_of(operands: dict[str, Any]) -> dict[str, Any]:
    names = ("codes", "scale", "smooth", "down", "up", "bias")
    state = {name: operands[name] for name in names if operands[name] is not None}
    scales = np.asarray(operands["tensor_scale"], np.float32)
    state |= {name: np.asarray(state[name], np.uint8) for name in ("codes", "scale")}
    return state | {"tensor_scale": scales if len(scales) > 1 else scales[0]}


def by_twin(operands: dict[str, Any]) -> dict[str, Any]:
    form, architecture, state = operands["form"], operands["architecture"], state_of(operands)
    codes, scales, lora_act = exact.quantize(operands["x"], state, form, architecture)
    y = exact.gemm(codes, scales, lora_act, state, form, architecture, operands["strengths"])
    results = {"codes_x": codes, "scale_x": scales, "lora_act": told_exact(lora_act), "y": told_exact(y)}
    return {name: told(rows) for name, rows in results.items()}


def written_down(operands: dict[str, Any]) -> dict[str, Any]:
    rows = {name: None if operands[name] is None else told(np.array([operands[name]])) for name in VECTORS}
    return {name: told(value) for name, value in operands.items()} | rows


def from_file(operands: dict[str, Any]) -> dict[str, Any]:
    rows = {name: None if operands[name] is None else operands[name][0] for name in VECTORS}
    return operands | rows


def values(codes: Any) -> Any:
    """E2M1 values: the twin does not know -0."""
    return number("e2m1").decode(np.asarray(codes, np.uint8))


def test_twin_gives_the_golden_cases(golden):
    assert len(CASES) >= 20
    golden(GOLDEN, {name: written_down(operands) | by_twin(operands) for name, operands in CASES.items()})


@pytest.mark.parametrize("name", CASES)
def test_model_gives_the_golden_cases(name):
    operands = from_file(read(GOLDEN)[name])
    state, form, architecture = state_of(operands), operands["form"], operands["architecture"]
    codes, scales, lora_act = model.quantize(operands["x"], state, form, architecture)
    assert np.array_equal(values(codes), values(operands["codes_x"]))
    assert np.array_equal(scales, operands["scale_x"])
    assert np.array_equal(lora_act.ravel(), np.ravel(operands["lora_act"]))
    y = model.gemm(codes, scales, lora_act, state, form, operands["strengths"], architecture)
    assert np.array_equal(y, operands["y"])
