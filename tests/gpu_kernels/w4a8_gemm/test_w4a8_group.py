"""W4A8 per group: weights by the word, golden cases in exact fractions, errors that they tell, properties."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.arithmetic import round_to
from gpu_kernels.activations.model import Tokens, quantize
from gpu_kernels.w4a8_gemm import exact
from gpu_kernels.w4a8_gemm.model import group_gemm, group_weights, linear
from tests.gpu_kernels.golden_cases import read, row_of_runs, times_power, told, told_exact

GOLDEN = Path(__file__).parent / "golden" / "w4a8_group.json"


def case(
    x: Any,
    codes: Any,
    group_scale: Any,
    group_zero: Any,
    scale: Any,
    token_scale: Any,
    bias: Any = None,
    form: str = "float16",
) -> dict[str, Any]:
    """Operands: x [M, K] and codes [N, K] (or one row as runs), group_* [N, K / 128], scale [N], token_scale [M]."""
    x, codes = (row_of_runs(v) if isinstance(v[0], tuple) else v for v in (x, codes))
    found = {"x": x, "token_scale": token_scale, "codes": codes, "group_scale": group_scale, "group_zero": group_zero}
    return found | {"scale": scale, "bias": bias, "form": form}


def one(x: Any, codes: Any, s1: int, z: int, scale: float = 0.01, token_scale: float = 0.02, **rest: Any) -> Any:
    """One token, one output, one group; the scales rounded to the form."""
    s, a = (round_to([v], rest.get("form", "float16")) for v in (scale, token_scale))
    return case(x, codes, [[s1]], [[z]], s, a, **rest)


def random_case(
    seed: int, tokens: int, outputs: int, groups: int, form: str = "float16", bias: bool = False, largest: int = 8
) -> Any:
    """Codes over their whole range; with scales up to 8 no weight leaves int8."""
    draw = np.random.default_rng(seed)
    x, q = draw.integers(-127, 128, (tokens, groups * 128)), draw.integers(0, 16, (outputs, groups * 128))
    s1, z = draw.integers(1, largest + 1, (outputs, groups)), draw.integers(0, 16, (outputs, groups))
    scale, token_scale = (round_to(draw.uniform(0.001, 0.02, n), form) for n in (outputs, tokens))
    return case(x, q, s1, z, scale, token_scale, round_to(draw.normal(size=outputs), form) if bias else None, form)


NINE = ([[16] * 9], [[8] * 9])  # scales and zeros of nine groups; a code of 0 is the weight -128
CASES = {
    "codes_0": one([(127, 128)], [(0, 128)], 7, 0),
    "codes_15": one([(127, 128)], [(15, 128)], 8, 0),
    "weights_minus_128": one([(-128, 128)], [(0, 128)], 16, 8),
    "zero_group": one([(127, 128)], [(9, 128)], 5, 9),
    "scale_0": one([(127, 128)], [(9, 128)], 0, 3),
    "zero_15": one([(-128, 128)], [(15, 64), (0, 64)], 8, 15),
    "zeros": one([(0, 128)], [(15, 128)], 8, 15),
    "wraps": one([(1, 128)], [(15, 1), (7, 127)], 16, 7),  # 8 * 16 = 128 is read as -128
    "product_255": one([(1, 2), (3, 126)], [(15, 128)], 17, 8),
    "carries": one([(1, 2), (3, 126)], [(15, 128)], 18, 8),  # 270 reaches into the next byte
    "largest_scale": one([(5, 1), (1, 126), (-7, 1)], [(15, 3), (1, 125)], 127, 15),
    "one_token": random_case(1, 1, 3, 1),
    "tokens": random_case(2, 2, 3, 2),
    "bias": random_case(3, 2, 2, 1, bias=True),
    "protective_range": random_case(4, 1, 2, 2, largest=16),
    "above_2_24": case([(-128, 1151), (-127, 1)], [(0, 1152)], *NINE, [2.0**-12], [2.0**-9]),
    "minus_above_2_24": case([(127, 1152)], [(0, 1152)], *NINE, [2.0**-12], [2.0**-9]),
    "overflow": one([(127, 128)], [(15, 128)], 8, 0, 65504.0, 512.0),
    "subnormal_result": one([(1, 3), (0, 125)], [(1, 128)], 1, 0, 2.0**-12, 2.0**-12),
    "bfloat16": random_case(5, 2, 3, 1, "bfloat16", bias=True),
    "bfloat16_scale_flushed": one([(127, 128)], [(15, 128)], 8, 0, 2.0**-130, 2.0**20, form="bfloat16"),
}


def by_twin(operands: dict[str, Any]) -> Any:
    return told_exact(exact.group_gemm(**operands))


def by_model(operands: dict[str, Any]) -> Any:
    x, scale = np.array(operands["x"], np.int8), np.array(operands["token_scale"], np.float32)
    codes, s1, z = (np.array(operands[key], np.uint8) for key in ("codes", "group_scale", "group_zero"))
    rest = {key: operands[key] for key in ("scale", "bias", "form")}
    return group_gemm(Tokens(x, scale, np.zeros_like(scale)), codes, s1, z, **rest)


def test_twin_gives_the_golden_cases(golden):
    assert len(CASES) >= 20
    found = {name: {key: told(v) for key, v in case.items()} | {"y": by_twin(case)} for name, case in CASES.items()}
    golden(GOLDEN, found)


@pytest.mark.parametrize("name", CASES)
def test_model_gives_the_golden_cases(name):
    written = read(GOLDEN)[name]
    assert np.array_equal(by_model(written), np.array(written["y"]))


def _wrong(c: dict[str, Any], how: str) -> Any:
    """8-bit weights by another reading, in plain NumPy."""
    q, s1, z = (np.array(c[key], int) for key in ("codes", "group_scale", "group_zero"))
    s1, z = np.repeat(s1, 128, 1), np.repeat(z, 128, 1)
    byte = q * s1 % 256 - z * s1
    return {
        "no zero": (q * s1).astype(np.int8),
        "saturated": np.clip((q - z) * s1, -128, 127),
        "unsigned": byte % 256,
        "no carry": byte.astype(np.int8),
        "zero before scale": (((q - z) % 16) * s1).astype(np.int8),
    }[how]


@pytest.mark.parametrize("how", ["no zero", "saturated", "unsigned", "no carry", "zero before scale"])
def test_cases_tell_wrong_weights_apart(how):
    """Else a model with that error could pass."""
    written = {name: c for name, c in read(GOLDEN).items() if c["form"] == "float16" and c["bias"] is None}
    seen = []
    for name, c in written.items():
        acc = np.int32(c["x"] @ _wrong(c, how).T).astype(np.float32)
        with np.errstate(over="ignore"):
            y = (np.float32(c["scale"])[None] * np.float32(c["token_scale"])[:, None] * acc).astype(np.float16)
        seen += [name] if not np.array_equal(y, c["y"]) else []
    assert seen


def test_weights_of_all_codes_scales_and_zeros():
    """Within int8: (q - z) s. Beyond: the byte wraps; from scale 18 on a code of 15 changes its neighbour."""
    words = np.array(list(product((0, 15), (0, 7, 15), (1, 15), (0, 15))), np.uint8).reshape(1, -1)
    codes = np.concatenate([words, np.arange(32)[None].astype(np.uint8) % 16], axis=1)  # 96 + 32 codes
    scale, zero = np.divmod(np.arange(128 * 16)[:, None], 16)  # a row for each pair: one call
    s1, z = scale.astype(np.uint8), zero.astype(np.uint8)
    codes = np.repeat(codes, len(s1), axis=0)
    found, plain = group_weights(codes, s1, z), (codes.astype(int) - zero) * scale
    small = scale[:, 0] <= 17
    assert np.array_equal(found[small], plain[small].astype(np.int8))
    assert np.array_equal((found != plain)[small], ((plain < -128) | (plain > 127))[small])
    assert np.any(found != plain.astype(np.int8), axis=1)[~small].all()
    assert found[~small].tolist() == exact.group_weights(codes[~small], s1[~small], z[~small])


@given(st.integers(0, 2**32), st.integers(-3, 3), st.sampled_from(("float16", "bfloat16")))
@settings(max_examples=20, deadline=None)
def test_powers_of_two_tokens_and_padding(seed, power, form):
    """Scales times 2^p give y times 2^p; tokens do not know each other; a group of codes equal to z adds nothing."""
    draw = np.random.default_rng(seed)
    c = random_case(seed, 4, 3, 2, form)
    y = by_model(c)
    assert times_power(by_model(c | {"scale": c["scale"] * np.float32(2.0**power)}), y, power)
    order = draw.permutation(4)
    assert np.array_equal(by_model(c | {"x": c["x"][order], "token_scale": c["token_scale"][order]}), y[order])
    padding = {"x": draw.integers(-127, 128, (4, 128)), "codes": np.full((3, 128), 11)}
    padding |= {"group_scale": np.full((3, 1), 8), "group_zero": np.full((3, 1), 11)}
    assert np.array_equal(by_model(c | {key: np.hstack([c[key], more]) for key, more in padding.items()}), y)


def test_linear_quantizes_its_activations_and_takes_the_state():
    c = random_case(9, 1, 3, 2, bias=True)
    x = round_to(np.random.default_rng(9).normal(size=(5, 256)), "float16")
    tokens = quantize(x)
    state = {key: np.array(c[key], np.uint8) for key in ("codes", "group_scale", "group_zero")}
    state |= {"scale": c["scale"], "bias": c["bias"]}
    twin = exact.group_gemm(tokens.codes, tokens.scale, *state.values(), "float16")
    assert np.array_equal(linear(x, state), told_exact(twin))


def test_faults_are_told_with_their_place():
    ok = {"codes": np.zeros((2, 128), np.uint8), "group_scale": np.ones((2, 1), np.uint8)}
    ok |= {"group_zero": np.zeros((2, 1), np.uint8), "scale": np.ones(2, np.float32)}
    x = np.zeros((1, 128), np.float32)
    for change, said in (
        ({"codes": np.full((2, 128), 16)}, r"w4a8_group: codes: must be within 0\.\.15, got 16"),
        ({"codes": np.zeros((2, 64), int)}, r"w4a8_group: x must be \[M, 64\], got \(1, 128\)"),
        ({"group_scale": np.full((2, 1), 128)}, r"group_scale: must be within 0\.\.127, got 128"),
        ({"group_zero": np.full((2, 1), -1)}, r"group_zero: must be within 0\.\.15, got -1"),
        ({"group_zero": np.zeros((2, 2), int)}, r"group_zero: must be integers of shape \(2, 1\)"),
        ({"zero": np.zeros(2)}, r"unknown tensor 'zero' \(nearest: 'group_zero'\)"),
    ):
        with pytest.raises(ValueError, match=said):
            linear(x, ok | change)
    with pytest.raises(ValueError, match="K must be a multiple of 128, got 64"):
        linear(x[:, :64], ok | {"codes": np.zeros((2, 64), np.uint8)})
