"""Fitting our W4 GEMMs: it finds again what made the times, and never looks at held-out points."""

from typing import Any

import numpy as np
import pytest

from accel.gpu.loading import load_fit
from accel.gpu.machine import GpuMachine
from accel.gpu.w4 import W4Fit
from accel.machine import load_machine
from analysis.gpu import fit_w4 as fitting
from dataflow.gpu.w4 import w4_gemm

M = np.tile([1, 16, 64, 128, 512, 4096], 3)
N, K = np.repeat([4096, 12288, 3072], 6), np.repeat([4096, 3072, 15360], 6)


def gpu() -> GpuMachine:
    loaded = load_machine("h200")
    assert isinstance(loaded, GpuMachine)
    return loaded


def truth() -> W4Fit:
    found = load_fit("h200").w4
    assert found
    return found


def record(kinds: tuple[str, ...] = (*fitting.WGMMA, *fitting.SYNC)) -> dict[str, Any]:
    """Times that the shipped fit predicts; every fifth point is held out and ten times as long."""
    rows = []
    for kind in kinds:
        seconds = w4_gemm(gpu(), truth(), kind, M, N, K).seconds
        for i, (m, n, k, taken) in enumerate(zip(M.tolist(), N.tolist(), K.tolist(), seconds.tolist(), strict=True)):
            held = i % 5 == 4
            us = taken * 1e6 * (10 if held else 1)
            rows.append({"part": f"ours_{kind}", "m": m, "n": n, "k": k, "us": us, "held_out": held})
    return {"rows": rows, "ceilings": {"mma_per_s": truth().sync.hopper * gpu().per_s("int8")}}


def test_times_of_the_model_are_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a start that is not the truth; held-out times, ten times as long, do not pull it."""
    monkeypatch.setattr(fitting, "STARTS", 1)
    fit, errors = fitting.fit_w4(record(), gpu())
    for kind in (*fitting.WGMMA, *fitting.SYNC):
        name, error = fitting.errors(gpu(), fit, fitting.points(record(), kind, False))
        assert error.mean < 0.02, kind
        assert errors[name].bias == pytest.approx(-0.9, abs=0.01)


def test_points_keep_to_the_flag() -> None:
    known, held = (fitting.points(record(), "w8a8", flag) for flag in (False, True))
    assert (len(known.m), len(held.m)) == (15, 3)
    assert known.where(known.m == 1).n.tolist() == [4096, 12288, 3072]


def test_a_record_without_the_part() -> None:
    with pytest.raises(ValueError, match="no points of part ours_w4a16"):
        fitting.points(record(("w8a8",)), "w4a16", False)
