"""KV4 decode attention: golden cases in exact fractions, and the errors that they tell apart."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.arithmetic import round_to
from gpu_kernels.exact_rounding import exact as number
from gpu_kernels.exact_rounding import to_float16, to_float32
from gpu_kernels.kv4_attention import exact
from gpu_kernels.kv4_attention.model import Vectors, decode, quantize
from tests.gpu_kernels.golden_cases import read, told, told_exact

GOLDEN = Path(__file__).parent / "golden" / "kv4_attention.json"
CACHE = ("codes", "scale", "zero")


def case(query: Any, key: Any, value: Any, keys: Vectors, values: Vectors, **rest: Any) -> dict[str, Any]:
    """One sequence: query [heads, D], key and value [kv heads, D], caches [kv heads, T, ...]; codes as [heads T, D]."""
    found = {"query": query, "key": key, "value": value}
    for name, cache in (("keys", keys), ("values", values)):
        codes = np.asarray(cache.codes).reshape(-1, np.shape(query)[1])
        found |= {f"{name}_codes": codes, f"{name}_scale": cache.scale, f"{name}_zero": cache.zero}
    return found | {"cosine": None, "sine": None, "kept": None} | rest


def numbers(draw: np.random.Generator, *shape: int, spread: float = 1.0) -> np.ndarray:
    return round_to(draw.normal(0, spread, shape), "float16")


def drawn(seed: int, heads: int, kv_heads: int, tokens: int, size: int = 32, spread: float = 1.0, **rest: Any) -> Any:
    """Normal numbers; the cache holds the quantized ones."""
    draw = np.random.default_rng(seed)
    query, key, value = numbers(draw, heads, size, spread=spread), *numbers(draw, 2, kv_heads, size)
    keys, values = (quantize(numbers(draw, kv_heads, tokens, size)) for _ in range(2))
    return case(query, key, value, keys, values, **rest)


def turned(operands: dict[str, Any], position: int) -> dict[str, Any]:
    """The same with a rotary embedding, cosine and sine as rows of one."""
    size = operands["query"].shape[1]
    angle = (position / 10000.0 ** (np.arange(0, size, 2) / size)).reshape(1, -1)
    return operands | {"cosine": np.float32(np.cos(angle)), "sine": np.float32(np.sin(angle))}


def long_context() -> dict[str, Any]:
    """More tokens than the block has threads; few codes, but a scale of its own for each token."""
    draw = np.random.default_rng(40)
    codes = [np.repeat(draw.integers(0, 16, (1, 270, 2)), 16, axis=2).astype(np.uint8) for _ in range(2)]
    scale, zero = (round_to(draw.uniform(*ends, (2, 1, 270)), "float16") for ends in ((0.02, 0.2), (3, 12)))
    caches = [Vectors(c, scale[i], zero[i]) for i, c in enumerate(codes)]
    return case(*(numbers(draw, 1, 32) for _ in range(3)), *caches)


def constant(*values: float) -> dict[str, Any]:
    """New key and value that are constant vectors."""
    operands = drawn(41, 1, 1, 2)
    return operands | {"key": np.full((1, 32), values[0]), "value": np.full((1, 32), values[1])}


def scaled(seed: int, factor: float, part: str) -> dict[str, Any]:
    operands = drawn(seed, 1, 1, 3)
    return operands | {part: round_to(operands[part] * factor, "float16")}


def cancelling() -> dict[str, Any]:
    """Lanes 0 and 2 are some 65000 and cancel, lane 1 is small: added to one of them first, it loses its low bits."""
    draw = np.random.default_rng(43)
    query, codes = np.zeros((1, 32)), np.zeros((1, 12, 32), np.uint8)
    query[0, [0, 8, 16]] = 480, 2.0**-10, -480
    codes[..., [0, 8, 16]] = 15, 1, 15
    keys = Vectors(codes, round_to(draw.uniform(8.5, 9, (1, 12)), "float16"), np.zeros((1, 12), np.float32))
    values = quantize(numbers(draw, 1, 12, 32))
    return case(query, np.zeros((1, 32)), numbers(draw, 1, 32), keys, values)


def shares(seed: int) -> dict[str, Any]:
    """Element i of the output is the probability of token i; seeds are such that its last bit tells."""
    scale = round_to(np.random.default_rng(seed).uniform(0.01, 1.2, (2, 11))[1:], "float16")
    codes, zero = np.zeros((1, 11, 32), np.uint8), np.zeros((1, 11), np.float32)
    codes[..., 0] = 15
    values = Vectors(np.eye(11, 32, dtype=np.uint8)[None], np.ones_like(scale), zero)
    return case(np.eye(1, 32), np.zeros((1, 32)), np.eye(1, 32, 11), Vectors(codes, scale, zero), values)


def far_from_zero() -> dict[str, Any]:
    """Vectors of |x| above 1000 steps: a code that rounds to 16 wraps to 0."""
    far = round_to(1000 + np.random.default_rng(1).normal(size=(2, 32)), "float16")
    return drawn(42, 1, 1, 2) | {"key": far[:1], "value": -far[1:]}


CASES = {
    "one_cached": drawn(1, 1, 1, 1),
    "nothing_cached": drawn(2, 1, 1, 0),
    "few": drawn(3, 1, 1, 5),
    "grouped": drawn(4, 4, 2, 3),
    "multi_query": drawn(5, 3, 1, 4),
    "multi_head": drawn(6, 2, 2, 4),
    "size_64": drawn(7, 1, 1, 4, 64),
    "size_128": drawn(8, 1, 1, 3, 128),
    "size_256": drawn(9, 1, 1, 2, 256),
    "more_tokens_than_groups": drawn(10, 1, 1, 19, 128),
    "long_context": long_context(),
    "rotated": turned(drawn(11, 2, 1, 2), 7),
    "rotated_far": turned(drawn(12, 2, 1, 2), 4095),
    "kept": drawn(13, 2, 2, 6, kept=[[0, 2, 5], [4]]),
    "kept_none": drawn(14, 1, 1, 3, kept=[[]]),
    "peaked": drawn(15, 1, 1, 6, spread=12.0),
    "flat": drawn(16, 1, 1, 7, spread=0.01),
    "far_scores": drawn(17, 1, 1, 3, spread=300.0),
    "constant": constant(1.5, -0.25),
    "zeros": constant(0.0, 0.0),
    "subnormal_step": constant(2.0**-24, 2.0**-14) | {"query": drawn(18, 1, 1, 0)["query"]},
    "small_query": scaled(19, 2.0**-14, "query"),
    "small_values": scaled(20, 2.0**-12, "value"),
    "cancelling": cancelling(),
    "shares_59": shares(59),
    "shares_154": shares(154),
    "wrapped": far_from_zero(),
    "wide_range": scaled(21, 9000.0, "value"),
}


def parts(operands: dict[str, Any]) -> tuple[list[Any], list[Vectors]]:
    """(query, key, value), caches with a sequence axis of 1."""
    vectors = [np.float32(operands[name])[None] for name in ("query", "key", "value")]
    heads, size = vectors[1].shape[1:]
    caches = []
    for name in ("keys", "values"):
        codes, scale, zero = (np.array(operands[f"{name}_{part}"]) for part in CACHE)
        shape = (1, heads, -1)
        tokens = codes.size // (heads * size)
        flat = codes.astype(np.uint8).reshape(1, heads, tokens, size)
        caches.append(Vectors(flat, np.float32(scale).reshape(shape), np.float32(zero).reshape(shape)))
    return vectors, caches


def by_model(operands: dict[str, Any]) -> dict[str, Any]:
    vectors, caches = parts(operands)
    angles = None if operands["cosine"] is None else (operands["cosine"], operands["sine"])
    kept = operands["kept"] and [[np.array(own) for own in operands["kept"]]]
    step = decode(*vectors, *caches, np.array([caches[0].codes.shape[2]]), angles, kept)
    new = {"new_key": step.key, "new_value": step.value}
    return {"y": step.output[0]} | {f"{n}_{p}": x[0] for n, v in new.items() for p, x in zip(CACHE, v, strict=True)}


def by_twin(operands: dict[str, Any]) -> dict[str, Any]:
    (query, key, value), caches = (np.squeeze(x, 0) for x in parts(operands)[0]), parts(operands)[1]
    if operands["cosine"] is not None:
        angles = operands["cosine"][0], operands["sine"][0]
        query, key = ([exact.rotated(row, *angles) for row in rows] for rows in (query, key))
    output = []
    for h, row in enumerate(query):
        own = h * len(key) // len(query)
        cache = [[part[0, own] for part in c] for c in caches]
        tokens = range(len(cache[0][0])) if operands["kept"] is None else operands["kept"][own]
        output.append(exact.head(row, key[own], value[own], *cache, tokens))
    found = {"y": told_exact(output)}
    for name, vectors in (("new_key", key), ("new_value", value)):
        codes, scale, zero = zip(*(exact.quantized(x) for x in vectors), strict=True)
        found |= {
            f"{name}_codes": codes,
            f"{name}_scale": list(map(float, scale)),
            f"{name}_zero": list(map(float, zero)),
        }
    return found


def as_told(operands: dict[str, Any]) -> dict[str, Any]:
    return {key: value if key == "kept" else told(value) for key, value in operands.items()}


def test_twin_gives_the_golden_cases(golden):
    assert len(CASES) >= 20
    golden(GOLDEN, {name: as_told(c) | as_told(by_twin(c)) for name, c in CASES.items()})


@pytest.mark.parametrize("name", CASES)
def test_model_gives_the_golden_cases(name):
    written = read(GOLDEN)[name]
    for key, found in by_model(written).items():
        assert np.array_equal(found, np.array(written[key])), key


def half_of_lane_in_float32(q: Any, k: Any) -> Any:
    return to_float32(sum(a * b for a, b in zip(q, k, strict=True)))


def plain_order(q: Any, k: Any) -> Any:
    """Pairs 01, 23, 45, 67: without the permutation of the conversion."""
    lanes = []
    for i in range(0, len(q), 8):
        halves = [RIGHT["half_of_lane"](q[i + h : i + 8 : 2], k[i + h : i + 8 : 2]) for h in (0, 1)]
        lanes.append(to_float16(halves[0] + halves[1]))
    return exact.butterfly(lanes)


def neighbours_first(lanes: Any) -> Any:
    """Distance 1, 2, 4, ... instead of from the middle."""
    while len(lanes) > 1:
        lanes = [to_float32(a + b) for a, b in zip(lanes[::2], lanes[1::2], strict=True)]
    return lanes[0]


def zero_as_integer(codes: Any, scale: Any, zero: Any) -> Any:
    return RIGHT["dequantized"](codes, scale, round(float(zero)))


def rounded_twice(codes: Any, scale: Any, zero: Any) -> Any:
    s, z = number(scale), number(zero)
    return [to_float16(to_float16(int(c) * s) - to_float16(s * z)) for c in codes]


def difference_first(codes: Any, scale: Any, zero: Any) -> Any:
    return [to_float16(to_float16(int(c) - number(zero)) * number(scale)) for c in codes]


def weighted_in_a_row(probabilities: Any, values: Any) -> Any:
    """Token groups, but added one after another."""
    size = len(values[0])
    groups = [[Fraction(0)] * size for _ in range(2048 // size)]
    for i, (p, v) in enumerate(zip(probabilities, values, strict=True)):
        own = i % len(groups)
        groups[own] = [to_float32(p * x + acc) for x, acc in zip(v, groups[own], strict=True)]
    total = groups[0]
    for one in groups[1:]:
        total = [to_float32(a + to_float16(b)) for a, b in zip(total, one, strict=True)]
    return [to_float16(x) for x in total]


def weighted_in_float32(probabilities: Any, values: Any) -> Any:
    acc = [Fraction(0)] * len(values[0])
    for p, v in zip(probabilities, values, strict=True):
        acc = [to_float32(p * x + a) for x, a in zip(v, acc, strict=True)]
    return [to_float16(x) for x in acc]


def softmax_in_a_row(scores: Any) -> Any:
    e, total = [exact.exponential(to_float32(s - max(scores))) for s in scores], Fraction(0)
    for value in e:
        total = to_float32(total + value)
    inverse = to_float32(1 / to_float32(total + exact.EPSILON))
    return [to_float16(to_float32(value * inverse)) for value in e]


def softmax_divided(scores: Any) -> Any:
    """e / sum instead of e times the reciprocal."""
    e = [exact.exponential(to_float32(s - max(scores))) for s in scores]
    return [to_float16(to_float32(value / to_float32(sum(e) + exact.EPSILON))) for value in e]


def saturated(x: Any) -> Any:
    values = [number(v) for v in x]
    _, scale, zero = RIGHT["quantized"](x)
    return [min(max(round(to_float32(v * to_float32(1 / scale) + zero)), 0), 15) for v in values], scale, zero


def divided(x: Any) -> Any:
    """x / scale rounded before the zero is added."""
    values = [number(v) for v in x]
    _, scale, zero = RIGHT["quantized"](x)
    found = [min(max(round(to_float32(v / scale)) + round(zero), 0), 255) % 16 for v in values]
    return found, scale, zero


RIGHT = {name: getattr(exact, name) for name in ("half_of_lane", "dequantized", "quantized")}
WRONG: dict[str, dict[str, Any]] = {
    "float32 instead of float16 fma": {"half_of_lane": half_of_lane_in_float32},
    "elements not permuted": {"cached_score": plain_order},
    "new key as the cached ones": {"new_score": lambda q, k: exact.cached_score(q, k)},
    "butterfly from the neighbours": {"butterfly": neighbours_first},
    "zero an integer": {"dequantized": zero_as_integer},
    "dequantized with two roundings": {"dequantized": rounded_twice},
    "zero subtracted first": {"dequantized": difference_first},
    "no root of D": {"factor": lambda size: Fraction(1)},
    "groups in a row": {"weighted": weighted_in_a_row},
    "no float16 in the tree": {"weighted": weighted_in_float32},
    "softmax sum in a row": {"softmax": softmax_in_a_row},
    "divided by the sum": {"softmax": softmax_divided},
    "no 1e-6": {"EPSILON": Fraction(0)},
    "nibble saturated": {"quantized": saturated},
    "zero added after rounding": {"quantized": divided},
}


@pytest.mark.parametrize("how", WRONG)
def test_cases_tell_wrong_arithmetic_apart(how, monkeypatch):
    """Else a model with that error could pass."""
    for name, function in WRONG[how].items():
        monkeypatch.setattr(exact, name, function)
    written = read(GOLDEN)
    assert any(not same(by_twin(CASES[name]), written[name]) for name in reversed(CASES))


def same(found: dict[str, Any], written: dict[str, Any]) -> bool:
    return all(np.array_equal(value, np.array(written[key])) for key, value in found.items())
