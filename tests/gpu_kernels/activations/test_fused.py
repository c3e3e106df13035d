"""Quantization behind an RMS norm and a SiLU gate: golden cases in exact fractions, errors that they tell apart."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.arithmetic import round_to
from gpu_kernels.activations import exact
from gpu_kernels.activations.model import (
    gated,
    normalized,
    quantize,
    quantize_gate,
    quantize_norm,
    silu,
    sum_of_squares,
    token_sum,
)
from tests.gpu_kernels.golden_cases import read, told

NORM, GATE = (Path(__file__).parent / "golden" / f"int8_{name}.json" for name in ("norm", "gate"))
LARGEST = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38}


def norm_case(seed: int, size: int, form: str = "float16", epsilon: float = 1e-5, **how: Any) -> dict[str, Any]:
    """Two rows or another number, [2, size], with a weight, and with a residual if asked."""
    draw = np.random.default_rng(seed)
    x = round_to(draw.normal(0, how.get("deviation", 1.0), (how.get("rows", 2), size)), form)
    weight = round_to(draw.normal(1, 0.3, (1, size)), form)
    found = {"x": x, "weight": weight, "epsilon": epsilon, "form": form}
    return found | ({"residual": round_to(draw.normal(0, 1, (2, size)), form)} if how.get("residual") else {})


def changed(case: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """With other rows, broadcast to the shape of x and rounded."""
    given = {name: np.broadcast_to(part, np.shape(case[name])) for name, part in parts.items()}
    return case | {name: round_to(part, case["form"]) for name, part in given.items()}


NORMS = {
    "normal": norm_case(1, 64),
    "odd_length": norm_case(2, 77),
    "second_pieces": norm_case(3, 2100, rows=1),
    "order_of_the_squares": norm_case(4, 600, deviation=3.0),
    "residual": norm_case(5, 72, residual=True),
    "residual_cancels": changed(norm_case(6, 16, residual=True), x=1.25, residual=-1.25),
    "residual_is_rounded": changed(norm_case(7, 16, residual=True), x=2048.0, residual=np.arange(16) / 8),
    "zeros": changed(norm_case(8, 16), x=0.0),
    "constants": changed(norm_case(9, 40), x=-3.0, weight=1.0),
    "leasts": changed(norm_case(10, 40), x=2.0**-24),
    "largest": changed(norm_case(11, 40), x=65504.0),
    "outlier": changed(norm_case(12, 64), x=[*[0.03125] * 63, 30000.0]),
    "leaves_the_range": changed(norm_case(13, 8), x=[100.0, *[0.0] * 7], weight=60000.0),
    "large_epsilon": norm_case(14, 32, epsilon=0.37),
    "no_epsilon": norm_case(15, 32, epsilon=0.0),
    "bfloat16": norm_case(16, 64, "bfloat16", residual=True),
    "bfloat16_large": changed(norm_case(17, 16, "bfloat16"), x=[1e18, *[-2e17] * 15]),
    "bfloat16_small": changed(norm_case(18, 16, "bfloat16"), x=2.0**-130),
    "bfloat16_pieces": norm_case(19, 2056, "bfloat16", rows=1),
}


def gate_case(gates: Any, others: Any, form: str = "float16") -> dict[str, Any]:
    """One row or two."""
    both = np.broadcast_arrays(np.atleast_2d(gates), np.atleast_2d(others))
    return {"x": round_to(np.concatenate(both, axis=1), form), "form": form}


def drawn_gates(seed: int, size: int, form: str = "float16", deviation: float = 2.0, rows: int = 2) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    return gate_case(draw.normal(0, deviation, (rows, size)), draw.normal(0, 1, (rows, size)), form)


FALL = -np.arange(0.0, 128.0)
GATES = {
    "normal": drawn_gates(1, 64),
    "wide": drawn_gates(2, 200, deviation=12.0),
    "odd_length": drawn_gates(3, 77),
    "second_pieces": drawn_gates(4, 2100, rows=1),
    "zeros": gate_case(np.zeros(16), 1.0),
    "others_are_zero": gate_case(np.arange(16.0), 0.0),
    "falling": gate_case(FALL, 1.0),
    "rising": gate_case(-FALL, 1.0),
    "falling_is_lifted": gate_case(FALL, 60000.0),
    "around_the_end": gate_case(np.linspace(-88, -86, 64), 65504.0, "bfloat16"),
    "least": gate_case([2.0**-24, -(2.0**-24)], 65504.0),
    "largest": gate_case([65504.0, -65504.0], [1.0, 65504.0]),
    "leaves_the_range": gate_case([300.0, 1.0], [300.0, 1.0]),
    "leaves_it_both_ways": gate_case([300.0, 300.0], [300.0, -300.0]),
    "bfloat16": drawn_gates(5, 64, "bfloat16"),
    "bfloat16_wide": drawn_gates(6, 200, "bfloat16", 30.0),
    "bfloat16_large": gate_case([1e38, 3e38, -3e38, 2.0], [0.5, 1.0, 1.0, 1.0], "bfloat16"),
    "bfloat16_leaves_the_range": gate_case([1e38, 1.0], [1e3, 1.0], "bfloat16"),
}


def as_told(tokens: list[exact.Token]) -> dict[str, Any]:
    scale, sums = [float(token.scale) for token in tokens], [float(token.sum) for token in tokens]
    return {"codes": told([token.codes for token in tokens]), "scale": scale, "sums": sums}


def norm_by_twin(c: dict[str, Any]) -> dict[str, Any]:
    h = c["x"]
    if "residual" in c:
        h = [[float(v) for v in exact.added(*rows, c["form"])] for rows in zip(h, c["residual"], strict=True)]
    rows = [exact.normalized(row, c["weight"][0], c["epsilon"], c["form"]) for row in h]
    return as_told([exact.quantize_token(row, c["form"]) for row in rows]) | {"h": told(np.asarray(h, np.float64))}


def gate_by_twin(c: dict[str, Any]) -> dict[str, Any]:
    size = np.shape(c["x"])[1] // 2
    rows = [exact.gated(row[:size], row[size:], c["form"]) for row in c["x"]]
    return as_told([exact.quantize_token(row, c["form"]) for row in rows])


@pytest.mark.parametrize(("path", "cases", "twin"), [(NORM, NORMS, norm_by_twin), (GATE, GATES, gate_by_twin)])
def test_twin_gives_the_golden_cases(golden, path, cases, twin):
    written = {name: {key: v if key == "epsilon" else told(v) for key, v in c.items()} for name, c in cases.items()}
    golden(path, {name: written[name] | twin(c) for name, c in cases.items()})


@pytest.mark.parametrize("name", NORMS)
def test_norm_gives_the_golden_cases(name):
    c = read(NORM)[name]
    tokens, h = quantize_norm(c["x"], c["weight"][0], c["epsilon"], c["form"], c.get("residual"))
    for key, found in (tokens._asdict() | {"h": h}).items():
        assert np.array_equal(found, np.array(c[key])), key


@pytest.mark.parametrize("name", GATES)
def test_gate_gives_the_golden_cases(name):
    c = read(GATE)[name]
    for key, found in quantize_gate(c["x"], c["form"])._asdict().items():
        assert np.array_equal(found, np.array(c[key])), key


def _wrong_norm(c: dict[str, Any], how: str) -> Any:
    """Codes, scale and sums by another recipe, in plain NumPy."""
    one = np.float32
    h = one(c["x"]) + one(c.get("residual", 0))
    h = h if how == "h is not rounded" else round_to(h, c["form"])
    squares = h * h
    if how == "epsilon outside":
        r = one(1) / (np.sqrt(squares.mean(1, dtype=one)) + one(c["epsilon"]))
    else:
        r = one(1) / np.sqrt(squares.mean(1, dtype=one) + one(c["epsilon"]))
    y = h * one(r)[:, None]
    y = round_to(y, c["form"]) if how == "rounded before the weight" else y
    return quantize(round_to(y * one(c["weight"]), c["form"]), c["form"])


@pytest.mark.parametrize("how", ["h is not rounded", "epsilon outside", "rounded before the weight"])
def test_norms_tell_wrong_recipes_apart(how):
    """Else a model with that error could pass."""
    seen = []
    for name, c in read(NORM).items():
        if np.isfinite(c["scale"]).all() and c["form"] == "float16":
            with np.errstate(all="ignore"):
                wrong = _wrong_norm(c, how)
            seen += [name] if any(not np.array_equal(v, np.array(c[k])) for k, v in wrong._asdict().items()) else []
    assert seen


def test_squares_are_summed_in_the_stated_order():
    """By fma: neither in another order nor with rounded squares is it always the same sum."""
    draw = np.random.default_rng(20)
    rows = draw.normal(0, 1, (8, 600)).astype(np.float32)  # squares of up to 48 bits
    found = [sum_of_squares(row) for row in rows]
    assert found == [float(exact.token_sum([Fraction(float(v)) for v in row], squares=True)) for row in rows]
    assert found != [token_sum(row * row) for row in rows]
    assert found != [np.cumsum(row * row)[-1] for row in rows]
    assert found != [np.float32((row.astype(np.float64) ** 2).sum()) for row in rows]


def test_the_weight_comes_after_the_root():
    """Of 2000 values some show which product is rounded first; the codes hardly do."""
    c = norm_case(21, 2000)
    found = normalized(c["x"], c["weight"][0], 1e-5)[1]
    assert np.array_equal(found[0], [float(v) for v in exact.normalized(c["x"][0], c["weight"][0], 1e-5, "float16")])
    squares = np.array([sum_of_squares(row) for row in c["x"]], np.float32)
    r = np.float32(1) / np.sqrt(squares / np.float32(2000) + np.float32(1e-5))
    assert np.array_equal(found, round_to(c["x"] * r[:, None] * c["weight"], "float16"))
    assert not np.array_equal(found, round_to(c["x"] * (r[:, None] * c["weight"]), "float16"))


def _wrong_gate(x: Any, how: str) -> Any:
    one = np.float32
    gate, up = np.split(one(x), 2, axis=1)
    with np.errstate(all="ignore"):
        if how == "division":
            y = gate / (one(1) + np.exp(-gate)) * up
        elif how == "rounded between":
            y = round_to(gate / (one(1) + np.exp(-gate)), "float16") * up
        else:
            y = gate * up / (one(1) + np.exp(-gate)) if how == "product first" else up / (one(1) + np.exp(-up)) * gate
    return quantize(round_to(np.clip(y, -65504, 65504), "float16"))


@pytest.mark.parametrize("how", ["division", "rounded between", "product first", "gates behind"])
def test_gates_tell_wrong_recipes_apart(how):
    """Else a model with that error could pass."""
    seen = []
    for name, c in read(GATE).items():
        if c["form"] == "float16":
            wrong = _wrong_gate(c["x"], how)
            seen += [name] if any(not np.array_equal(v, np.array(c[k])) for k, v in wrong._asdict().items()) else []
    assert seen


@pytest.mark.parametrize("form", ["float16", "bfloat16"])
def test_norm_and_gate_are_what_they_say(form):
    """Against float64: within a unit of the 16-bit form and a few of float32."""
    draw = np.random.default_rng(7)
    unit = 2.0**-11 if form == "float16" else 2.0**-8
    x, weight = round_to(draw.normal(0, 4, (5, 512)), form), round_to(draw.normal(1, 0.2, 512), form)
    wide = x.astype(np.float64)
    exactly = wide / np.sqrt((wide**2).mean(1, keepdims=True) + 1e-5) * weight
    assert np.all(np.abs(normalized(x, weight, 1e-5, form)[1] - exactly) <= np.abs(exactly) * unit * 1.01 + 2.0**-25)
    gate, up = np.split(wide, 2, axis=1)
    exactly = gate / (1 + np.exp(-gate)) * up
    assert np.all(np.abs(gated(x, form) - exactly) <= np.abs(exactly) * unit * 1.01 + 2.0**-25)


def test_silu_of_every_float16():
    """Relative error at most 2^-21 + |gate| 2^-25 from -87 on; below, next to nothing; the twin gives the same."""
    gates = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    gates = gates[np.isfinite(gates)]
    found = np.array([silu(gate) for gate in gates], np.float64)
    with np.errstate(over="ignore"):
        wanted = gates / (1 + np.exp(-gates.astype(np.float64)))
    near = gates >= -87
    bound = np.abs(wanted) * (2.0**-21 + np.abs(gates) * 2.0**-25) + 2.0**-149
    assert np.all((np.abs(found - wanted) <= bound)[near])
    assert np.abs(found[~near]).max() < 1.5e-36
    for gate, value in zip(gates[::97], found[::97], strict=True):
        assert value == float(exact.silu(Fraction(float(gate))))


def test_overflow_is_told_by_the_scale():
    """A residual that leaves float16 makes its token NaN, not others."""
    x = np.array([[60000.0, 1.0], [1.0, 2.0]])
    tokens, h = quantize_norm(x, np.ones(2), 1e-5, "float16", x)
    assert h[0, 0] == np.inf
    assert np.isnan(tokens.scale[0])
    assert np.isnan(tokens.sums[0])
    assert not tokens.codes[0].any()
    assert np.isfinite(tokens.scale[1])


def test_faults_are_told_with_their_place():
    x = np.ones((2, 8), np.float32)
    with pytest.raises(ValueError, match=r"weight: must be \[8\], got \(7,\)"):
        quantize_norm(x, np.ones(7), 1e-5)
    with pytest.raises(ValueError, match=r"residual: must be \(2, 8\), got \(1, 8\)"):
        quantize_norm(x, np.ones(8), 1e-5, residual=x[:1])
    with pytest.raises(ValueError, match="residual: must be finite float16 values, token 0 has others"):
        quantize_norm(x, np.ones(8), 1e-5, residual=x / 10)
    with pytest.raises(ValueError, match="must be gates and as many others, got 7 channels"):
        quantize_gate(x[:, :7])
