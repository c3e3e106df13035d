"""SpAtten's attention: golden heads in exact fractions, and the errors that they tell apart."""

from collections.abc import Callable
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataflow.spatten.modules.softmax import accumulate, exponential
from gpu_kernels.exact_rounding import to_float32
from tests.dataflow import spatten_exact as exact
from tests.dataflow.spatten_heads import POLICIES, run
from tests.gpu_kernels.golden_cases import read, row_text, told
from workloads.policy import Policy

GOLDEN = Path(__file__).parent / "golden" / "spatten_attention.json"
Case = tuple[Any, Any, Any, Policy]
MATRICES = ("query", "key", "value", "output", "probabilities")


def drawn(seed: int, queries: int, keys: int, size: int, policy: Policy, spread: float = 1.0) -> Case:
    """Normal numbers, rounded to 1/128."""
    draw = np.random.default_rng(seed)
    shapes = (queries, size), (keys, size), (keys, size)
    rows = [np.rint(draw.normal(0, s, shape) * 128) / 128 for s, shape in zip((spread, 1, 1), shapes, strict=True)]
    return rows[0], rows[1], rows[2], policy


def equal_keys(keys: int, policy: Policy) -> Case:
    """Probabilities alike, values not: the first ones are kept."""
    return np.ones((2, 4)), np.full((keys, 4), 0.5), np.arange(4.0 * keys).reshape(keys, 4), policy


def at_threshold(threshold: float) -> Case:
    """Four equal probabilities of 1024 / 4096."""
    return np.ones((1, 4)), np.ones((4, 4)), np.eye(4), Policy(key_msb_bits=6, key_lsb_bits=4, lsb_threshold=threshold)


def msb_alone(sign: float) -> Case:
    """Codes whose low bits decide: the MSBs of both keys are alike, or are one apart by rounding downwards."""
    key = sign * np.array([[31.0, 31, 31, 511], [16, 16, 16, 511]])
    return (
        np.full((2, 4), 40.0),
        key,
        np.array([[100.0, 0, 0, 1], [0, 100, 0, 1]]),
        Policy(query_bits=8, key_msb_bits=5, key_lsb_bits=5, lsb_threshold=0.6),
    )


WIDE = Policy(query_bits=12, key_msb_bits=10, key_lsb_bits=4, lsb_threshold=0.9)
CASES: dict[str, Case] = {
    "one_key": drawn(1, 1, 1, 4, POLICIES["static"]),
    "static": drawn(2, 2, 5, 8, POLICIES["static"]),
    "eight_bits": drawn(3, 2, 5, 8, POLICIES["8 bit"]),
    "six_and_four": drawn(4, 3, 9, 8, POLICIES["6+4"], 2.0),
    "eight_and_four": drawn(5, 3, 9, 8, POLICIES["8+4, local"], 2.0),
    "four_and_four": drawn(6, 3, 7, 8, POLICIES["4+4"], 1.5),
    "bits_cut_off": drawn(7, 2, 6, 8, WIDE),
    "sixteen_bits": drawn(8, 2, 5, 4, Policy(key_msb_bits=12, key_lsb_bits=4, lsb_threshold=1.0)),
    "odd_size": drawn(9, 2, 4, 5, POLICIES["static"]),
    "size_48": drawn(10, 1, 3, 48, POLICIES["static"]),
    "several_cycles": drawn(11, 1, 27, 4, POLICIES["static"]),
    "peaked": drawn(12, 2, 6, 8, POLICIES["6+4"], 30.0),
    "flat": drawn(13, 2, 6, 8, POLICIES["6+4"], 0.01),
    "underflow": drawn(14, 1, 4, 16, POLICIES["static"], 300.0),
    "zero_query": (np.zeros((2, 4)), *drawn(15, 1, 3, 4, POLICIES["static"])[1:]),
    "zero_values": (*drawn(16, 1, 3, 4, POLICIES["static"])[:2], np.zeros((3, 4)), POLICIES["static"]),
    "equal_keys": equal_keys(7, Policy(value_keep=0.4)),
    "equal_nine": equal_keys(9, Policy(value_bits=8)),
    "at_threshold": at_threshold(0.25),
    "above_threshold": at_threshold(0.2502),
    "low_bits_decide": msb_alone(1.0),
    "low_bits_of_negative": msb_alone(-1.0),
    "local_of_one_query": drawn(17, 1, 11, 4, Policy(value_keep=0.3)),
    "saturated": (np.ones((1, 4)), np.array([[9.0] * 4, [9.0] * 4, [-9.0] * 4]), -np.ones((3, 4)), POLICIES["static"]),
    "many_keys": drawn(18, 1, 120, 2, Policy(value_keep=0.5)),
}


def by_model(case: Case) -> dict[str, Any]:
    head = run(case[:3], case[3])
    return {
        "output": head.output.code.tolist(),
        "probabilities": head.probabilities.tolist(),
        "recomputed": head.recomputed.tolist(),
        "values_used": [own.tolist() for own in head.values_used],
        "importance": head.importance.tolist(),
        "scale": head.output.scale,
        "head_score": head.head_score,
    }


def as_told(case: Case, found: dict[str, Any]) -> dict[str, Any]:
    query, key, value, policy = case
    operands = {"policy": policy.model_dump(exclude_defaults=True), "query": told(query)}
    operands |= {"key": told(key), "value": told(value)}
    rows = {k: [row_text(row) for row in v] if k in MATRICES else v for k, v in found.items()}
    return operands | rows | {"values_used": [row_text(row) for row in found["values_used"]]}


def written() -> dict[str, tuple[Case, dict[str, Any]]]:
    """Cases and results as the file has them."""
    found = {}
    for name, c in read(GOLDEN).items():
        case = c["query"], c["key"], c["value"], Policy(**c["policy"])
        result = {k: v for k, v in c.items() if k not in ("query", "key", "value", "policy")}
        found[name] = case, result
    return found


def same(found: dict[str, Any], result: dict[str, Any]) -> bool:
    return all(np.array_equal(np.array(found[k]), np.array(result[k])) for k in result)


def test_twin_gives_the_golden_heads(golden: Callable[..., None]) -> None:
    assert len(CASES) >= 20
    golden(GOLDEN, {name: as_told(case, exact.head(*case)) for name, case in CASES.items()})


@pytest.mark.parametrize("name", CASES)
def test_modules_give_the_golden_heads(name: str) -> None:
    case, result = written()[name]
    assert same(by_model(case), result)


def polynomial_rounded_twice(x: Any) -> Any:
    """Multiplications and additions instead of fma."""
    n = round(to_float32(x * exact.LOG2_E))
    r = to_float32(to_float32(x - to_float32(exact.LN2_HIGH * n)) - to_float32(exact.LN2_LOW * n))
    p = exact.TAYLOR[5]
    for coefficient in exact.TAYLOR[4::-1]:
        p = to_float32(to_float32(r * p) + coefficient)
    return p * Fraction(2) ** n


def fourth_order(x: Any) -> Any:
    n = round(to_float32(x * exact.LOG2_E))
    r, p = to_float32(x - exact.LN2 * n), exact.TAYLOR[4]
    for coefficient in exact.TAYLOR[3::-1]:
        p = to_float32(r * p + coefficient)
    return p * Fraction(2) ** n if n >= -126 else Fraction(0)


def in_a_row(e: Any) -> Any:
    total = Fraction(0)
    for one in e:
        total = to_float32(total + one)
    return total


def towards_zero(code: int, bits: int) -> int:
    return int(code * Fraction(2) ** (12 - bits))


def last_ones(p: list[int], keep: float) -> list[int]:
    return sorted(len(p) - 1 - i for i in RIGHT["used"](p[::-1], keep))


RIGHT = {name: getattr(exact, name) for name in ("used", "probabilities", "words")}
WRONG: dict[str, dict[str, Any]] = {
    "order 4": {"exponential": fourth_order},
    "truncated word": {"probabilities": lambda q, k, f: [max(0, p - 1) for p in RIGHT["probabilities"](q, k, f)]},
    "cut towards zero": {"words": towards_zero},
    "the last of equals": {"used": last_ones},
    "all values": {"used": lambda p, keep: list(range(len(p)))},
    "half to even": {"rounded": lambda t: min(max(round(Fraction(t, 4096)), -2047), 2047)},
    "output cut": {"rounded": lambda t: min(max(floor(Fraction(t, 4096)), -2047), 2047)},
    "output may be -2048": {"rounded": lambda t: floor(Fraction(t, 4096) + Fraction(1, 2)) - (t < -2046 * 4096)},
    "no root of D": {"sqrt": lambda size: 1.0},
}


@pytest.mark.parametrize("how", WRONG)
def test_heads_tell_wrong_arithmetic_apart(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a model with that error could pass."""
    for name, function in WRONG[how].items():
        monkeypatch.setattr(exact, name, function)
    assert any(not same(exact.head(*case), result) for case, result in written().values())


def test_exponential_is_that_of_the_module_and_rounds_once() -> None:
    """Bit for bit: words of 12 bits do not show its last places. Separate multiplications would differ."""
    draw = np.random.default_rng(0)
    x = -draw.exponential(20, 300).astype(np.float32)
    twin = [exact.exponential(Fraction(float(v))) for v in x]
    assert [float(exponential(v)) for v in x] == [float(v) for v in twin]
    assert twin != [polynomial_rounded_twice(Fraction(float(v))) for v in x]


def test_sum_is_that_of_the_lanes() -> None:
    """In a row it would often come out otherwise."""
    rows = np.random.default_rng(1).random((12, 43)).astype(np.float32)
    fractions = [[Fraction(float(v)) for v in row] for row in rows]
    twin = [exact.lanes_sum(row) for row in fractions]
    assert [float(accumulate(row, 8)) for row in rows] == [float(total) for total in twin]
    assert twin != [in_a_row(row) for row in fractions]
