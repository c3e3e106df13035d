"""W4A16: golden cases in exact fractions for groups, NF4 and the kernel for few tokens; wrong orders told apart."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.arithmetic import round_to
from accel.formats import blocks, groups, number
from gpu_kernels.exact_rounding import to_form
from gpu_kernels.w4a16_gemm import exact, model
from tests.gpu_kernels.golden_cases import read, times_power, told, told_exact
from tests.gpu_kernels.w4a16_gemm.w4a16_cases import FORMS, GROUPS, KINDS, Case, group_case

FOLDER = Path(__file__).parent / "golden"


def vector(c: Case, key: str) -> Any:
    return None if c.get(key) is None else np.asarray(c[key])[0]


def by_twin(kind: str, c: Case) -> Any:
    form, codes, x, bias = c["form"], c["codes"].tolist(), c["x"], vector(c, "bias")
    if kind == "nf4":
        return told_exact(exact.gemm(x, exact.nf4_weights(codes, vector(c, "absmax"), form), bias, form))
    weights = exact.group_weights(codes, c["scale"], c["zero"], c["real"] == "True", form)
    if kind == "gemv":
        return told_exact(exact.gemv(x, weights, bias, form))
    y = exact.gemm(x, weights, bias, form)
    return told_exact(y if c["down"] is None else exact.add_branch(y, x, c["down"], c["up"], form))


def state_of(c: Case) -> dict[str, Any]:
    zero = np.float32 if c.get("real") == "True" else np.uint8
    kinds = {"codes": np.uint8, "scale": np.float32, "zero": zero, "down": np.float32, "up": np.float32}
    state = {key: np.asarray(c[key]).astype(kind) for key, kind in kinds.items() if c.get(key) is not None}
    return state | {key: vector(c, key) for key in ("absmax", "bias") if c.get(key) is not None}


def by_model(kind: str, c: Case) -> Any:
    return (model.gemv if kind == "gemv" else model.linear)(np.float32(c["x"]), state_of(c), c["form"])


@pytest.mark.parametrize("kind", KINDS)
def test_twin_gives_the_golden_cases(kind, golden):
    assert len(KINDS[kind]) >= 20
    found = {n: {key: told(v) for key, v in c.items()} | {"y": by_twin(kind, c)} for n, c in KINDS[kind].items()}
    golden(FOLDER / f"{kind}.json", found)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, cases in KINDS.items() for name in cases])
def test_model_gives_the_golden_cases(kind, name):
    written = read(FOLDER / f"{kind}.json")[name]
    assert np.array_equal(by_model(kind, written), np.array(written["y"]))


def _weights(c: Case, how: str) -> Any:
    """float64, in plain NumPy."""
    form, count = c["form"], c["scale"].shape[1]
    q, s, z = c["codes"].reshape(len(c["codes"]), count, -1), c["scale"][..., None], c["zero"][..., None]
    if how == "zero the other way" or how == "product rounded first":
        z = z if c["real"] == "True" else -(s * z)
        w = round_to(q * s, form) + round_to(z, form)
    else:
        w = q * s + z if c["real"] == "True" else (q - z) * s
    w = w.reshape(c["codes"].shape)
    return w if how == "weights not rounded" else round_to(w, form).astype(float)


def _wrong(c: Case, how: str) -> Any:
    """y in float64 sums, each rounded to the form, with one thing done wrongly."""
    form, bias = c["form"], 0 if c["bias"] is None else c["bias"][0]
    with np.errstate(over="ignore"):
        y = c["x"] @ _weights(c, how).T
        y = (
            round_to(y + bias, form)
            if how == "bias in the sum"
            else round_to(round_to(y, form) + np.float64(bias), form)
        )
        if c["down"] is None:
            return y
        hidden = c["x"] @ c["down"].T
        hidden = hidden if how == "hidden not rounded" else round_to(hidden, form).astype(float)
        added = hidden @ c["up"].T
        return round_to(y.astype(float) + (round_to(added, form) if how == "branch rounded" else added), form)


@pytest.mark.parametrize(
    "how",
    [
        "sums in float64",
        "product rounded first",
        "weights not rounded",
        "bias in the sum",
        "hidden not rounded",
        "branch rounded",
    ],
)
def test_cases_tell_wrong_orders_apart(how):
    """Else a model with that error could pass."""
    written = read(FOLDER / "w4a16.json")
    seen = [name for name, c in written.items() if not np.array_equal(_wrong(c, how), np.array(c["y"]))]
    plain = [n for n, c in written.items() if not np.array_equal(_wrong(c, "sums in float64"), np.array(c["y"]))]
    assert seen if how == "sums in float64" else set(seen) - set(plain)


def test_the_kernel_for_few_tokens_is_another_sum():
    differ = 0
    for seed in range(8):
        c = group_case(seed, real=True, shape=(1, 4, 128))
        differ += not np.array_equal(by_model("gemv", c), by_model("w4a16", c))
    assert differ > 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("real", [False, True])
def test_every_code_and_zero_gives_the_weight_of_the_twin(form, real):
    codes = np.tile(np.arange(16), (16, 1))
    draw = np.random.default_rng(3)
    scale = round_to(draw.uniform(0.001, 1, (16, 1)), form)
    zero = round_to(draw.normal(size=(16, 1)), form) if real else np.arange(16, dtype=np.uint8)[:, None]
    found = model.group_weights(codes, scale, zero, form)
    assert found.tolist() == told_exact(exact.group_weights(codes.tolist(), scale, zero.tolist(), real, form))


@pytest.mark.parametrize("form", FORMS)
def test_quantized_weights_come_near_the_product(form):
    draw = np.random.default_rng(4)
    w, x = draw.normal(size=(24, 256)).astype(np.float32), round_to(draw.normal(size=(6, 256)), form)
    codes, scale, zero = groups.asymmetric(w, 64, form)
    q4, absmax = blocks.nf4_quantize(w)
    for state, step in (
        ({"codes": codes, "scale": scale, "zero": zero}, scale.max() / 2),
        ({"codes": codes, "scale": scale, "zero": groups.scaled_zero(scale, zero, form)}, scale.max() / 2),
        ({"codes": q4, "absmax": absmax}, absmax.max() * 0.152),  # half of the widest gap, -1 to -0.696
    ):
        error = np.abs(model.linear(x, state, form) - x @ w.T)
        assert error.max() < step * np.abs(x).sum(axis=1).max() * 0.3
    assert np.abs(number("nf4").decode(q4)).max() == 1


@given(st.integers(0, 2**32 - 1), st.sampled_from(FORMS), st.integers(-3, 3))
@settings(max_examples=8, deadline=None)
def test_tokens_outputs_and_powers_of_two(seed, form, power):
    """Tokens and outputs do not know each other; x times 2^p gives y times 2^p; a token of zeros gives the bias.

    x are whole sixteenths: no x and, but for what real zeros leave, no product of `gemv` is subnormal.
    """
    draw = np.random.default_rng(seed)
    c = group_case(seed, form, real=bool(seed % 2), shape=(4, 5, 64), count=1)
    c |= {"x": round_to(np.round(c["x"] * 16) / 16, form)}
    for kind in ("w4a16", "gemv"):
        y = by_model(kind, c)
        tokens, outputs = draw.permutation(4), draw.permutation(5)
        part = c | {"x": c["x"][tokens]} | {key: c[key][outputs] for key in ("codes", "scale", "zero")}
        assert np.array_equal(by_model(kind, part), y[tokens][:, outputs])
        if kind == "w4a16" or c["real"] == "False":
            assert times_power(by_model(kind, c | {"x": c["x"] * np.float32(2.0**power)}), y, power)
        bias = round_to(draw.normal(size=(1, 5)), form)
        zeros = by_model(kind, c | {"x": 0 * c["x"], "bias": bias})
        assert np.array_equal(zeros, np.repeat(bias, 4, axis=0))


@pytest.mark.parametrize(("architecture", "left"), [("sm_80", 0.0), ("sm_90", 2.0**-13)])
def test_the_architecture_reaches_both_products(architecture, left):
    """64 x 64 is taken back from 64 x 64; of 2^-13 beside them Ampere's 24 bits keep nothing, Hopper's 25 all."""
    x, w = np.array([[64.0, 64.0, 2.0**-6]]), np.array([[64.0, -64.0, 2.0**-7]])
    state = {"scale": np.abs(w), "zero": np.array([[0, 1, 0]]), "codes": np.array([[1, 0, 1]])}
    assert model.linear(x, state, "float16", architecture) == left
    nothing = state | {"codes": state["zero"], "down": w, "up": np.ones((1, 1))}
    assert model.linear(x, nothing, "float16", architecture) == left


def test_overflow_is_infinite_and_a_tie_goes_to_even():
    assert by_model("w4a16", GROUPS["overflow"]) == np.inf
    assert by_model("w4a16", GROUPS["weight_ties"]) == float(to_form(exact.exact(3 * (1 + 2.0**-10)), "float16"))


def test_faults_are_told_with_their_place():
    ok = state_of(group_case(1))
    x = np.zeros((2, 32), np.float32)
    for change, said in (
        ({"codes": np.full((3, 32), 16)}, r"w4a16: codes: must be within 0\.\.15, got 16"),
        ({"zero": np.zeros((3, 1), np.uint8)}, r"w4a16: zero: must be integers of shape \(3, 2\)"),
        ({"zero": np.full((3, 2), 0.1)}, "w4a16: zero: must be float16 values, got 0.1"),
        (
            {"scale": np.ones((3, 5), np.float32)},
            "K must be a multiple of the number of groups, got K = 32, groups = 5",
        ),
        ({"scale": np.ones(3)}, r"w4a16: scale: must be a matrix, got shape \(3,\)"),
        ({"down": np.zeros((2, 32))}, "down and up come together or not at all"),
        ({"down": np.zeros((2, 31)), "up": np.zeros((3, 2))}, r"w4a16: down: must have shape \(2, 32\), got \(2, 31\)"),
        ({"bias": np.zeros(4)}, r"w4a16: bias: must have shape \(3,\), got \(4,\)"),
        ({"zeros": 1}, r"unknown tensor 'zeros' \(nearest: 'zero'\)"),
    ):
        with pytest.raises(ValueError, match=said):
            model.linear(x, ok | change)
    with pytest.raises(ValueError, match="w4a16: x: must be float16 values"):
        model.gemm(x + np.float32(0.1), model.group_weights(ok["codes"], ok["scale"], ok["zero"]))
    with pytest.raises(ValueError, match=r"absmax must have shape \(1.5,\), got \(2,\)"):
        model.linear(x, {"codes": np.zeros((3, 32), np.uint8), "absmax": np.ones(2)})
    with pytest.raises(ValueError, match="gemv: takes at most 8 tokens and groups of 64, got 2 tokens, K = 32 in 2"):
        model.gemv(x, ok)
