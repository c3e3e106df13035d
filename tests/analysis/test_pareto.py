"""The filter against the definition, on random points with many ties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.pareto import non_dominated

SENSES = st.lists(st.sampled_from(["min", "max"]), min_size=1, max_size=4)


def dominates(one: list[float], other: list[float], senses: list[str]) -> bool:
    gains = [b - a if sense == "min" else a - b for a, b, sense in zip(one, other, senses, strict=True)]
    return all(gain >= 0 for gain in gains) and any(gain > 0 for gain in gains)


@given(senses=SENSES, data=st.data())
def test_equals_the_definition(senses: list[str], data: st.DataObject) -> None:
    row = st.lists(st.integers(-3, 3).map(float), min_size=len(senses), max_size=len(senses))
    rows = data.draw(st.lists(row, max_size=30))
    expected = [not any(dominates(other, row, senses) for other in rows) for row in rows]
    assert non_dominated(np.array(rows).reshape(-1, len(senses)), senses).tolist() == expected


@given(st.permutations([(1.0, 9.0), (2.0, 4.0), (2.0, 4.0), (3.0, 4.0), (9.0, 1.0)]))
def test_order_does_not_matter_and_equal_points_stay(rows: list[tuple[float, float]]) -> None:
    kept = [row for row, keep in zip(rows, non_dominated(rows, ["min", "min"]), strict=True) if keep]
    assert sorted(kept) == [(1.0, 9.0), (2.0, 4.0), (2.0, 4.0), (9.0, 1.0)]


def test_a_point_without_a_number_is_never_on_the_front() -> None:
    rows = [[float("nan"), 0.0], [1.0, 1.0]]
    assert non_dominated(rows, ["min", "min"]).tolist() == [False, True]


def test_wrong_sense_and_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="must be min or max, got 'least'"):
        non_dominated([[1.0]], ["least"])
    with pytest.raises(ValueError, match="2 senses"):
        non_dominated([[1.0]], ["min", "max"])
