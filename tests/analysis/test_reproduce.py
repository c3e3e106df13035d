"""The table of SpAtten: its roles, that every row is computed, and the arithmetic on simulated points."""

from collections import Counter
from dataclasses import replace

import pytest

from analysis.reproduce.assumptions import Variant, _scaled, intervals, machine_variants, sensitivity, workload_variants
from analysis.reproduce.points import Outcome, Point, needed
from analysis.reproduce.published import FOLDER, Published, read_first_contact, read_published, write_first_contact
from analysis.reproduce.spatten import (
    ALL,
    Configuration,
    geometric_mean,
    hardware_rows,
    rank_correlation,
    simulated_rows,
    topk_rows,
)

TABLE = read_published("spatten")
VALUES = {one.id: one.value for one in TABLE}


def ones(point: Point) -> Outcome:
    return Outcome()


def test_every_row_has_a_role_and_only_predictions_are_scored() -> None:
    roles = Counter(one.role for one in TABLE)
    assert roles == {"identity": 255, "prediction": 141, "input": 25}, "none becomes a prediction later"
    assert len(VALUES) == len(TABLE)
    for one in TABLE:
        assert one.source
        scored = one.within(one.value)
        assert scored is (True if one.role == "prediction" else None), one.id


def test_the_band_decides() -> None:
    row = Published("x", "", 2.0, "", "", "prediction", 1.5, 2.25, "")
    assert row.tolerance == 0.25
    assert [row.within(ours) for ours in (1.4, 1.5, 2.25, 2.3, None)] == [False, True, True, False, None]
    assert replace(row, role="identity").within(1.0) is None


def test_figure_14_is_all_there_and_its_means_are_the_papers() -> None:
    """The printed geometric means follow from the bars, so a bar in the wrong place would show."""
    printed = {"titan_xp": (162, 1193), "xeon_e5_2640v4": (347, 4059), "jetson_nano": (1095, 406),
               "raspberry_pi4": (5071, 1910)}  # fmt: skip
    for device, means in printed.items():
        for what, mean in zip(("speedup", "energy"), means, strict=True):
            bars = [VALUES[f"fig14.{device}.{name}.{what}"] for name in ALL]
            assert geometric_mean(bars) == pytest.approx(mean, rel=0.004)
            assert VALUES[f"fig14.{device}.geomean.{what}"] == mean


def test_every_row_is_computed_and_nothing_else() -> None:
    """But for inputs: those are the machine's file."""
    computed = set(simulated_rows(Configuration(ones), VALUES)) | set(hardware_rows()) | set(topk_rows(1))
    assert {one.id for one in TABLE if one.role != "input"} <= computed
    assert computed <= set(VALUES)


def test_points_are_asked_for_once_and_all_thirty_run() -> None:
    points = needed(lambda runs: simulated_rows(Configuration(runs), VALUES))
    assert len(set(points)) == len(points)
    for machine in ("spatten", "spatten_eighth", "a3", "mnnfast", "titan_xp", "xeon_e5_2640v4", "jetson_nano"):
        assert set(ALL) <= {point.workload for point in points if point.machine == machine}


def test_a_speedup_is_their_time_over_ours() -> None:
    def runs(point: Point) -> Outcome:
        return Outcome(latency_s={"titan_xp": 6.0, "spatten": 2.0}.get(point.machine, 1.0))

    rows = simulated_rows(Configuration(runs), VALUES)
    assert rows["fig14.titan_xp.geomean.speedup"] == pytest.approx(3)
    assert rows["fig14.xeon_e5_2640v4.geomean.speedup"] == pytest.approx(0.5)
    assert rows["fig20.datapath"] == pytest.approx(6), "the datapath machine takes 1 s"
    assert rows["fig20.token_pruning"] == pytest.approx(0.5)


def test_rank_correlation_by_hand() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486833)


def test_intervals_add_squares_and_keep_both_sides_apart() -> None:
    def variant(name: str, end: str) -> Variant:
        return Variant(name, end, lambda point: point)

    moved = {variant("a", "low"): {"x": 7.0}, variant("a", "high"): {"x": 14.0}, variant("b", "low"): {"x": 6.0},
             variant("b", "high"): {"x": 9.0}}  # fmt: skip
    assert intervals({"x": 20.0, "y": 1.0}, {"x": 10.0}, moved) == {"x": (20 - 10, 20 + 8)}
    assert [line["x"] for line in sensitivity({"x": 10.0}, moved, ("x",))] == pytest.approx([-0.4, 0.4, -0.3, -0.1])


def test_an_energy_assumption_changes_its_part_alone_and_simulates_nothing() -> None:
    one = Outcome(energy_j=5.0, energy={"softmax": 2.0, "topk": 3.0})
    assert _scaled(one, {"softmax": 1.5}).energy_j == pytest.approx(6)
    point = Point("spatten", "bert_base_cola")
    for variant in machine_variants("spatten"):
        if variant.name.endswith("energy_pj"):
            assert variant.change(point) == point
            assert list(variant.scale(point)) == [variant.name.split(".")[1]]


def test_timing_assumptions_reach_the_machines_that_make_them() -> None:
    variants = {(v.name, v.end): v for v in machine_variants("spatten")}
    depth = variants["memory.controller.read_queue", "low"]
    assert depth.change(Point("spatten", "bert_base_cola")).settings == (("memory.controller.read_queue", 8),)
    assert depth.change(Point("titan_xp", "bert_base_cola")).settings == ()
    chosen = Point("spatten", "bert_base_cola", (("memory.controller.read_queue", 16),))
    assert depth.change(chosen) == chosen, "what a row sets on purpose stays"


def test_assumptions_about_benchmarks_leave_dense_runs_alone() -> None:
    for variant in workload_variants():
        plain = Point("spatten", "12x12x384")
        assert variant.change(plain) == plain


def test_a_first_contact_is_never_written_twice(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "first_contact").mkdir()
    monkeypatch.setattr("analysis.reproduce.published.FOLDER", tmp_path)
    write_first_contact("toy", {"a": {"spatten": 1.25}, "b": {"spatten": 2.0, "other": 3.0}})
    assert read_first_contact("toy") == {"a": {"spatten": 1.25}, "b": {"spatten": 2.0, "other": 3.0}}
    with pytest.raises(FileExistsError):
        write_first_contact("toy", {})
    assert FOLDER.name == "published"
