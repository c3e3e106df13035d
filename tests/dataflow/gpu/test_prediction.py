"""Bands, floors, trust and scales of predictions, on an estimate made by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from accel.gpu.loading import load_fit
from accel.gpu.machine import GpuMachine
from accel.machine import load_machine
from dataflow.gpu.estimate import Estimate
from dataflow.gpu.prediction import Prediction, predicted, with_warning

TOY = str(Path(__file__).with_name("toy_fit.yaml"))
FIT = load_fit(TOY)
ERROR = FIT.error["toy"]


def estimate(seconds: float = 10e-6, floor: float = 9.5e-6, kind: str = "toy") -> Estimate:
    one = np.ones(1)
    return Estimate(
        kind, one * seconds, one * floor, one * 100, one * 10, one * 200, {"fp16": one}, {"dram": one * 9e-6}
    )


def machine(**changes: object) -> GpuMachine:
    loaded = load_machine("h200")
    assert isinstance(loaded, GpuMachine)
    return loaded.model_copy(update={"fit": (TOY,), **changes})


def told(found: Estimate, own: bool = True, **changes: object) -> Prediction:
    return predicted(machine(**changes), FIT, own, found, {"m": np.ones(1)})


def test_a_measurement_within_the_error_lies_in_the_band() -> None:
    one = told(estimate(floor=1e-6))
    for measured, inside in ((10e-6 / 1.09, True), (10e-6 / 0.91, True), (10e-6 / 1.11, False), (10e-6 / 0.89, False)):
        assert (one.low_s[0] <= measured <= one.high_s[0]) == inside
        assert (abs(10e-6 - measured) / measured <= ERROR.p90) == inside


def test_nothing_is_below_the_floor() -> None:
    assert told(estimate()).low_s[0] == 9.5e-6
    low = told(estimate(seconds=1e-6))
    assert low.latency_s[0] == low.low_s[0] == 9.5e-6
    assert told(estimate(), scale={"toy": 0.1}).latency_s[0] == 9.5e-6


def test_the_scale_of_the_class_is_used_and_no_other() -> None:
    assert told(estimate(), scale={"toy": 1.5}).latency_s[0] == pytest.approx(15e-6)
    assert told(estimate(), scale={"other": 1.5}).latency_s[0] == pytest.approx(10e-6)


@pytest.mark.parametrize(
    ("own", "changes", "trust", "share"),
    [
        (True, {}, "calibrated", 0.1),
        (False, {}, "blind", 0.25),
        (True, {"calibrated": False, "error": {"default": 0.05}}, "blind", 0.1),
        (True, {"calibrated": False, "error": {"toy": 0.05, "default": 0.3}}, "blind", 0.1),
        (False, {"scale": {"toy": 1.2}, "error": {"toy": 0.15}}, "anchored", 0.15),
        (False, {"error": {}}, "blind", 0.9),
    ],
)
def test_trust_decides_the_band(own: bool, changes: dict[str, object], trust: str, share: float) -> None:
    one = told(estimate(), own, **changes)
    assert (one.trust, one.share) == (trust, share)


def test_a_class_that_nobody_held_out_takes_the_machine_s_word() -> None:
    one = told(estimate(kind="new"))
    assert (one.error, one.share) == (None, 0.25)


def test_a_row_is_plain_and_complete() -> None:
    row = with_warning(told(estimate()), "beware").row(0)
    assert {"latency_s", "low_s", "high_s", "dram_bytes", "energy_j", "limited_by"} <= set(row)
    assert row["dram_bytes"] == row["dram_read_bytes"] + row["dram_write_bytes"] == 110
    assert row["m"] == 1
    assert row["limited_by"] == "dram"
    assert row["warnings"] == ["beware"]
    assert json.loads(json.dumps(row))["error"]["p90"] == 0.1
    assert with_warning(told(estimate()), None).warnings == ()
