"""W4A4: what must hold of any operands."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.arithmetic import round_to
from gpu_kernels.w4a4_gemm import exact, model
from gpu_kernels.w4a4_gemm.low_rank import down_projection, up_projection

FORMS = ("float16", "bfloat16")
BITS = {"float16": 11, "bfloat16": 8}


def layer(seed: int, outputs: int, inputs: int, rank: int, form: str) -> dict[str, Any]:
    """A quantized layer with all bits in use."""
    draw = np.random.default_rng(seed)
    return {
        "codes": draw.integers(-7, 8, (outputs, inputs)).astype(np.int8),
        "scale": round_to(draw.uniform(0.001, 0.02, (outputs, inputs // 64)), form),
        "smooth": round_to(draw.uniform(0.3, 3, inputs), form),
        "down": round_to(draw.normal(size=(rank, inputs)) / 16, form),
        "up": round_to(draw.normal(size=(outputs, rank)) / 4, form),
        "bias": round_to(draw.normal(size=outputs), form),
    }


def tokens(seed: int, rows: int, inputs: int, form: str) -> Any:
    return round_to(np.random.default_rng(seed).normal(size=(rows, inputs)), form)


def dequantized(state: Any, x: Any, shift: float = 0.0) -> Any:
    """The layer in float64 on unquantized activations."""
    weights = state["codes"] * np.repeat(state["scale"].astype(np.float64), 64, axis=1)
    return (x + shift) / state["smooth"] @ weights.T + x @ state["down"].T.astype(np.float64) @ state["up"].T


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("low", "high"), [(-8, 7), (0, 15)])
def test_sums_of_corner_values_are_exact(form, low, high):
    x = np.array([[a] * 64 for a in (low, high)] + [[low, high] * 32], np.int8)
    codes = np.array([[w] * 64 for w in (-8, 7)] + [[-8, 7] * 32, [7, -8] * 32], np.int8)
    ones = np.ones((4, 1), np.float32)
    y = model.gemm(x, ones[:3], None, {"codes": codes, "scale": ones, "smooth": np.ones(64)}, form)
    assert np.array_equal(y, round_to(x.astype(int) @ codes.astype(int).T, form))


@pytest.mark.parametrize("form", FORMS)
def test_tiles_do_not_show(form):
    """More rows and outputs than a tile has, none of them a multiple of it, are those of the layer cut in parts."""
    state, x = layer(1, 133, 128, 16, form), tokens(2, 261, 128, form)
    y = model.linear(x, state, form)
    parts = {"codes", "scale", "up", "bias"}
    for rows in ([0, 1], [255, 256, 259], [260]):
        for outputs in ([0], [63, 64], [131, 132]):
            part = {name: value[outputs] if name in parts else value for name, value in state.items()}
            assert np.array_equal(model.linear(x[rows], part, form), y[np.ix_(rows, outputs)])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), low=st.integers(-30, 0), form=st.sampled_from(FORMS), unsigned=st.booleans())
def test_model_is_its_twin(seed, low, form, unsigned):
    draw = np.random.default_rng(seed)
    state = layer(seed, 3, 128, 0, form)
    state["scale"] = round_to(draw.normal(size=(3, 2)) * 2.0 ** draw.integers(low, 4, (3, 2)), form)
    if unsigned:  # and sums of which bfloat16 has not all bits
        state |= {"shift": np.float32(0.171875), "codes": np.abs(state["codes"])}
    x = round_to(draw.normal(size=(2, 128)) * 2.0 ** draw.integers(low, 4, (2, 128)), form)
    codes, scales, lora_act = model.quantize(np.abs(x) if unsigned else x, state, form)
    expected = exact.quantize(np.abs(x) if unsigned else x, state, form, "sm_90")
    assert codes.tolist() == expected[0]
    assert scales.tolist() == expected[1]
    y = model.gemm(codes, scales, lora_act, state, form)
    assert y.tolist() == exact.gemm(codes, scales, [[]] * 2, state, form, "sm_90")


@pytest.mark.parametrize("form", FORMS)
def test_codes_stay_in_range_and_next_to_their_values(form):
    x = tokens(3, 8, 256, form)
    state = layer(4, 4, 256, 0, form)
    codes, scales, _ = model.quantize(x, state, form)
    assert codes.min() == -7  # of -8..7: the largest of a group is seven scales
    assert codes.max() == 7
    error = np.abs(codes * np.repeat(scales, 64, axis=1) - x / state["smooth"])
    assert (error <= np.repeat(scales, 64, axis=1) * (0.5 + 8 * 2.0 ** -BITS[form])).all()


@pytest.mark.parametrize("form", FORMS)
def test_shift_is_taken_back_by_the_bias(form):
    """GELU's outputs as 0..15 and a bias that subtracts the shift: as near to the layer as the codes allow."""
    state = layer(5, 16, 256, 16, form)
    x = np.maximum(tokens(6, 32, 256, form), -0.17).astype(np.float32)
    x = round_to(x, form)
    plain = dequantized(state, x)
    state["shift"] = np.float32(0.171875)
    state["bias"] = round_to(-(dequantized(state, 0 * x, 0.171875))[0], form)
    error = model.linear(x, state, form) - plain
    assert np.abs(error.mean()) < 0.02
    assert error.std() < 0.1 * plain.std()
    state["shift"] = np.float32(0)  # signed codes, and nobody adds what the bias takes
    assert np.abs((model.linear(x, state, form) - plain).mean(axis=0)).max() > 0.1


@pytest.mark.parametrize("form", FORMS)
def test_low_rank_branch_of_short_numbers_is_exact(form):
    """Sums of whole numbers: no tensor core and no order of atomics can give anything else."""
    draw = np.random.default_rng(7)
    x, down, up = (draw.integers(-4, 5, shape).astype(np.float32) for shape in ((5, 300), (20, 300), (7, 20)))
    lora_act = down_projection(x, down, form, "sm_90")
    assert np.array_equal(lora_act, x @ down.T)
    left = round_to(lora_act, form)
    y = draw.integers(-100, 101, (5, 7)).astype(np.float32)
    assert np.array_equal(up_projection(y, lora_act, up, form, "sm_90"), round_to(y + left @ up.T, form))


@pytest.mark.parametrize(("form", "half"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_up_projection_starts_at_the_output(form, half, architecture):
    """1 + half a unit + 2^-24 + 2^-25: cut behind the 1 a tie is left; added to the 1 afterwards, more than that."""
    lora_act, up = [[1, 1, 0.5]], np.array([[half, 2.0**-24, 2.0**-24]], np.float32)
    assert up_projection(np.ones((1, 1), np.float32), lora_act, up, form, architecture) == 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_low_rank_branch_is_near_float64(form, architecture):
    """Each of K/8 additions at most cuts one unit of 2^-22 of the largest partial sum, the sum of sizes bounds it."""
    x, down = tokens(8, 6, 512, form), tokens(9, 16, 512, form)
    found = down_projection(x, down, form, architecture)
    bound = 2.0**-22 * (512 / 8 + 4) * (np.abs(x).astype(np.float64) @ np.abs(down).T)
    assert (np.abs(found - x.astype(np.float64) @ down.T) <= bound).all()


def test_strengths_are_those_of_sixteen_ranks():
    state, x = layer(10, 8, 64, 32, "float16"), tokens(11, 3, 64, "float16")
    codes, scales, lora_act = model.quantize(x, state, "float16")
    found = model.gemm(codes, scales, lora_act, state, "float16", [1.0, 0.0])
    first = state | {"down": state["down"][:16], "up": state["up"][:, :16]}
    assert np.array_equal(found, model.gemm(codes, scales, lora_act[:, :16], first, "float16"))


def test_ranks_of_zeros_add_nothing():
    state, x = layer(12, 8, 64, 20, "bfloat16"), tokens(13, 3, 64, "bfloat16")
    padded = state | {"down": np.pad(state["down"], ((0, 12), (0, 0))), "up": np.pad(state["up"], ((0, 0), (0, 12)))}
    assert np.array_equal(model.linear(x, state, "bfloat16"), model.linear(x, padded, "bfloat16"))


def test_what_is_written_in_float16_is_finite():
    state = layer(14, 2, 64, 0, "float16") | {"scale": np.full((2, 1), 32768, np.float32), "bias": None}
    state["codes"] = np.array([[7] * 64, [-7] * 64], np.int8)
    y = model.linear(np.full((1, 64), 1000.0), state | {"smooth": np.ones(64)}, "float16")
    assert y.tolist() == [[65504.0, -65504.0]]
    plain = {name: state[name] for name in ("codes", "scale")} | {"smooth": np.ones(64)}
    assert np.isinf(model.linear(np.full((1, 64), 1e38), plain, "bfloat16")).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.zeros((3, 100), np.int8)}, "inputs must be a multiple of 64, got 100"),
        ({"scale": np.ones((3, 1))}, r"scale: must have shape \(3, 2\), got \(3, 1\)"),
        ({"codes": np.full((3, 128), 8)}, r"codes: must be within -8\.\.7, got 8"),
        ({"up": np.full((3, 16), 0.1)}, r"up: must be float16 values, got 0\.1"),
        ({"smooth": np.arange(128.0)}, r"smooth must not be 0, got 0 at input 0"),
        ({"bias": np.ones(2)}, r"bias: must have shape \(3,\), got \(2,\)"),
        ({"down": np.ones((16, 64))}, r"down: must have shape \(None, 128\)"),
        ({"up": np.ones((2, 16))}, r"up: must have shape \(3, None\)"),
    ],
)
def test_operands_that_do_not_fit_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        model.linear(np.ones((2, 128)), layer(15, 3, 128, 16, "float16") | change)


def test_other_refusals():
    state = layer(16, 3, 64, 32, "float16")
    with pytest.raises(ValueError, match="form: must be one of float16, bfloat16, got 'float32'"):
        model.linear(np.ones((2, 64)), state, "float32")
    with pytest.raises(ValueError, match=r"strengths: must be one for each 16 of 32 ranks, got shape \(1,\)"):
        model.gemm(np.ones((2, 64), int), np.ones((2, 1)), np.ones((2, 32)), state, "float16", [1.0])
    with pytest.raises(ValueError, match="inputs must be a multiple of 64, got 96"):
        model.linear(np.ones((2, 96)), layer(17, 3, 96, 16, "float16"))
    with pytest.raises(ValueError, match=r"scale of x: must have shape \(2, 1\), got \(2, 2\)"):
        model.gemm(np.ones((2, 64), int), np.ones((2, 2)), np.ones((2, 32)), state, "float16")
    with pytest.raises(ValueError, match=r"codes of x: must be within -8\.\.15, got 16"):
        model.gemm(np.full((2, 64), 16), np.ones((2, 1)), np.ones((2, 32)), state, "float16")
    with pytest.raises(ValueError, match=r"unknown tensor 'lora_up'"):
        model.linear(np.ones((2, 64)), state | {"lora_up": state["up"]})
