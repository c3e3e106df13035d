"""Sana's linear attention: golden cases in exact fractions, errors that they tell apart, float64, properties."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.arithmetic import round_to
from gpu_kernels.exact_rounding import exact as number
from gpu_kernels.exact_rounding import to_float32, to_form
from gpu_kernels.linear_attention import exact, reference
from gpu_kernels.linear_attention.model import CHUNK, EPSILON, apply, attention, state
from tests.gpu_kernels.golden_cases import read, told, told_exact

GOLDEN = Path(__file__).parent / "golden" / "linear_attention.json"


def case(query: Any, key: Any, value: Any, epsilon: float = 1e-6, form: str = "float16") -> dict[str, Any]:
    """One head: query [n, D], key and value [tokens, D], rounded to the form."""
    rounded = {k: round_to(x, form) for k, x in (("query", query), ("key", key), ("value", value))}
    return rounded | {"epsilon": epsilon, "form": form}


def drawn(seed: int, tokens: int, size: int, queries: int = 2, **rest: Any) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    return case(draw.normal(size=(queries, size)), *draw.normal(size=(2, tokens, size)), **rest)


def many(seed: int, tokens: int, last: float = 0.0) -> dict[str, Any]:
    """Two channels of short numbers, whose sums need more than 24 bits; the last key may be another one."""
    draw = np.random.default_rng(seed)
    key, value = draw.integers(-2, 16, (tokens, 2)) / 8, draw.integers(0, 2000, (tokens, 2))
    key[:, 1] += 2.0**-9
    if last:
        key[-1] = last
    return case([[0.75, 1.25]], key, value)


def cancelling() -> dict[str, Any]:
    """Channels that cancel in pairs: what is left shows each rounding of the sum."""
    draw = np.random.default_rng(5)
    key = np.eye(6) * np.tile(draw.uniform(1, 2, 3), 2)
    value = np.tile(draw.normal(size=(3, 6)), (2, 1))
    value[3:] *= -draw.uniform(0.999, 1.001, (3, 6))
    return case(np.tile(draw.uniform(1, 2, (3, 3)), 2), key, value)


def sums(seed: int, form: str = "float16") -> dict[str, Any]:
    """A large first token, so that what follows is rounded in its last places."""
    key, value = np.random.default_rng(seed).normal(size=(2, 9, 3))
    key[0] = value[0] = 300, -500, 700
    return case([[1, 2, 3]], key, value, form=form)


CASES = {
    "one_token": drawn(1, 1, 4),
    "tokens": drawn(2, 7, 4),
    "head_of_32": drawn(3, 3, 32, 1),
    "odd_size": drawn(4, 5, 5),
    "size_1": drawn(5, 6, 1, 3),
    "cross": drawn(6, 2, 4, 5),
    "large_first": sums(7),
    "cancelling": cancelling(),
    "divided": drawn(1253, 3, 4, 4),
    "no_positive_query": case([[-1.0, -2, -0.5, 0]], *np.random.default_rng(8).normal(size=(2, 4, 4))),
    "no_positive_key": case([[1.0, 2, 3]], [[-1.0, -2, 0]], [[5.0, 6, 7]]),
    "disjoint": case([[1.0, -2, 3]], [[-1.0, 5, -3], [0, 2, 0]], [[5.0, 6, 7], [1, 1, 1]]),
    "divisor_near_epsilon": case([[2.0**-10, 2.0**-9]], [[2.0**-10, 2.0**-11], [2.0**-9, 0]], [[3.0, -5], [7, 11]]),
    "diffusers_epsilon": case([[2.0**-10, 2.0**-9]], [[2.0**-10, 2.0**-11], [2.0**-9, 0]], [[3.0, -5], [7, 11]], 1e-15),
    "subnormal_operands": case([[2.0**-24, 2.0**-20]], [[2.0**-24, 3 * 2.0**-24]], [[1000.0, -999]], 1e-15),
    "largest_values": case([[65504.0, 1]], [[65504.0, 65504], [60000, 3]], [[65504.0, -65504], [65504, 65504]]),
    "chunk_255": many(9, 255),
    "chunk_256": many(10, 256, 700.0),
    "chunk_257": many(11, 257, 700.0),
    "chunks_3": many(14, 600),
    "bfloat16": drawn(13, 6, 4, form="bfloat16"),
    "bfloat16_large_first": sums(14, "bfloat16"),
    "bfloat16_beyond_65504": case([[1.0, 2]], [[3.0, 4]], [[1e6, -3e8]], form="bfloat16"),
}


def by_twin(c: dict[str, Any]) -> dict[str, Any]:
    states = exact.state(c["key"], c["value"])
    output = [exact.output(q, states, c["epsilon"], c["form"]) for q in c["query"]]
    return {"state": told_exact(states), "y": told_exact(output)}


def by_model(c: dict[str, Any]) -> dict[str, Any]:
    query, key, value = (np.float32(c[name])[None, None] for name in ("query", "key", "value"))
    states = state(key, value, c["form"])
    return {"state": states[0, 0], "y": apply(query, states, c["epsilon"], c["form"])[0, 0]}


def as_told(c: dict[str, Any]) -> dict[str, Any]:
    """Tokens as columns: few rows."""
    rows = {
        k: told(np.asarray(v).T if k in ("key", "value") else v) for k, v in c.items() if k not in ("epsilon", "form")
    }
    return rows | {k: c[k] for k in ("epsilon", "form") if k in c}


def golden_cases() -> dict[str, Any]:
    return {n: c | {"key": c["key"].T, "value": c["value"].T} for n, c in read(GOLDEN).items()}


def test_twin_gives_the_golden_cases(golden):
    assert len(CASES) >= 20
    golden(GOLDEN, {name: as_told(c) | as_told(by_twin(c)) for name, c in CASES.items()})


@pytest.mark.parametrize("name", CASES)
def test_model_gives_the_golden_cases(name):
    written = golden_cases()[name]
    assert all(np.array_equal(found, written[key]) for key, found in by_model(written).items())


def rounded_products(a: Any, b: Any) -> Any:
    acc = Fraction(0)
    for x, y in zip(a, b, strict=True):
        acc = to_float32(acc + to_float32(x * y))
    return acc


def sums_in_16_bits(keys: Any, values: Any) -> Any:
    return [[to_form(x, "float16") for x in row] for row in RIGHT["state"](keys, values)]


def last_chunk_first(keys: Any, values: Any) -> Any:
    chunks = [exact.chunk_state(keys[t : t + CHUNK], values[t : t + CHUNK]) for t in range(0, len(keys), CHUNK)]
    total = chunks[-1]
    for chunk in chunks[-2::-1]:
        total = [[to_float32(a + b) for a, b in zip(x, y, strict=True)] for x, y in zip(total, chunk, strict=True)]
    return total


def reciprocal(query: Any, states: Any, epsilon: Any, form: str) -> Any:
    positive = [exact.relu(q) for q in query]
    *numerators, divisor = [exact.dot(positive, row) for row in states]
    inverse = to_float32(1 / to_float32(divisor + to_float32(number(epsilon))))
    return [to_form(to_float32(n * inverse), form) for n in numerators]


def descending(a: Any, b: Any) -> Any:
    return RIGHT["dot"](a[::-1], b[::-1])


def no_epsilon(query: Any, states: Any, epsilon: Any, form: str) -> Any:
    return RIGHT["output"](query, states, Fraction(1, 2**149), form)


RIGHT = {name: getattr(exact, name) for name in ("dot", "output", "state", "relu")}
WRONG = {
    "products rounded": {"dot": rounded_products},
    "descending": {"dot": descending},
    "state in 16 bits": {"state": sums_in_16_bits},
    "one chunk": {"state": exact.chunk_state},
    "last chunk first": {"state": last_chunk_first},
    "no relu": {"relu": number},
    "no epsilon": {"output": no_epsilon},
    "times the reciprocal": {"output": reciprocal},
}


@pytest.mark.parametrize("how", WRONG)
def test_cases_tell_wrong_arithmetic_apart(how, monkeypatch):
    """Else a model with that error could pass."""
    for name, function in WRONG[how].items():
        monkeypatch.setattr(exact, name, function)
    chunked = how in ("one chunk", "last chunk first")
    written = {n: c for n, c in golden_cases().items() if n.startswith("chunk") == chunked and not n.startswith("no_")}
    assert any(not np.array_equal(x, c[key]) for c in written.values() for key, x in by_twin(c).items())


def operands(seed: int, *shape: int, form: str = "float16", spread: float = 1.0) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [round_to(draw.normal(0, spread, shape), form) for _ in range(3)]


@pytest.mark.parametrize("form", ["float16", "bfloat16"])
@pytest.mark.parametrize(("tokens", "spread"), [(2, 1.0), (300, 1.0), (1024, 0.01), (64, 100.0)])
def test_float64_within_the_bound(form, tokens, spread):
    """Which the errors come near to: it is little more than the rounding to 16 bits."""
    query, key, value = operands(tokens, 2, 2, tokens, 32, form=form, spread=spread)
    error = np.abs(attention(query, key, value, form=form) - reference.attention(query, key, value))
    ratio = error / reference.bound(query, key, value, form=form)
    assert 0.3 < ratio.max() <= 1


def test_state_is_near_float64():
    _, key, value = operands(1, 1, 2, 700, 16)
    wide = np.concatenate([value, np.ones((1, 2, 700, 1))], axis=-1).astype(float)
    k = np.maximum(key, 0).astype(float)
    error = np.abs(state(key, value) - wide.swapaxes(-1, -2) @ k)
    assert (error <= 260 * 2.0**-24 * np.abs(wide).swapaxes(-1, -2) @ k).all()


@given(st.integers(0, 2**32), st.integers(1, 300), st.sampled_from(("float16", "bfloat16")))
@settings(max_examples=10, deadline=None)
def test_heads_queries_and_powers_of_two(seed, tokens, form):
    """Heads do not know each other; queries keep their order; values times two give twice the output."""
    query, key, value = operands(seed, 2, 2, tokens, 8, form=form)
    y = attention(query, key, value, form=form)
    assert np.array_equal(attention(query[:, ::-1], key[:, ::-1], value[:, ::-1], form=form), y[:, ::-1])
    assert np.array_equal(attention(query[:, :, ::-1], key, value, form=form), y[:, :, ::-1])
    assert np.array_equal(attention(query[:1, 1:], key[:1, 1:], value[:1, 1:], form=form), y[:1, 1:])
    assert np.abs(y).max() <= np.abs(value).max()  # a mean: what is clipped never comes from finite states


def test_epsilons_differ_only_where_the_divisor_is_small():
    """A head without a positive query gives 0 with both."""
    query, key, value = operands(2, 1, 1, 50, 32)
    query[0, 0, :5] = -np.abs(query[0, 0, :5])
    one, other = (attention(query, key, value, epsilon) for epsilon in EPSILON.values())
    assert np.array_equal(one, other)
    assert not one[0, 0, :5].any()
    small = [round_to(x * 2.0**-12, "float16") for x in (query, key)]
    one, other = (attention(*small, value, epsilon) for epsilon in EPSILON.values())
    assert np.abs(one).max() < np.abs(other).max()


def test_an_infinite_state_is_clipped():
    """Nunchaku's float16 outputs never become infinite; bfloat16 has room."""
    states = np.ones((1, 1, 2, 1), np.float32)
    states[0, 0, 0] = 1e30
    found = [apply(np.ones((1, 1, 1, 1)), sign * states, 1e-6, form) for form in ("float16",) for sign in (1,)]
    assert [x.item() for x in found] == [65504]
    states[0, 0, 0] *= -1
    assert apply(np.ones((1, 1, 1, 1)), states).item() == -65504
    assert apply(np.ones((1, 1, 1, 1)), states, form="bfloat16").item() == pytest.approx(-1e30, rel=2.0**-8)


def test_faults_are_told_with_their_place():
    query, key, value = operands(3, 1, 1, 4, 8)
    with pytest.raises(ValueError, match=r"key: must be \[B, heads, tokens, D\], none of them 0, got \(1, 4, 8\)"):
        attention(query, key[0], value)
    with pytest.raises(ValueError, match=r"value: must have key's shape \(1, 1, 4, 8\), got \(1, 1, 2, 8\)"):
        attention(query, key, value[:, :, :2])
    with pytest.raises(ValueError, match=r"states: must have shape \(1, 1, 9, 8\), got \(1, 1, 8, 8\)"):
        apply(query, np.zeros((1, 1, 8, 8)))
    with pytest.raises(ValueError, match="query: must be finite float16 values"):
        attention(query + np.float32(1e-7), key, value)
    with pytest.raises(ValueError, match=r"epsilon must be within 0\.\.1"):
        attention(query, key, value, 0.0)
    with pytest.raises(ValueError, match="form: must be one of float16, bfloat16, got 'fp16'"):
        attention(query, key, value, form="fp16")
