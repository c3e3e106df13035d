"""W4A8 per channel: golden cases in exact fractions, errors that they tell apart, properties."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.arithmetic import round_to
from gpu_kernels.activations.model import Tokens, quantize
from gpu_kernels.exact_rounding import to_float16, to_float32
from gpu_kernels.w4a8_gemm import exact
from gpu_kernels.w4a8_gemm.model import channel_gemm, integer_sums, linear
from tests.gpu_kernels.golden_cases import read, row_of_runs, rows_with_sum, times_power, told, told_exact

GOLDEN = Path(__file__).parent / "golden" / "w4a8_channel.json"
VECTORS = ("scale", "token_scale", "token_sum")


def case(
    x: Any, codes: Any, scale: Any, zero: Any, token_scale: Any, token_sum: Any, bias: Any = None, form: str = "float16"
) -> dict[str, Any]:
    """Operands: x [M, K] and codes [N, K] (or one row as runs), scale, zero, bias [N], token_* [M]; floats rounded."""
    x, codes = (row_of_runs(v) if isinstance(v[0], tuple) else v for v in (x, codes))
    found = {"x": x, "token_scale": token_scale, "token_sum": token_sum, "codes": codes, "scale": scale}
    found |= {key: round_to(found[key], form) for key in VECTORS}
    return found | {"zero": zero, "bias": bias, "form": form}


def random_case(seed: int, tokens: int, outputs: int, size: int, form: str = "float16", bias: bool = False) -> Any:
    """Whole ranges of codes and zeros; sums as of normal inputs."""
    draw = np.random.default_rng(seed)
    x, q = draw.integers(-127, 128, (tokens, size)), draw.integers(0, 16, (outputs, size))
    scale, token_scale = draw.uniform(0.001, 0.02, outputs), draw.uniform(0.001, 0.02, tokens)
    sums, zero = draw.normal(0, size**0.5, tokens), draw.integers(0, 16, outputs)
    return case(x, q, scale, zero, token_scale, sums, round_to(draw.normal(size=outputs), form) if bias else None, form)


LEAST = 2.0**-24  # of float16
CASES = {
    "codes_0": case([(127, 64)], [(0, 64)], [0.01], [7], [0.02], [162.5]),
    "codes_15": case([(127, 64)], [(15, 64)], [0.01], [0], [0.02], [162.5]),
    "least": case([(-128, 128)], [(15, 128)], [0.01], [15], [0.02], [-327.5]),
    "no_zero": case([(127, 128)], [(15, 128)], [0.01], [0], [0.02], [60000.0]),
    "zero_15": case([(100, 64)], [(0, 64)], [0.01], [15], [0.02], [128.0]),
    "zero_255": case([(100, 64)], [(15, 64)], [0.01], [255], [0.02], [128.0]),
    "zero_rounds": case([(100, 64)], [(15, 64)], [2047 / 2**17], [13], [0.02], [128.0]),  # 13 * 2047 needs 15 bits
    "zeros": case([(0, 64)], [(15, 64)], [0.01], [15], [0.0], [0.0]),
    "cancels": case([(4, 64)], [(8, 64)], [0.5], [8], [0.25], [64.0]),
    "one_token": random_case(1, 1, 3, 64),
    "tokens": random_case(2, 2, 3, 128),
    "bias": random_case(3, 2, 3, 64, bias=True),
    "bias_cancels": case([(1, 64)], [(3, 64)], [0.5], [0], [0.25], [9.0], [-24.0]),
    "above_2_24": case([(127, 8831), (125, 1)], [(15, 8831), (13, 1)], [0.0001], [8], [0.001], [1121.0]),
    "overflow": case([(127, 64)], [(15, 64)], [65504.0], [0], [512.0], [0.0]),
    "zero_overflows": case([(-127, 64)], [(15, 64)], [8192.0], [8], [0.5], [1.0]),  # 8 * 8192 leaves float16
    "subnormal_result": case([(1, 3), (0, 61)], [(1, 64)], [2.0**-12], [1], [2.0**-12], [LEAST]),
    "order": case(  # found by trying: every other contraction gives another float16
        *rows_with_sum(644025, 15, 384), [0.005001068115234375], [2], [0.0121307373046875], [-10.1015625]
    ),
    "double_rounding": case(*rows_with_sum(122663, 15, 128), [2.0**-18], [1], [151 * 2.0**8], [-LEAST]),
    "bfloat16": random_case(4, 2, 3, 64, "bfloat16", bias=True),
    "bfloat16_scale_flushed": case([(127, 64)], [(15, 64)], [2.0**-130], [0], [2.0**20], [1.0], None, "bfloat16"),
    "bfloat16_operand_flushed": case([(127, 64)], [(15, 64)], [1.0], [1], [2.0**-130], [2.0**-130], None, "bfloat16"),
    "bfloat16_product_flushed": case(  # p2 = 1.5 * 2^-130, beside a p1 = 1.5 * 2^-126
        [(1, 1), (0, 63)], [(1, 64)], [1.5 * 2.0**-63], [1], [2.0**-63], [2.0**-67], None, "bfloat16"
    ),
    "bfloat16_result_flushed": case(  # 2^-126 - 1.5 * 2^-126
        [(1, 1), (0, 63)], [(1, 64)], [2.0**-63], [1], [2.0**-63], [1.5 * 2.0**-63], None, "bfloat16"
    ),
}


def by_twin(c: dict[str, Any]) -> Any:
    names = ("x", "token_scale", "token_sum", "codes", "scale", "zero", "bias", "form")
    return told_exact(exact.channel_gemm(*(c[name] for name in names)))


def by_model(c: dict[str, Any]) -> Any:
    floats = [np.array(c[key], np.float32) for key in ("token_scale", "token_sum")]
    tokens = Tokens(np.array(c["x"], np.int8), *floats)
    codes, zero = (np.array(c[key], np.uint8) for key in ("codes", "zero"))
    return channel_gemm(tokens, codes, c["scale"], zero, c["bias"], c["form"])


def test_twin_gives_the_golden_cases(golden):
    assert len(CASES) >= 20
    found = {name: {key: told(v) for key, v in case.items()} | {"y": by_twin(case)} for name, case in CASES.items()}
    golden(GOLDEN, found)


@pytest.mark.parametrize("name", CASES)
def test_model_gives_the_golden_cases(name):
    written = read(GOLDEN)[name]
    assert np.array_equal(by_model(written), np.array(written["y"]))


def _wrong(c: dict[str, Any], how: str) -> Any:
    """y of float16 without bias in plain NumPy, where float64 multiply-add rounded to float32 stands for an fma."""
    s, z = np.float32(c["scale"])[None], np.float32(c["zero"])[None]
    a, t = np.float32(c["token_scale"])[:, None], np.float32(c["token_sum"])[:, None]
    acc = np.int32(c["x"] % 256 if how == "unsigned" else c["x"]).astype(float) @ c["codes"].T
    sz = np.float32(0 * s) if how == "no zero" else (s * z).astype(np.float16).astype(np.float32)
    sz = s * z if how == "zero not rounded" else sz
    p1, p2 = s * np.float32(acc), sz * t
    with np.errstate(over="ignore"):
        r = {
            "not fused": a * p1 - p2,
            "scales first": np.float32(np.float64(s * a) * np.float32(acc) - p2),
            "zero product fused": np.float32(np.float64(a * p1) - np.float64(sz) * t),
            "sums of codes": a * (p1 - sz * np.float32(c["x"].sum(1, keepdims=True))),
        }.get(how, np.float32(np.float64(a) * p1 - p2))
        return r.astype(np.float16)


@pytest.mark.parametrize(
    "how",
    [
        "float64 fma",
        "not fused",
        "scales first",
        "zero product fused",
        "sums of codes",
        "no zero",
        "zero not rounded",
        "unsigned",
    ],
)
def test_cases_tell_wrong_epilogues_apart(how):
    """Else a model with that error could pass."""
    written = {n: c for n, c in read(GOLDEN).items() if c["form"] == "float16" and c["bias"] is None}
    with np.errstate(over="ignore", invalid="ignore"):
        seen = [name for name, c in written.items() if not np.array_equal(_wrong(c, how), c["y"])]
    assert seen == ["double_rounding"] if how == "float64 fma" else seen


def test_fma_in_float64_rounds_twice():
    """a p1 lies half a float32 unit above the middle of two float16; -p2 tips it, but is lost in float64."""
    a, p1, p2 = 151 * 2.0**8, 2.0**-18 * 122663, -(2.0**-42)
    right = to_float32(Fraction(a) * Fraction(p1) - Fraction(p2))
    twice = np.float32(a * p1 - p2)
    assert (float(right), float(twice)) == (18088.001953125, 18088.0)
    assert (to_float16(right), np.float16(twice)) == (18096, 18080)
    assert read(GOLDEN)["double_rounding"]["y"] == [[18096.0]]
    assert by_model(CASES["double_rounding"]) == 18096


@pytest.mark.parametrize("x", [-128, 127])
def test_integer_sums_reach_the_end_of_int32(x):
    size = (2**31 - 1) // (128 * 15)
    found = integer_sums(np.full((1, size), x, np.int8), np.full((1, size), 15, np.int8), 15)
    assert int(found[0, 0]) == x * 15 * size
    longer = np.zeros((1, size + 1), np.int8)
    with pytest.raises(ValueError, match=f"K must be at most {size}, so that int32 holds any sum, got {size + 1}"):
        integer_sums(longer, longer, 15)


def test_rows_may_be_longer_than_with_8_bit_weights():
    c = case([(127, 140_000)], [(15, 140_000)], [2.0**-12], [0], [2.0**-10], [0.0])
    assert by_model(c) == by_twin(c) != np.inf


@given(st.integers(0, 2**32), st.integers(-3, 3), st.sampled_from(("float16", "bfloat16")))
@settings(max_examples=20, deadline=None)
def test_powers_of_two_tokens_and_padding(seed, power, form):
    """Scales times 2^p give y times 2^p; tokens do not know each other; activations of 0 add nothing."""
    draw = np.random.default_rng(seed)
    c = random_case(seed, 4, 3, 64, form)
    y = by_model(c)
    assert times_power(by_model(c | {"scale": c["scale"] * np.float32(2.0**power)}), y, power)
    order = draw.permutation(4)
    assert np.array_equal(by_model(c | {key: c[key][order] for key in ("x", "token_scale", "token_sum")}), y[order])
    padding = {"x": np.zeros((4, 64), int), "codes": draw.integers(0, 16, (3, 64))}
    assert np.array_equal(by_model(c | {key: np.hstack([c[key], more]) for key, more in padding.items()}), y)


def test_linear_quantizes_its_activations_and_takes_the_state():
    c = random_case(9, 1, 3, 128, bias=True)
    x = round_to(np.random.default_rng(9).normal(size=(5, 128)), "float16")
    tokens = quantize(x)
    state = {"codes": c["codes"].astype(np.uint8), "scale": c["scale"], "zero": c["zero"].astype(np.uint8)}
    state |= {"bias": c["bias"]}
    twin = exact.channel_gemm(*[tokens.codes, tokens.scale, tokens.sums], *state.values(), "float16")
    y = linear(x, state)
    assert np.array_equal(y, told_exact(twin))
    weights = (c["codes"] - c["zero"][:, None]) * c["scale"].astype(float)[:, None]
    assert np.abs(y - (x @ weights.T + c["bias"])).max() < 0.02 * np.abs(y).max()


def test_faults_are_told_with_their_place():
    ok = {"codes": np.zeros((2, 64), np.uint8), "scale": np.ones(2, np.float32), "zero": np.zeros(2, np.uint8)}
    for change, said in (
        ({"codes": np.full((2, 64), -1)}, r"w4a8_channel: codes: must be within 0\.\.15, got -1"),
        ({"zero": np.zeros(2)}, r"zero: must be uint8 of shape \(2,\), got float64"),
        ({"zero": np.zeros(3, np.uint8)}, r"zero: must be uint8 of shape \(2,\), got uint8 of shape \(3,\)"),
        ({"scale": np.full(2, 1e-9)}, "scale: must be float16 values, got"),
        ({"scales": 1}, r"unknown tensor 'scales' \(nearest: 'scale'\)"),
    ):
        with pytest.raises(ValueError, match=said):
            linear(np.zeros((1, 64), np.float32), ok | change)
