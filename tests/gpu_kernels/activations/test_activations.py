"""Per-token INT8 quantization: golden cases in exact fractions, errors that they tell apart, properties."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.arithmetic import round_to
from gpu_kernels.activations import exact
from gpu_kernels.activations.model import quantize
from tests.gpu_kernels.golden_cases import read, row_of_runs, told

GOLDEN = Path(__file__).parent / "golden" / "int8_per_token.json"
LEAST = 2.0**-24  # of float16


def case(x: Any, form: str = "float16") -> dict[str, Any]:
    """Activations [M, K], or one row as runs; rounded to the form."""
    return {"x": round_to(row_of_runs(x) if isinstance(x, list) else x, form), "form": form}


def normal(seed: int, tokens: int, size: int, form: str = "float16", deviation: float = 1.0) -> dict[str, Any]:
    return case(np.random.default_rng(seed).normal(0, deviation, (tokens, size)), form)


def cancelling(seed: int, size: int, pairs: int) -> Any:
    """Small numbers among large ones that cancel: what is lost of the small ones shows the order of a float32 sum."""
    draw = np.random.default_rng(seed)
    x = draw.integers(-4, 5, size) * 2.0**-10
    x[draw.permutation(size)[: 2 * pairs]] = np.repeat([32768.0, -32768.0], pairs)
    return x[None]


CASES = {
    "zeros": case([(0.0, 64)]),
    "least": case([(LEAST, 1), (0.0, 63)]),
    "leasts": case([(LEAST, 3), (-LEAST, 61)]),
    "largest": case([(65504.0, 1), (-65504.0, 1), (1.0, 62)]),
    "sum_overflows": case([(65504.0, 64)]),
    "sum_overflows_below": case([(-65504.0, 64)]),
    "sum_cancels": case([(1.5, 32), (-1.5, 32)]),
    "ties": case([(127.0, 1), (0.5, 1), (1.5, 1), (2.5, 1), (-0.5, 1), (-1.5, 1), (-2.5, 1), (126.5, 1)]),
    "scale_is_rounded": case([(1.0, 1), (0.99609375, 63)]),
    "amax_is_negative": case([(-3.0, 1), (1.0, 63)]),
    "reciprocal": case([(0.07769775390625, 1), (0.038848876953125, 1)]),  # half of the largest: 63.5, or not
    "reciprocal_below": case([(1.41796875, 1), (0.708984375, 1)]),
    "normal": normal(1, 1, 64),
    "tokens": normal(2, 3, 40),
    "outlier": case([(0.03125, 63), (60.0, 1)]),
    "odd_length": normal(3, 1, 77),
    "second_pieces": case(cancelling(4, 2100, 30)),
    "order_of_the_sum": case(cancelling(5, 600, 100)),
    "warps": case([(2.0**15, 256), (2.0**-9, 256), (-(2.0**15), 256)]),
    "bfloat16": normal(6, 2, 40, "bfloat16"),
    "bfloat16_large": case([(1e38, 2), (-3e38, 2), (1e37, 4)], "bfloat16"),
    "bfloat16_sum_overflows": case([(3e38, 8)], "bfloat16"),
    "bfloat16_too_small": case([(2.0**-130, 8)], "bfloat16"),
    "bfloat16_small": case([(2.0**-120, 7), (2.0**-121, 1)], "bfloat16"),
}


def by_twin(c: dict[str, Any]) -> dict[str, Any]:
    tokens = [exact.quantize_token(row, c["form"]) for row in c["x"]]
    scale, sums = [float(token.scale) for token in tokens], [float(token.sum) for token in tokens]
    return {"codes": told([token.codes for token in tokens]), "scale": scale, "sums": sums}


def test_twin_gives_the_golden_cases(golden):
    assert len(CASES) >= 20
    golden(GOLDEN, {name: {key: told(v) for key, v in c.items()} | by_twin(c) for name, c in CASES.items()})


@pytest.mark.parametrize("name", CASES)
def test_model_gives_the_golden_cases(name):
    written = read(GOLDEN)[name]
    for key, found in quantize(written["x"], written["form"])._asdict().items():
        assert np.array_equal(found, np.array(written[key])), key


def _wrong(x: Any, how: str) -> tuple[Any, Any, Any]:
    """codes, scale, sum of one float16 token by another recipe, in plain NumPy."""
    x = np.float32(x)
    amax, limit = np.abs(x).max(), np.float32(127)
    scale = np.float32(np.float16(amax / limit))
    product = x / scale if how == "stored scale" else x * (limit / amax)
    product = x / (amax / limit) if how == "division by the scale" else product
    codes = np.floor(product + np.float32(0.5)) if how == "halves up" else np.rint(product)
    return codes, scale, np.float16(_wrong_sum(x, how))


def _wrong_sum(x: Any, how: str) -> Any:
    """The sum of float32 [K] in another order: other pieces for a thread, or another tree over the 256 threads."""
    if how == "float64 sum":
        return x.sum(dtype=np.float64)
    if how == "sum in turn":
        return np.cumsum(x)[-1]  # in NumPy always one after another
    piece = 1 if how == "pieces of 1" else 8
    pieces = np.pad(x, (0, -len(x) % (256 * piece))).reshape(-1, 256, piece)
    parts = np.cumsum(pieces.swapaxes(0, 1).reshape(256, -1), axis=1)[:, -1]
    distances = {"neighbours first": (1, 2, 4, 8, 16, 32, 64, 128), "warps first": (128, 64, 32, 16, 8, 4, 2, 1)}
    for distance in distances.get(how, (16, 8, 4, 2, 1, 128, 64, 32)):
        parts = parts + parts[np.arange(256) ^ distance]
    return parts[0]


@pytest.mark.parametrize(
    ("how", "part"),
    [
        *[(how, 0) for how in ("stored scale", "division by the scale", "halves up")],
        *[(how, 2) for how in ("float64 sum", "sum in turn", "pieces of 1", "neighbours first", "warps first")],
    ],
)
def test_cases_tell_wrong_recipes_apart(how, part):
    """Else a model with that error could pass."""
    names = ("codes", "scale", "sums")
    written = {n: c for n, c in read(GOLDEN).items() if c["form"] == "float16" and np.any(c["x"])}
    with np.errstate(all="ignore"):
        seen = [n for n, c in written.items() if not np.array_equal(_wrong(c["x"][0], how)[part], c[names[part]][0])]
        right = [_wrong_sum(np.float32(c["x"][0]), "right").astype(np.float16) for c in written.values()]
    assert seen
    assert right == [c["sums"][0] for c in written.values()]


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 300), st.sampled_from(("float16", "bfloat16")))
@settings(max_examples=25, deadline=None)
def test_codes_scales_and_sums_of_any_token(seed, tokens, size, form):
    """Codes reach 127 and no further, are within half a step; signs, powers of two and other tokens do not matter."""
    draw = np.random.default_rng(seed)
    x = round_to(draw.normal(0, 1, (tokens, size)) * np.exp(draw.uniform(-5, 3, (tokens, 1))), form)
    codes, scale, sums = quantize(x, form)
    assert np.array_equal(np.abs(codes.astype(int)).max(1), np.full(tokens, 127))
    step = np.abs(x).max(1, keepdims=True).astype(float) / 127
    assert np.all(np.abs(codes * step - x) <= step * (0.5 + 1e-4))
    assert np.allclose(sums, x.sum(1, dtype=float), rtol=2.0**-8, atol=1e-5 * np.abs(x).sum(1).max())
    opposite = quantize(-x, form)
    assert np.array_equal(opposite.codes, -codes)
    assert np.array_equal(opposite.sums, -sums)
    twice = quantize(2 * x, form)
    assert np.array_equal(twice.codes, codes)
    assert np.array_equal(twice.scale[scale > 2.0**-14], 2 * scale[scale > 2.0**-14])
    order = draw.permutation(tokens)
    assert np.array_equal(quantize(x[order], form).codes, codes[order])


def test_faults_are_told_with_their_place():
    x = np.ones((3, 8), np.float32)
    for value in (np.inf, np.nan, 0.1):
        wrong = x.copy()
        wrong[1, 5] = value
        with pytest.raises(ValueError, match="activations: must be finite float16 values, token 1 has others"):
            quantize(wrong)
    with pytest.raises(ValueError, match=r"must be \[tokens, channels\], got shape \(8,\)"):
        quantize(x[0])
    with pytest.raises(ValueError, match="form: must be one of float16, bfloat16, got 'float64'"):
        quantize(x, "float64")
