"""Energies are found again, held-out loops change nothing, and shipped numbers keep the errors that they say."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accel.gpu.energy import EnergyFit
from accel.gpu.fit import Fit
from accel.gpu.loading import load_fit
from accel.machine import load_machine
from analysis.gpu.fit_energy import as_used, errors, fit_energy, left_out, predicted_w
from analysis.gpu.loops import Loop, described, loops
from analysis.gpu.model_errors import compared
from analysis.gpu.model_power import power_errors
from dataflow.gpu.estimate import Estimate

pytest.importorskip("scipy")
H200 = load_machine("h200")
RESULTS = Path(__file__).parents[3] / "gpu_kernels/results"
RECORDS = [
    json.loads((RESULTS / name).read_text("utf-8"))["rows"]
    for name in ("calibration_h200.json", "calibration_h200_second_machine.json")
]
TRUTH = EnergyFit(active_share=0.05, path_pj_per_bit=5.0, l2_pj_per_bit=4.0, operation_pj={"fp16": 6.0, "fp32": 70.0})
LOADS = [
    (4e12, 4e12, {}, 1.0),
    (0.0, 9e12, {}, 1.0),
    (2e11, 5e12, {"fp16": 3e14}, 0.8),
    (2e11, 4e12, {"int8": 6e14, "int32": 3e12}, 0.9),
    (1e12, 1e12, {"int32": 1e13}, 1.0),
]


def loop(name: str, dram: float, l2: float, operations: Mapping[str, float], clock: float) -> Loop:
    """One of a millisecond, of so many bytes and operations a second, as TRUTH has its power."""
    one = np.full(1, 1e-3)
    counts = {unit: one * count for unit, count in operations.items()}
    made = Estimate("toy", one, 0 * one, one * dram, 0 * one, one * l2, counts, {})
    empty = Loop(name, 0.0, 1e-3, clock, False, made)
    return replace(empty, power_w=predicted_w(H200, TRUTH, empty))


MADE = [loop(str(index), *load) for index, load in enumerate(LOADS)]


def with_library() -> Fit | None:
    """The shipped fit; what needs library products is skipped where it has none."""
    fit = load_fit("h200")
    return fit if fit.gemm and fit.w4 and fit.attention else None


def test_energies_are_found_again_through_what_is_bound_to_them() -> None:
    found = fit_energy(H200, MADE, TRUTH.active_share)
    assert found.operation_pj == pytest.approx(TRUTH.operation_pj, rel=1e-3)
    assert found.path_pj_per_bit == pytest.approx(5.0, rel=1e-3)
    assert found.l2_pj_per_bit == pytest.approx(4.0, rel=1e-3)


def test_held_out_loops_and_quiet_chains_change_nothing() -> None:
    spoiled = replace(MADE[0], power_w=100.0, held_out=True)
    quiet = replace(MADE[4], power_w=150.0, name="multiply-add")
    assert fit_energy(H200, [*MADE, spoiled, quiet], 0.05) == fit_energy(H200, MADE, 0.05)


def test_a_loop_that_others_explain_is_told_without_it() -> None:
    more = [replace(one, name=f"{one.name} again") for one in MADE]
    assert max(map(abs, left_out(H200, [*MADE, *more], 0.05).values())) < 1e-3


def test_every_recorded_loop_of_ours_is_described() -> None:
    fit = load_fit("h200")
    rows = [row for row in RECORDS[0] if row["part"] == "energy"]
    missing = [row["name"] for row in rows if described(H200, fit, row) is None]
    library = ("bf16", "int8 8", "fp8")
    assert all(name.startswith(library) for name in missing), missing


def test_no_recorded_loop_is_predicted_above_the_limit() -> None:
    fit = load_fit("h200")
    assert fit.energy is not None
    watts = np.array([as_used(H200, fit.energy, one)[0] for one in loops(H200, fit, RECORDS[0])])
    assert len(watts) > 20
    assert (watts <= H200.power.limit_w * (1 + 1e-9)).all()
    assert (watts >= H200.power.idle_w).all()


def test_held_out_loops_are_as_near_as_the_fit_says() -> None:
    """By the models that predict: both GPUs."""
    fit = load_fit("h200")
    assert fit.energy is not None
    found = errors(H200, fit.energy, [one for rows in RECORDS for one in loops(H200, fit, rows)])
    assert found["power"].mean <= 0.06
    assert found["power"].p90 <= 0.12
    assert found["power_at_clock"].mean <= 0.10
    assert found["energy"].p90 <= 0.16
    if with_library():
        assert found["power"].points == fit.error["power"].points
        assert found["power_at_clock"].mean == pytest.approx(fit.error["power_at_clock"].mean, rel=0.05)


def test_decoding_by_flash_attention_takes_what_its_padding_costs() -> None:
    """The loop that a count of useful products misses by 38 %."""
    fit = load_fit("h200")
    assert fit.energy is not None
    loop = next(one for one in loops(H200, fit, RECORDS[0]) if one.name == "decode sdpa_flash")
    assert predicted_w(H200, fit.energy, loop) > 0.8 * loop.power_w


def test_power_of_a_whole_model_is_near_that_of_its_recording() -> None:
    found = power_errors(H200, compared(H200, ["llama3_8b_tokens1_past1024_batch64_h200_2"]))
    assert found["model_power"].mean < 0.15
    assert found["model_power"].points >= 2
