"""Fits find the numbers again that made the points and do not look at held-out ones; shipped ones keep their errors."""

import json
from pathlib import Path

import numpy as np
import pytest

from accel.gpu.energy import EnergyFit
from accel.gpu.loading import load_fit
from accel.gpu.memory_bound import MemoryBoundFit
from accel.machine import load_machine
from analysis.gpu.fit_energy import Loop, fit_energy, loops, predicted_w
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


def test_energy_of_loops_is_found_again() -> None:
    truth = EnergyFit(active_share=0.05, path_pj_per_bit=5.0, l2_pj_per_bit=4.0, operation_pj={"fp16": 6.0, "fp8": 3.0})
    loads = [(4e12, 4e12, {}), (0.0, 9e12, {}), (2e11, 5e12, {"fp16": 3e14}), (2e11, 4e12, {"fp8": 6e14})]
    made = [Loop(str(i), 0.0, 1e-3, 1.0, 1e-3 * d, 1e-3 * c, {u: 1e-3 * n for u, n in ops.items()}, False)
            for i, (d, c, ops) in enumerate(loads)]  # fmt: skip
    told = [Loop(one.name, predicted_w(H200, truth, one), *list(vars(one).values())[2:]) for one in made]
    found = fit_energy(H200, told, 0.05)
    assert found.operation_pj == pytest.approx(truth.operation_pj, rel=1e-3)
    assert found.path_pj_per_bit == pytest.approx(5.0, rel=1e-3)
    assert found.l2_pj_per_bit == pytest.approx(4.0, rel=1e-3)


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


def test_no_recorded_loop_is_predicted_above_the_limit() -> None:
    record = json.loads(RECORD.read_text("utf-8"))["rows"]
    fit = load_fit("h200").energy
    assert fit is not None
    watts = np.array([predicted_w(H200, fit, one) for one in loops(H200, record)])
    assert len(watts) > 20
    assert (watts <= H200.power.limit_w).all()
    assert (watts >= H200.power.idle_w).all()
