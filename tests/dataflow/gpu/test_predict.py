"""The door to the models of kernels, on every shipped GPU: floors, order, bytes, refusals."""

import numpy as np
import pytest

from accel.gpu.machine import GpuMachine
from accel.machine import load_machine, machine_names
from dataflow.gpu.predict import (
    counts,
    gpu,
    predict_copy,
    predict_elementwise,
    predict_gemm,
    predict_rows,
)
from dataflow.gpu.prediction import Prediction

GPUS = tuple(name for name in machine_names() if load_machine(name).planner == "gpu")
M = np.array([1, 16, 64, 256, 1024, 4096])
devices = pytest.mark.parametrize("name", GPUS)


def on_fit_of_h200(name: str) -> GpuMachine:
    return gpu(name).model_copy(update={"fit": ("h200",), "calibrated": name == "h200"})


def sound(one: Prediction) -> None:
    assert (one.floor_s <= one.low_s).all()
    assert (one.low_s <= one.latency_s).all()
    assert (one.latency_s < one.high_s).all()
    assert (one.latency_s <= one.sustained_s).all()
    assert (one.dram_bytes >= 0).all()
    assert set(one.limited_by) <= set(one.terms)


@devices
@pytest.mark.parametrize("form", ["w4a8", "w4a8_group", "w4a4_int4", "w4a4_nvfp4"])
def test_more_tokens_are_never_faster_by_much_and_power_stays_below_the_limit(name: str, form: str) -> None:
    machine = on_fit_of_h200(name)
    if machine.capability < 80:
        pytest.skip("no kernel of ours")
    one = predict_gemm(machine, form, M, 4096, 4096)
    sound(one)
    assert (one.latency_s[1:] >= 0.9 * one.latency_s[:-1]).all()
    assert (one.power_w <= machine.power.limit_w * 1.0001).all()
    assert (one.dram_read_bytes >= 4096 * 4096 / 2).all()


@devices
def test_memory_bound_kernels_are_sound(name: str) -> None:
    machine = on_fit_of_h200(name)
    sound(predict_elementwise(machine, "gelu", 10 ** np.arange(3, 9)))
    sound(predict_rows(machine, "rms_norm", M, 4096))
    sound(predict_copy(machine, 1 << np.arange(10, 30)))
    sound(predict_copy(machine, 1 << np.arange(10, 30), "h2d_pinned"))


def test_more_bandwidth_is_never_slower() -> None:
    machine = on_fit_of_h200("h200")
    memory = machine.memory
    faster = memory.model_copy(update={"peak_bytes_per_s": 9.6e12, "read_bytes_per_s": 9.2e12})
    for form in ("w4a8", "w8a8"):
        plain = predict_gemm(machine, form, M, 4096, 4096)
        better = predict_gemm(machine.model_copy(update={"memory": faster}), form, M, 4096, 4096)
        assert (better.latency_s <= plain.latency_s).all()
        assert better.latency_s[0] < plain.latency_s[0]


def test_a_carried_fit_is_told() -> None:
    assert predict_gemm("h200", "w4a8", 1, 4096, 4096).trust == "calibrated"
    one = predict_gemm(on_fit_of_h200("l40s"), "w4a8", 1, 4096, 4096)
    assert (one.trust, one.share) == ("blind", 0.35)


def test_the_branch_costs_something_and_fusing_saves() -> None:
    machine = on_fit_of_h200("rtx_4090")
    bare, fused, apart = (
        predict_gemm(machine, "w4a4_int4", 4608, 3072, 3072, rank=rank, fused=fuse).latency_s[0]
        for rank, fuse in ((0, True), (32, True), (32, False))
    )
    assert bare < fused < apart


def test_a_fallback_runs_what_it_says() -> None:
    asked = predict_gemm("h200", "w4a4_int4", 64, 4096, 4096)
    (warning,) = asked.warnings
    assert warning.endswith("w4a4_int4 falls back to w4a8_group")
    assert asked.latency_s[0] > predict_gemm("h200", "w4a8_group", 64, 4096, 4096).latency_s[0]  # quantizer and branch


def test_counts_are_whole_and_paired() -> None:
    paired = counts(m=[1, 2], n=3)
    assert (paired["m"].tolist(), paired["n"].tolist()) == ([1, 2], [3, 3])
    for wrong in (0, -1, 1.5, np.nan):
        with pytest.raises(ValueError, match="n: must be whole numbers >= 1"):
            counts(m=1, n=wrong)


def test_other_machines_are_refused() -> None:
    with pytest.raises(ValueError, match=r"spatten is no GPU of these models \(its planner is spatten\)"):
        predict_gemm("spatten", "bf16", 1, 1, 1)
    with pytest.raises(ValueError, match="did you mean 'l40s'"):
        predict_gemm("l40", "bf16", 1, 1, 1)
