"""W8A8: golden cases in exact fractions, wrong versions that they tell apart, and what must hold of any operands."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.arithmetic import round_to
from gpu_kernels.activations.model import Tokens
from gpu_kernels.w8a8_gemm import exact
from gpu_kernels.w8a8_gemm.model import gemm, integer_sums, linear
from tests.gpu_kernels.golden_cases import read, row_of_runs, rows_with_sum, times_power, told, told_exact

GOLDEN = Path(__file__).parent / "golden" / "w8a8.json"
LEAST = 2.0**-24  # of float16


def case(x: Any, w: Any, scale: Any, token_scale: Any, bias: Any = None, form: str = "float16") -> dict[str, Any]:
    """Operands of one product: x [M, K] and w [N, K], or of one row each as runs [(value, count), ...]."""
    x, w = (row_of_runs(v) if isinstance(v[0], tuple) else v for v in (x, w))
    return {"x": x, "token_scale": token_scale, "codes": w, "scale": scale, "bias": bias, "form": form}


def random_case(seed: int, tokens: int, outputs: int, size: int, form: str = "float16", bias: bool = False) -> Any:
    """Codes over the whole range, scales of the usual size."""
    draw = np.random.default_rng(seed)
    x, w = draw.integers(-128, 128, (tokens, size)), draw.integers(-128, 128, (outputs, size))
    scale, token_scale = (round_to(draw.uniform(0.001, 0.02, n), form) for n in (outputs, tokens))
    return case(x, w, scale, token_scale, round_to(draw.normal(size=outputs), form) if bias else None, form)


TIE = [(-128, 1024), (1, 1), (0, 63)]  # squared: 2^24 + 1, between two float32
CASES = {
    "least": case([(-128, 128)], [(-128, 128)], [0.01], [0.02]),
    "largest": case([(127, 128)], [(127, 128)], [0.01], [0.02]),
    "signs": case([(-128, 64), (127, 64)], [(127, 64), (-128, 64)], [0.01], [0.02]),
    "zeros": case([(0, 64)], [(-128, 64)], [0.01], [0.02]),
    "one_token": random_case(1, 1, 3, 64),
    "tokens": random_case(2, 2, 3, 128),
    "bias": random_case(3, 2, 3, 128, bias=True),
    "bias_cancels": case([(1, 64)], [(3, 64)], [0.5], [0.25], [-24.0]),
    "above_2_24": case([(127, 2048)], [(127, 2048)], [0.0001], [0.001]),
    "2_24_and_1": case(TIE, TIE, [LEAST], [1.0]),
    "2_24_and_3": case([*TIE[:1], (3, 1), (0, 63)], TIE, [2.0**-12], [2.0**-9 * 1.125]),
    "minus_2_24_and_1": case(TIE, [(127, 1024), (-1, 1), (0, 63)], [0.00002], [0.03125]),
    "overflow": case([(127, 128)], [(127, 128)], [512.0], [65504.0]),
    "overflow_meets_bias": case([(-128, 128)], [(127, 128)], [1.0], [1.0], [65504.0]),
    "subnormal_result": case([(1, 3), (0, 61)], [(1, 64)], [2.0**-12], [2.0**-12]),
    "half_of_the_least": case([(1, 1), (0, 63)], [(1, 64)], [2.0**-13], [2.0**-12]),
    "bfloat16": random_case(4, 2, 3, 128, "bfloat16", bias=True),
    "bfloat16_scale_flushed": case([(127, 64)], [(127, 64)], [2.0**-130], [2.0**20], [2.0**-130], "bfloat16"),
    "bfloat16_factor_flushed": case([(127, 64)], [(127, 64)], [2.0**-70], [2.0**-60], None, "bfloat16"),
    "bfloat16_factor_overflows": case([(1, 64)], [(1, 64)], [2.0**100], [2.0**100], None, "bfloat16"),
    "order": case(*rows_with_sum(643286, 127, 64), [0.01422882080078125], [0.003047943115234375]),  # found by trying
}
for _operands in CASES.values():
    for _name in ("scale", "token_scale"):
        _operands[_name] = round_to(_operands[_name], _operands["form"])


def by_twin(operands: dict[str, Any]) -> Any:
    return told_exact(exact.gemm(**operands))


def by_model(operands: dict[str, Any]) -> Any:
    x, scale = operands["x"], np.array(operands["token_scale"], np.float32)
    tokens = Tokens(np.array(x, np.int8), scale, np.zeros_like(scale))
    rest = {name: operands[name] for name in ("scale", "bias", "form")}
    return gemm(tokens, np.array(operands["codes"], np.int64), **rest)


def test_twin_gives_the_golden_cases(golden):
    assert len(CASES) >= 20
    found = {name: {key: told(v) for key, v in case.items()} | {"y": by_twin(case)} for name, case in CASES.items()}
    golden(GOLDEN, found)


@pytest.mark.parametrize("name", CASES)
def test_model_gives_the_golden_cases(name):
    written = read(GOLDEN)[name]
    assert np.array_equal(by_model(written), np.array(written["y"]))


def _wrong(operands: dict[str, Any], sums: Any, order: str) -> Any:
    """y of float16 by another order or reading, in plain NumPy without bias."""
    s, a = np.float32(operands["scale"])[None], np.float32(operands["token_scale"])[:, None]
    if order == "unsigned":
        sums = (np.array(operands["x"]) % 256) @ np.array(operands["codes"]).T
    acc = np.int32(sums).astype(np.float32)
    with np.errstate(over="ignore"):
        if order == "token scale last":
            return (s * acc * a).astype(np.float16)
        if order == "no rounding in between":
            return (np.float64(s) * a * np.int32(sums)).astype(np.float16)
        return (s * a * acc).astype(np.float16)


def test_cases_tell_wrong_versions_apart():
    """Else a model with that error could pass: each error changes a float16 case without bias."""
    written = {n: c for n, c in read(GOLDEN).items() if c["form"] == "float16" and c["bias"] is None}
    seen = {}
    for order in ("right", "token scale last", "no rounding in between", "unsigned"):
        sums = {name: c["x"] @ c["codes"].T for name, c in written.items()}
        seen[order] = [n for n, c in written.items() if not np.array_equal(_wrong(c, sums[n], order), c["y"])]
    assert seen.pop("right") == []
    assert all(seen.values()), seen


@given(
    st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 70), st.integers(1, 300), st.sampled_from((-128, 0, 127))
)
@settings(max_examples=30, deadline=None)
def test_integer_sums_are_exact(seed, tokens, outputs, size, fill):
    draw = np.random.default_rng(seed)
    x = np.where(draw.random((tokens, size)) < 0.5, fill, draw.integers(-128, 128, (tokens, size)))
    w = np.where(draw.random((outputs, size)) < 0.5, fill, draw.integers(-128, 128, (outputs, size)))
    assert np.array_equal(integer_sums(x.astype(np.int8), w.astype(np.int8)), x @ w.T)


@pytest.mark.parametrize(("x", "w"), [(-128, -128), (-128, 127), (127, -128), (127, 127)])
def test_integer_sums_reach_the_end_of_int32(x, w):
    size = 131071
    found = integer_sums(np.full((1, size), x, np.int8), np.full((1, size), w, np.int8))
    assert int(found[0, 0]) == x * w * size
    with pytest.raises(ValueError, match="K must be at most 131071, so that int32 holds any sum, got 131072"):
        integer_sums(np.zeros((1, size + 1), np.int8), np.zeros((1, size + 1), np.int8))


@given(st.integers(0, 2**32), st.integers(-3, 3), st.sampled_from(("float16", "bfloat16")))
@settings(max_examples=20, deadline=None)
def test_powers_of_two_tokens_and_padding(seed, power, form):
    """Scales times 2^p give y times 2^p; tokens do not know each other; zero codes add nothing."""
    draw = np.random.default_rng(seed)
    operands = random_case(seed, 5, 3, 64, form)
    y = by_model(operands)
    assert times_power(by_model(operands | {"scale": operands["scale"] * np.float32(2.0**power)}), y, power)
    order = draw.permutation(5)
    shuffled = operands | {"x": operands["x"][order], "token_scale": operands["token_scale"][order]}
    assert np.array_equal(by_model(shuffled), y[order])
    padding = {"x": (5, 64), "codes": (3, 64)}
    padded = {key: np.hstack([operands[key], np.zeros(shape, int)]) for key, shape in padding.items()}
    assert np.array_equal(by_model(operands | padded), y)


def test_linear_is_near_the_real_product():
    draw = np.random.default_rng(7)
    x, w = round_to(draw.normal(size=(9, 256)), "float16"), draw.normal(size=(20, 256))
    scale = round_to(np.abs(w).max(1) / 127, "float16")
    state = {"codes": np.rint(w / scale[:, None]).astype(np.int8), "scale": scale}
    error = linear(x, state) - x @ w.T
    assert np.linalg.norm(error) < 0.015 * np.linalg.norm(x @ w.T)


def test_faults_are_told_with_their_place():
    codes, scale = np.zeros((2, 64), np.int8), np.ones(2, np.float32)
    x = np.zeros((1, 64), np.float32)
    for state, said in (
        ({"codes": codes}, "w8a8: needs the tensor 'scale', got codes"),
        ({"codes": codes, "scale": scale, "scal": scale}, r"unknown tensor 'scal' \(nearest: 'scale'\)"),
        ({"codes": codes[:, :32], "scale": scale}, r"w8a8: x must be \[M, 32\], got \(1, 64\)"),
        ({"codes": codes + 0.5, "scale": scale}, r"codes: must be integers of shape .* got float"),
        ({"codes": np.full((2, 64), 128), "scale": scale}, r"codes: must be within -128\.\.127, got 128"),
        ({"codes": codes, "scale": scale * 0.1}, "scale: must be float16 values, got 0.1"),
        ({"codes": codes, "scale": scale, "bias": scale[:1]}, r"bias: must have shape \(2,\), got \(1,\)"),
    ):
        with pytest.raises(ValueError, match=said):
            linear(x, state)
    with pytest.raises(ValueError, match="form: must be one of float16, bfloat16, got 'float32'"):
        linear(x, {"codes": codes, "scale": scale}, "float32")
