"""Scales from published anchors, judged by leaving one out."""

from collections import Counter
from dataclasses import replace

import pytest

from accel.machine import load_machine, machine_names
from analysis.gpu.anchors import MOST, Anchor, anchors, errors, scale, scaled, scales

ONE = Anchor("x.1", "x", "toy", "", "", {"m": 1}, None, "bf16", 2.0, "here", None, "", "anchor", "")


def group(*published: float, role: str = "anchor") -> list[Anchor]:
    return [replace(ONE, id=f"x.{index}", seconds=seconds, role=role) for index, seconds in enumerate(published)]


def test_an_anchor_is_predicted_by_the_others_alone() -> None:
    rows = scaled(group(2.0, 8.0, 5.0), lambda one: 1.0)
    assert [row.left_out_s for row in rows] == pytest.approx([40**0.5, 10**0.5, 4.0])
    assert rows[2].off == pytest.approx(-0.2)
    assert scales(group(2.0, 8.0), lambda one: 1.0) == {("x", "toy"): pytest.approx(4.0)}


def test_a_single_anchor_is_blind() -> None:
    (row,) = scaled(group(2.0), lambda one: 3.0)
    assert row.left_out_s == row.blind_s == 3.0


def test_rows_that_are_only_scored_scale_nothing() -> None:
    both = [*group(2.0, 2.0), replace(ONE, id="p", role="prediction", seconds=10.0)]
    rows = {row.anchor.id: row for row in scaled(both, lambda one: 1.0)}
    assert rows["x.0"].left_out_s == pytest.approx(2.0)
    assert rows["p"].left_out_s == 1.0
    assert scale([]) == 1.0


def test_errors_are_by_device_and_class() -> None:
    found = errors(scaled([*group(2.0, 2.0), replace(ONE, kind="other", seconds=4.0)], lambda one: 2.0))
    assert found["x", "toy"].mean == pytest.approx(0.0)
    assert (found["x", "other"].mean, found["x", "other"].points) == (0.5, 1)


def test_the_table_is_sound() -> None:
    rows = anchors()
    assert len({one.id for one in rows}) == len(rows)
    assert max(Counter(one.device for one in rows if one.role == "anchor").values()) <= MOST
    gpus = {name for name in machine_names() if load_machine(name).planner == "gpu"}
    for one in rows:
        assert one.device in gpus
        assert one.role in ("anchor", "prediction", "input")
        assert one.source
        assert bool(one.problem) != bool(one.model)
        assert (one.other_s is None) == (not one.other_source)


def test_two_sources_spread() -> None:
    assert replace(ONE, other_s=1.5).spread == pytest.approx(1 / 3)
    assert replace(ONE, other_s=2.5).spread == pytest.approx(0.25)
    assert ONE.spread == 0
