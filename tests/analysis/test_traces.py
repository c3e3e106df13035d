"""Tables, differences, pictures and CSV of traces, on one small enough to add up by hand."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.traces.csv import write_csv
from analysis.traces.difference import differences
from analysis.traces.plot import plot_trace
from analysis.traces.statistics import statistics
from analysis.traces.totals import by_kind, by_module, table, total
from workloads.trace import TABLES, TEXT_COLUMNS, Trace

#        kind      part        module         flops unmasked read written repeat m n k
ROWS = (
    ("linear", "fc", "a.0.up", 200, 200, 30, 10, 3, 2, 10, 5),
    ("gelu", "other", "a.0", 80, 80, 10, 10, 3, 0, 0, 0),
    ("view", "other", "a.0", 0, 0, 0, 0, 3, 0, 0, 0),
    ("sdpa", "attention", "a.1.attn", 1000, 600, 40, 20, 3, 5, 5, 2),
    ("linear", "fc", "b", 200, 200, 30, 10, 1, 2, 10, 5),
)
NAMES = ("kind", "part", "module", "flops", "flops_unmasked", "read_bytes", "write_bytes", "repeat", "m", "n", "k")


@pytest.fixture
def trace() -> Trace:
    known = dict(zip(NAMES, zip(*ROWS, strict=True), strict=True))
    known |= {"launches": tuple(int(row[0] != "view") for row in ROWS), "batch": (1, 0, 0, 1, 1)}
    operators = {
        name: np.array(known.get(name, ("x" if name in TEXT_COLUMNS else 0,) * len(ROWS)))
        for name in TABLES["operators"]
    }
    weights = {
        "name": np.array(["up.weight", "up.table"]),
        "kind": np.array(["parameter", "buffer"]),
        "format": np.array(["bfloat16", "float32"]),
        "shape": np.array(["10x5", "4"]),
        "elements": np.array([50, 4]),
        "bytes": np.array([100, 16]),
    }
    made = {"kind": "exported", "stages": [{"name": "a"}, {"name": "b"}], "unknown": {}}
    return Trace("toy", {"name": "toy"}, made, operators, weights=weights)


def test_totals_count_repetitions_and_both_causal_ways(trace):
    whole = total(trace)
    assert (whole.calls, whole.launches) == (13, 10)
    assert (whole.flops, whole.product_flops, whole.flops_unmasked) == (4040, 3800, 2840)
    assert (whole.read_bytes, whole.write_bytes) == (270, 130)
    assert whole.intensity == 4040 / 400


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_modules_add_up_to_the_whole_at_every_depth(trace, depth):
    parts = by_module(trace, depth)
    assert next(one.name for one in parts) == ("a", "a.0", "a.0.up")[depth - 1]
    for key in ("calls", "flops", "product_flops", "flops_unmasked", "read_bytes", "write_bytes"):
        assert sum(getattr(one, key) for one in parts) == getattr(total(trace), key)


def test_kinds_come_with_most_bytes_first(trace):
    assert [(one.name, one.calls) for one in by_kind(trace)] == [("sdpa", 3), ("linear", 4), ("gelu", 3), ("view", 3)]
    assert table([total(trace)])[0][1:4] == ("13", "10", "4.04e-06")


def test_statistics_list_sizes_and_weights(trace):
    tables = {one.title.partition(" ")[0] + one.title.partition(" ")[2][:8]: one for one in statistics(trace)}
    assert tables["Productsby size,"].rows[0] == ("sdpa", "1", "5", "5", "2", "3", "3e-06")
    assert tables["Productsby size,"].rows[1] == ("linear", "1", "2", "10", "5", "4", "8e-07")
    assert [row[1] for row in tables["Weightsas recor"].rows] == ["50", "4"]


def test_a_trace_does_not_differ_from_itself(trace):
    assert differences(trace, trace) == []


def changed(trace: Trace, column: str, row: int, value: object) -> Trace:
    values = trace.operators[column].copy()
    values[row] = value
    return replace(trace, operators={**trace.operators, column: values})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t: changed(t, "flops", 3, 999), "a.1.attn"),
        (lambda t: changed(t, "read_bytes", 0, 31), "total read_bytes"),
        (lambda t: changed(t, "kind", 1, "silu"), "calls of silu"),
        (lambda t: changed(t, "format", 4, "y"), "b"),
        (lambda t: replace(t, model={"name": "other"}), "model.name"),
        (lambda t: replace(t, made={**t.made, "unknown": {"x": 1}}), "made.unknown"),
        (lambda t: replace(t, facts={"x": np.zeros(3)}), "facts.x"),
        (lambda t: replace(t, weights={**t.weights, "shape": np.array(["5x10", "4"])}), "weight up.weight"),
        (lambda t: replace(t, operators={}), "operators"),
    ],
)
def test_every_change_is_told(trace, change: Callable[[Trace], Trace], what: str):
    assert what in [row[0] for row in differences(trace, change(trace))]


def test_facts_are_compared_by_value(trace):
    one, other = (replace(trace, facts={"x": np.array([1.0, 2.0, value])}) for value in (3.0, 4.0))
    assert differences(one, other) == [("facts.x", "differs", "in 1 of 3 values")]


def test_csv_holds_every_column_and_entry(trace, tmp_path):
    path = tmp_path / "toy.csv"
    assert write_csv(trace, "operators", path) == len(ROWS)
    frame = pd.read_csv(path)
    assert frame["flops"].tolist() == [row[3] for row in ROWS]
    assert list(frame) == list(TABLES["operators"])
    with pytest.raises(ValueError, match="toy: operands: not recorded"):
        write_csv(trace, "operands", path)


def test_the_picture_draws_what_the_table_says(trace, tmp_path):
    from analysis.traces.plot import _series

    names, parts, series = _series(trace, None)
    assert names == ["a.0.up", "a.0", "a.1.attn", "b"]
    assert parts == ["fc", "attention", "other"]
    np.testing.assert_allclose(series["GFLOP"].sum(axis=0) * 1e9, [600, 240, 3000, 200])
    np.testing.assert_allclose(series["MB read and written"].sum() * 1e6, 400)
    plot_trace(trace, tmp_path / "toy.png")
    assert (tmp_path / "toy.png").stat().st_size > 5000


def test_a_trace_without_operators_says_so(trace):
    empty = Trace("empty", {}, {}, {})
    for view in (total, statistics, lambda one: plot_trace(one, Path("x.png"))):
        with pytest.raises(ValueError, match=r"empty: .*records n"):
            view(empty)
    assert json.dumps(differences(empty, empty)) == "[]"
