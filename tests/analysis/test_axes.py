"""Values of axes and the grammar of constraints."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.axes import Constraint, axis_values, parse_constraint


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ([1, "two", [0.5, 1]], [1, "two", [0.5, 1]]),
        ({"from": 0.2, "to": 1.0, "steps": 5}, [0.2, 0.4, 0.6, 0.8, 1.0]),
        ({"from": 1, "to": 9, "steps": 3}, [1, 5, 9]),
        ({"from": 1, "to": 2, "steps": 3}, [1, 1.5, 2]),
        ({"from": 2, "to": 16, "log": 4}, [2, 4, 8, 16]),
        ({"from": 1, "to": 32, "log": 4}, [1, 4, 8, 32]),  # powers of two, though 3.2 and 10.1 lie between
        ({"from": 1, "to": 4, "log": 5}, [1, 2, 3, 4]),  # too many for powers of two: rounded, merged
        ({"from": 64, "to": 1, "log": 3}, [64, 8, 1]),
        ({"from": 3, "to": 300, "log": 3}, [3, 30, 300]),
        ({"from": 0.01, "to": 1.0, "log": 3}, [0.01, 0.1, 1.0]),
    ],
)
def test_axis_values(axis: Any, values: list[Any]) -> None:
    found = axis_values(axis)
    assert found == pytest.approx(values) if isinstance(axis, dict) else found == values
    assert [type(x) for x in found] == [type(x) for x in values]


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(2, 40))
def test_log_axis_between_integers(low: int, high: int, count: int) -> None:
    values = axis_values({"from": low, "to": high, "log": count})
    assert values[0] == low
    assert values[-1] == high
    assert len(set(values)) == len(values) <= count
    assert values == sorted(values, reverse=low > high)


@pytest.mark.parametrize("operator", ["<=", ">=", "==", "!=", "<", ">"])
def test_constraint_holds_as_the_operator_says(operator: str) -> None:
    constraint = parse_constraint(f"area_mm2{operator}2e1")
    assert constraint == Constraint("area_mm2", operator, 20.0)
    for value in (19.0, 20.0, 21.0):
        assert constraint.holds(value) is eval(f"{value} {operator} 20.0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("area_mm2 =< 20", "expected <= >= == != < > at character 10, got '=< 20'"),
        ("area_mm2 <= ", "expected a number at character 13, got its end"),
        ("area_mm2 <= 3x", "expected a number at character 13, got '3x'"),
        ("area_mm2 <= 3 mm2", "expected nothing more at character 15, got 'mm2'"),
        ("<= 3", "expected a key of the result at character 1"),
    ],
)
def test_faulty_constraint_says_where(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="must be 'key op number'") as error:
        parse_constraint(text)
    assert message in str(error.value)
