"""Recorded silicon: what the shipped fit says of its held-out points is so, and no prediction is below its floor."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from accel.gpu.fit import Fit
from accel.gpu.loading import load_fit
from accel.gpu.machine import GpuMachine
from accel.machine import load_machine
from analysis.gpu.parity import LEAST_S, Parity, parities, repeated
from analysis.gpu.parity_bytes import byte_errors
from analysis.gpu.report import load_records
from dataflow.gpu.gemm import gemm
from dataflow.gpu.memory_bound import by_rows
from dataflow.gpu.moving_kernels import OPERATORS
from dataflow.gpu.w4 import w4_gemm
from gpu_kernels.bench.calibration.points import MOST, held_pairs, library_products, product

FORMATS = ("bf16", "int8", "fp8")
NOT_IN_PARITY = ("power", "energy", "prefill_fa3", "model", "decode_layer")  # other tables are behind these


@cache
def h200() -> GpuMachine:
    machine = load_machine("h200")
    assert isinstance(machine, GpuMachine)
    return machine


@cache
def fit() -> Fit:
    return load_fit("h200")


@cache
def records() -> list[Any]:
    return list(load_records())


@cache
def classes(number: int = 0) -> dict[str, Parity]:
    return parities(h200(), fit(), records()[number])


CLAIMED = [kind for kind in load_fit("h200").error if not kind.startswith(NOT_IN_PARITY)]


@pytest.mark.parametrize("kind", CLAIMED)
def test_the_shipped_fit_is_as_far_off_as_it_says(kind: str) -> None:
    """To the five digits with which a fit is stored."""
    found, claimed = classes()[kind].error(), fit().error[kind]
    assert found is not None
    assert found.points == claimed.points
    assert (found.mean, found.p90) == pytest.approx((claimed.mean, claimed.p90), abs=5e-4)
    assert found.bias == pytest.approx(claimed.bias, abs=5e-4)


@pytest.mark.parametrize("number", [0, 1])
def test_every_class_with_held_out_points_is_claimed(number: int) -> None:
    judged = {kind for kind, one in classes(number).items() if one.held_out.any()}
    assert judged <= set(fit().error)
    assert judged == set(CLAIMED)


@pytest.mark.parametrize("kind", CLAIMED)
def test_the_second_machine_is_predicted_nearly_as_well(kind: str) -> None:
    """A fit that had learned its own machine's noise would fall apart here; copies from and to the host do."""
    first, second = (classes(number)[kind].error() for number in (0, 1))
    assert first is not None
    assert second is not None
    assert kind == "transfer" or second.mean < first.mean + 0.015


def test_a_scale_of_the_run_is_all_that_a_slower_clock_costs() -> None:
    one = classes()["prefill_flash"]
    slow = Parity(one.kind, one.names, 1.07 * one.measured_s, one.predicted_s, one.held_out)
    assert slow.scale() == pytest.approx(1.07 * one.scale())
    assert slow.error(scale=True).mean == pytest.approx(one.error(scale=True).mean)  # type: ignore[union-attr]
    assert slow.error().mean > one.error().mean + 0.03  # type: ignore[union-attr]
    assert slow.error().bias == pytest.approx((1 + one.error().bias) / 1.07 - 1)  # type: ignore[union-attr]


def test_points_that_are_held_out_set_no_scale() -> None:
    measured, held = np.array([2.0, 2.0, 9.0]), np.array([False, False, True])
    one = Parity("toy", ("a", "b", "c"), measured, np.ones(3), held)
    assert one.scale() == 2.0
    assert one.error(scale=True).mean == pytest.approx(7 / 9)  # type: ignore[union-attr]
    assert one.error(held_out=False).mean == pytest.approx(0.5)  # type: ignore[union-attr]
    assert Parity("toy", ("c",), measured[2:], np.ones(1), held[2:]).scale() == 1.0


def test_no_prediction_is_below_its_floor() -> None:
    """Of products and kernels that move bytes; a floor is 0 where all operands may lie in the L2."""
    for row in records()[0]["rows"][::7]:
        made = None
        if row["part"].startswith("ours_"):
            made = w4_gemm(h200(), fit().w4, row["part"].removeprefix("ours_"), row["m"], row["n"], row["k"])  # type: ignore[arg-type]
        elif row["part"].removeprefix("gemm_") in (fit().gemm or {}):
            form = row["part"].removeprefix("gemm_")
            made = gemm(h200(), fit().gemm[form], form, row["m"], row["n"], row["k"])  # type: ignore[index]
        elif row["part"] in ("rows", "elementwise") and row["family"] in OPERATORS:
            size = (row.get("rows", 1), row.get("width", row["elements"]))
            made = by_rows(h200(), fit().memory_bound, row["family"], *size)  # type: ignore[arg-type]
        if made is not None:
            assert made.seconds[0] >= made.floor_s[0] >= 0, row["name"]
            assert made.dram_read_bytes[0] >= 0


def test_measurements_stay_above_the_floor_too() -> None:
    """A floor above silicon would be none: 3 % for the clock and for memory that is faster than its data sheet says."""
    for number in (0, 1):
        for row in (row for row in records()[number]["rows"] if row["part"].startswith("ours_") and "us" in row):
            made = w4_gemm(h200(), fit().w4, row["part"].removeprefix("ours_"), row["m"], row["n"], row["k"])  # type: ignore[arg-type]
            assert 1e-6 * row["us"] >= 0.97 * made.floor_s[0], row["name"]


@pytest.mark.parametrize("number", [0, 1])
def test_records_are_complete(number: int) -> None:
    """Every product of the rule was measured, held out as the rule says, and none counted on both sides."""
    rows = records()[number]["rows"]
    for form in FORMATS:
        mine = [row for row in rows if row["part"] == f"gemm_{form}" and "us" in row]
        asked = {one.name: one.held_out for one in library_products()}
        assert {row["name"]: row["held_out"] for row in mine} == asked
        assert sum(not row["held_out"] for row in mine) <= MOST
        for row in mine:
            assert product(row["m"], row["n"], row["k"]).held_out == row["held_out"]
    assert 1e-6 * min(row["us"] for row in rows if row["part"] == "gemm_bf16") > LEAST_S / 2


def test_a_held_out_pair_calibrates_nothing() -> None:
    fitted = {(one.n, one.k) for one in library_products() if not one.held_out}
    assert not fitted & held_pairs()


def test_two_machines_agree_better_than_any_model() -> None:
    apart = repeated(records()[0], records()[1])
    assert apart["gemm_bf16"].mean == pytest.approx(0.024, abs=0.001)
    assert apart["transfers"].mean == pytest.approx(0.063, abs=0.001)
    assert all(one.mean < 0.03 for part, one in apart.items() if part != "transfers")


@pytest.mark.parametrize("number", [0, 1])
def test_bytes_are_those_of_the_counters(number: int) -> None:
    """5 % were asked for; most of it is compulsory, so far less is no wonder."""
    found = byte_errors(h200(), fit(), records()[number])
    assert {"gemm_w4a8_channel", "gemm_w4a16", "gemm_portable_group", "prefill_flash"} <= set(found)
    for family in ("gemm", ("decode", "prefill")):
        some = [one for kind, one in found.items() if kind.startswith(family)]
        assert sum(one.mean * one.points for one in some) / sum(one.points for one in some) <= 0.05
    # INT8 products: 7 %, of one shape whose int32 outputs push the activations out of the L2
    assert {kind: one.mean for kind, one in found.items() if one.mean > (0.08 if kind == "gemm_int8" else 0.05)} == {}
