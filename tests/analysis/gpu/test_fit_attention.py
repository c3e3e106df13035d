import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.gpu.attention import AttentionFit
from accel.gpu.loading import load_fit
from accel.machine import load_machine
from analysis.gpu.fit_attention import all_points, errors, fit_attention, judged, sections
from analysis.gpu.fit_linear_attention import linear_points
from gpu_kernels.bench.calibration.points import decodes, prefills

pytest.importorskip("scipy")
H200 = load_machine("h200")
RESULTS = Path(__file__).parents[3] / "gpu_kernels" / "results"
PARTS = ("decode_kv4", "decode_kv8", "decode_kv16", "decode_sdpa_flash", "decode_sdpa_cudnn")
PARTS += ("prefill_sdpa_flash", "prefill_sdpa_cudnn", "linear_attention")


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads((RESULTS / "calibration_h200.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def shipped() -> AttentionFit:
    fit = load_fit("h200").attention
    assert fit is not None
    return fit


def test_the_shipped_fit_keeps_the_goals_on_points_that_were_held_out(record: Any, shipped: AttentionFit) -> None:
    found = errors(H200, record, shipped)
    for kind, one in found.items():
        mean, p90 = (0.03, 0.06) if kind.startswith("prefill") else (0.06, 0.11)
        assert one.mean <= mean, kind
        assert one.p90 <= p90, kind
    decode = [found[f"decode_attention_kv{bits}"] for bits in (4, 8, 16)]
    assert np.mean([one.mean for one in decode]) <= 0.05
    assert np.mean([one.p90 for one in decode]) <= 0.10


def test_a_second_card_agrees(shipped: AttentionFit) -> None:
    record = json.loads((RESULTS / "calibration_h200_second_machine.json").read_text("utf-8"))
    for kind, one in errors(H200, record, shipped).items():
        assert one.mean <= 0.06, kind
    memory, linear = (getattr(load_fit("h200"), name) for name in ("memory_bound", "linear_attention"))
    assert judged(linear_points(H200, record, memory), linear)["linear_attention"].mean <= 0.05


def test_the_errors_in_the_file_are_those_of_its_numbers(record: Any, shipped: AttentionFit) -> None:
    fit = load_fit("h200")
    for kind, one in errors(H200, record, shipped).items():
        assert fit.error[kind].mean == pytest.approx(one.mean, rel=0.02), kind
        assert fit.error[kind].points == one.points


def test_points_are_held_out_by_the_rule_that_was_settled_before(record: Any) -> None:
    held = {one.name: one.held_out for one in (*decodes(), *prefills())}
    rows = [row for row in record["rows"] if row["part"].startswith(("decode_", "prefill_"))]
    assert all(row["held_out"] == held[row["name"]] for row in rows)


def test_a_fit_to_its_own_predictions_predicts_them(record: Any, shipped: AttentionFit) -> None:
    rows = [row for row in record["rows"] if row["part"] in PARTS and "us" in row]
    made = {"ceilings": record["ceilings"], "rows": [dict(row) for row in rows]}
    for points in all_points(H200, made):
        assert len(points.seconds)
    again = fit_attention(_predicted(made, shipped), H200)
    for kind, one in errors(H200, _predicted(made, shipped), again).items():
        assert one.mean < 0.02, kind


def _predicted(record: dict[str, Any], fit: AttentionFit) -> dict[str, Any]:
    """The record with the fit's own times in place of those measured."""
    rows = []
    for part in PARTS[:-1]:
        for causal in (False, True):
            some = [row for row in record["rows"] if row["part"] == part and row.get("causal", False) == causal]
            if some:
                times = all_points(H200, {"rows": some})[0].estimate(fit).seconds
                rows += [row | {"us": 1e6 * float(time)} for row, time in zip(some, times, strict=True)]
    return record | {"rows": rows}


def test_sections_say_what_they_were_fitted_to(record: Any) -> None:
    made = sections(H200, record, load_fit("h200").memory_bound)
    known = [row for row in record["rows"] if row["part"] in PARTS[:-1] and not row["held_out"] and "us" in row]
    assert made["attention"].fitted == len(known)
    linear = made["linear_attention"]
    assert (linear.fitted, linear.errors["linear_attention"].points) == (5, 9)
    assert list(sections(H200, record)) == ["attention"]
    with pytest.raises(ValueError, match="record: no points of part prefill_sdpa_flash"):
        sections(H200, {"ceilings": record["ceilings"], "rows": []})
