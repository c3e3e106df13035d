"""Scales from published anchors, judged by leaving one out."""

from collections import Counter
from dataclasses import replace

import pytest

from accel.machine import load_machine, machine_names
from analysis.gpu import anchored
from analysis.gpu.anchors import MOST, Anchor, anchors, errors, scale, scaled, shipped
from dataflow.gpu.door import gpu
from dataflow.gpu.host import EXECUTIONS

ONE = Anchor("x.1", "x", "toy", "", "", {"m": 1}, None, "bf16", 2.0, "here", None, "", "anchor", "")


def group(*published: float, role: str = "anchor") -> list[Anchor]:
    return [replace(ONE, id=f"x.{index}", seconds=seconds, role=role) for index, seconds in enumerate(published)]


def test_an_anchor_is_predicted_by_the_others_alone() -> None:
    rows = scaled(group(2.0, 8.0, 5.0), lambda one: 1.0)
    assert [row.left_out_s for row in rows] == pytest.approx([40**0.5, 10**0.5, 4.0])
    assert rows[2].off == pytest.approx(-0.2)


def test_a_scale_is_shipped_where_it_brings_left_out_times_nearer() -> None:
    assert shipped(scaled(group(2.0, 2.2), lambda one: 1.0)) == {("x", "toy"): (pytest.approx(4.4**0.5), 0.1)}
    assert shipped(scaled(group(2.0, 2.0), lambda one: 1.0))["x", "toy"] == (pytest.approx(2.0), 0.05)
    assert shipped(scaled(group(0.5, 2.0), lambda one: 1.0)) == {}
    assert shipped(scaled(group(2.0), lambda one: 1.0)) == {}


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


@pytest.mark.slow
def test_machine_files_have_the_scales_and_bands_of_the_table() -> None:
    """To a tenth: a fit that is made anew moves them a little."""
    rows = anchored.scored()
    wanted = shipped(rows)
    for name in {one.device for one in anchors()}:
        machine = gpu(name)
        mine = {kind: found for (device, kind), found in wanted.items() if device == name}
        kinds = {kind for kind in mine if kind != anchored.MODEL}
        kinds |= {f"model_{way}" for way in EXECUTIONS} if anchored.MODEL in mine else set()
        assert set(machine.scale) == kinds, name
        for kind in kinds:
            scale_, share = mine[anchored.MODEL if kind.startswith("model_") else kind]
            assert machine.scale[kind] == pytest.approx(scale_, rel=0.1)
            assert machine.error[kind] == pytest.approx(share, abs=0.05)
