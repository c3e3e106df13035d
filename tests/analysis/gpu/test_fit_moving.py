"""Fits find the numbers again that made the points and do not look at held-out ones; shipped ones keep their errors."""

import json
from pathlib import Path

import pytest

from accel.gpu.loading import load_fit
from accel.gpu.memory_bound import MemoryBoundFit
from accel.machine import load_machine
from analysis.gpu.fit_memory_bound import errors, fit_memory_bound, points
from analysis.gpu.fit_moving import sections
from dataflow.gpu.memory_bound import by_rows

pytest.importorskip("scipy")
H200 = load_machine("h200")
RECORD = Path(__file__).parents[3] / "gpu_kernels/results/calibration_h200.json"


def rows(fit: MemoryBoundFit, spoiled: float = 1.0) -> list[dict[str, object]]:
    """Points of three operators as the fit has them; held-out ones `spoiled` times as long."""
    found: list[dict[str, object]] = []
    for operator in ("add", "silu", "to_float32"):
        for power in range(10, 28):
            held = power % 3 == 0
            seconds = by_rows(H200, fit, operator, 1, 2.0**power).seconds[0] * (spoiled if held else 1.0)
            row = {"part": "elementwise", "family": operator, "elements": 2**power, "held_out": held}
            found.append(row | {"us": 1e6 * seconds})
    return found


def shipped() -> MemoryBoundFit:
    fit = load_fit("h200").memory_bound
    assert fit is not None
    return fit


def test_finds_what_made_the_points() -> None:
    some = points(rows(shipped()))
    found = errors(H200, fit_memory_bound(H200, some), some)
    assert found["elementwise"].mean < 0.02


def test_held_out_points_change_nothing_but_their_own_error() -> None:
    plain, spoiled = points(rows(shipped())), points(rows(shipped(), 3.0))
    fit = fit_memory_bound(H200, plain)
    assert fit_memory_bound(H200, spoiled) == fit
    assert errors(H200, fit, spoiled)["elementwise"].mean > 0.5


def test_a_record_without_elementwise_points_is_refused() -> None:
    with pytest.raises(ValueError, match="no points of elementwise kernels"):
        sections(H200, [])


@pytest.mark.parametrize(("kind", "mean", "p90"), [("elementwise", 0.05, 0.16), ("rows", 0.07, 0.16)])
def test_recorded_points_that_were_held_out_are_as_near_as_the_fit_says(kind: str, mean: float, p90: float) -> None:
    record = json.loads(RECORD.read_text("utf-8"))["rows"]
    found = errors(H200, shipped(), points(record))[kind]
    assert found.mean <= mean
    assert found.p90 <= p90
    said = load_fit("h200").error[kind]
    assert found.mean == pytest.approx(said.mean, rel=0.02)
    assert said.points == found.points
