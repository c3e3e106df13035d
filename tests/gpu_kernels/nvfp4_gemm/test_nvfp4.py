"""W4A4 in NVFP4: what must hold of any operands."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.arithmetic import round_to
from accel.formats import number
from accel.formats.blocks import nvfp4_dequantize, nvfp4_weights
from gpu_kernels.nvfp4_gemm import exact, model

FORMS = ("float16", "bfloat16")


def layer(seed: int, outputs: int, inputs: int, rank: int, form: str) -> dict[str, Any]:
    """A quantized layer of normal weights."""
    draw = np.random.default_rng(seed)
    codes, scale, tensor_scale = nvfp4_weights(draw.normal(size=(outputs, inputs)) / 8)
    return {
        "codes": codes,
        "scale": scale,
        "tensor_scale": tensor_scale,
        "smooth": round_to(draw.uniform(0.3, 3, inputs), form),
        "down": round_to(draw.normal(size=(rank, inputs)) / 16, form),
        "up": round_to(draw.normal(size=(outputs, rank)) / 4, form),
        "bias": round_to(draw.normal(size=outputs), form),
    }


def tokens(seed: int, rows: int, inputs: int, form: str) -> Any:
    return round_to(np.random.default_rng(seed).normal(size=(rows, inputs)), form)


def test_codes_are_those_of_the_format():
    """Every limit of E2M1 with its neighbours, infinities, NaN and random numbers."""
    limits = np.array([0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 6, np.inf, np.nan], np.float32)
    near = [limits, np.nextafter(limits, np.float32(9)), np.nextafter(limits, np.float32(-9))]
    x = np.concatenate([*near, np.random.default_rng(1).normal(size=2000).astype(np.float32) * 3])
    x = np.concatenate([x, -x])
    assert [model.to_e2m1(v) for v in x] == number("e2m1").encode(x).tolist()


def test_twin_has_the_values_of_the_formats():
    assert [float(exact.e2m1_value(code)) for code in range(16)] == number("e2m1").values.tolist()
    assert [float(value) for value in exact.E4M3] == number("e4m3").values[:127].tolist()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), low=st.integers(-16, 0), form=st.sampled_from(FORMS))
def test_model_is_its_twin(seed, low, form):
    draw = np.random.default_rng(seed)
    state = layer(seed, 3, 128, 0, form)
    state |= {"scale": draw.integers(0, 127, (3, 8)).astype(np.uint8)}
    x = round_to(draw.normal(size=(2, 128)) * 2.0 ** draw.integers(low, 4, (2, 128)), form)
    codes, scales, lora_act = model.quantize(x, state, form)
    expected = exact.quantize(x, state, form, "sm_120")
    assert np.array_equal(number("e2m1").decode(codes), number("e2m1").decode(np.array(expected[0])))
    assert scales.tolist() == expected[1]
    y = model.gemm(codes, scales, lora_act, state, form)
    assert y.tolist() == exact.gemm(codes, scales, [[]] * 2, state, form, "sm_120")


@pytest.mark.parametrize("form", FORMS)
def test_product_is_near_float64(form):
    """Without bias and branch: a float32 unit for each step of 64, half of one for the tensor scale, then 16 bits."""
    state = layer(2, 40, 1024, 0, form) | {"bias": None}
    codes, scales, lora_act = model.quantize(tokens(3, 12, 1024, form), state, form)
    x, weights = nvfp4_dequantize(codes, scales), nvfp4_dequantize(state["codes"], state["scale"])
    true = x.astype(np.float64) @ weights.T.astype(np.float64) * np.float64(state["tensor_scale"])
    sizes = np.abs(x).astype(np.float64) @ np.abs(weights).T * np.float64(state["tensor_scale"])
    unit = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[form]
    y = model.gemm(codes, scales, lora_act, state, form)
    assert (
        np.abs(y - true) <= ((2.0**-23 + 2.0**-30) * 1024 / 64 + 2.0**-24) * sizes + unit * np.abs(true) + 2.0**-24
    ).all()


@pytest.mark.parametrize("form", FORMS)
def test_rows_and_outputs_do_not_touch_each_other(form):
    state, x = layer(4, 37, 128, 16, form), tokens(5, 33, 128, form)
    y = model.linear(x, state, form)
    parts = {"codes", "scale", "up", "bias"}
    part = {name: value[[0, 36]] if name in parts else value for name, value in state.items()}
    assert np.array_equal(model.linear(x[[32, 1]], part, form), y[np.ix_([32, 1], [0, 36])])


def test_outputs_beyond_a_strip_of_columns_are_computed():
    state, x = layer(8, 300, 64, 0, "float16"), tokens(9, 2, 64, "float16")
    y = model.linear(x, state, "float16")
    part = {name: value[250:] if name in {"codes", "scale", "up", "bias"} else value for name, value in state.items()}
    assert np.array_equal(model.linear(x, part, "float16"), y[:, 250:])


def test_the_tensor_scale_is_multiplied_in_float32():
    """3 s lies below a middle of two float16, in float32 on it, from where it goes up to the even one."""
    s = np.float32(0.3338216)
    true, once = 3 * float(s), float(np.float32(3) * s)
    assert true < once == 1 + 1.5 * 2.0**-10
    state = {"codes": np.zeros((1, 64), np.uint8), "scale": np.full((1, 4), 0x38, np.uint8), "smooth": np.ones(64)}
    state["codes"][0, 0] = 2  # 1
    x = np.zeros((1, 64))
    x[0, 0] = 3
    codes, scales, _ = model.quantize(x, state | {"tensor_scale": s}, "float16")
    y = model.gemm(codes, scales, None, state | {"tensor_scale": s}, "float16")
    assert y == np.float16(once) != np.float16(true)


def test_small_activations_vanish():
    """No scale for the whole tensor: a group up to 6 x 2^-10 has an E4M3 scale of 0, half of the least one."""
    state = layer(6, 4, 64, 0, "bfloat16") | {"smooth": np.ones(64), "bias": None}
    x = np.full((1, 64), 6 * 2.0**-10)
    assert not model.linear(x, state, "bfloat16").any()
    assert model.linear(x * (1 + 2.0**-7), state, "bfloat16").any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.zeros((3, 100), np.uint8)}, "inputs must be a multiple of 64, got 100"),
        ({"codes": np.full((3, 128), 16)}, r"codes: must be within 0\.\.15, got 16"),
        ({"scale": np.full((3, 8), 127)}, r"scale: must be within 0\.\.126, got 127"),
        (
            {"scale": np.ones((3, 2), np.uint8)},
            r"scale: must be integers of shape \(3, 8\), got uint8",
        ),
        ({"smooth": np.zeros(128)}, r"smooth must not be 0, got 0 at input 0"),
        ({"shift": np.float32(0.5)}, r"unknown tensor 'shift'"),
        ({"tensor_scale": np.ones(2)}, r"tensor_scale must be one or 3 numbers, got shape \(2,\)"),
        ({"bias": np.ones(2)}, r"bias: must have shape \(3,\), got \(2,\)"),
    ],
)
def test_operands_that_do_not_fit_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        model.linear(np.ones((2, 128)), layer(7, 3, 128, 16, "float16") | change)
