"""Figures of the notebook: what is drawn, and what is left out."""

import matplotlib.pyplot as plt
import pytest

from analysis.gpu import pictures
from analysis.gpu.pictures import Bar, curves, rooflines, whole_models
from dataflow.gpu.predict import predict_gemm


def test_a_format_that_falls_back_is_not_drawn() -> None:
    asked = ["w4a16", "w4a8_group", "w4a4_int4", "w4a4_nvfp4"]
    assert set(curves("h200", asked, 4096, 4096)) == {"w4a16", "w4a8_group"}
    assert set(curves("rtx_5090", asked, 4096, 4096)) == {"w4a16", "w4a8_group", "w4a4_nvfp4"}


def test_a_roofline_has_a_line_and_a_floor_above_it() -> None:
    figure = rooflines(["h200"], ["w4a8_group"], 4096, 4096)
    floor, line = figure.axes[0].lines
    assert (floor.get_ydata() >= line.get_ydata()).all()
    one = predict_gemm("h200", "w4a8_group", 1, 4096, 4096)
    assert line.get_ydata()[0] == pytest.approx(2e-12 * 4096**2 / one.latency_s[0])


def test_models_are_drawn_beside_what_was_measured() -> None:
    some = [Bar("toy", "graph", 2e-3, 1e-3, 4e-3, 3e-3), Bar("toy", "eager", 5e-3, 4e-3, 6e-3, None)]
    figure = whole_models(some)
    ours, theirs = figure.axes[0].containers[1], figure.axes[0].containers[2]
    assert [bar.get_height() for bar in ours] == pytest.approx([2, 5])
    assert theirs[0].get_height() == pytest.approx(3)
    assert theirs[1].get_height() != theirs[1].get_height()
    plt.close("all")


def test_a_recording_gives_a_bar_for_each_way_to_execute_it() -> None:
    found = pictures.bars({"GPT-2": "gpt2_small_h200_2"})
    assert [bar.execution for bar in found] == ["graph", "eager", "compiled", "compiled_graph"]
    assert [bar.measured_s is None for bar in found] == [False, False, True, True]
    assert all(bar.low_s <= bar.predicted_s <= bar.high_s for bar in found)
