"""The picture of a value trace."""

import numpy as np
import pytest

from analysis.values_plot import Column, _draw, _panels, plot_channels
from workloads.trace import load_workload


def test_the_picture_is_the_same_bytes_again(tmp_path):
    trace = load_workload("decoder_values")
    one, two = (plot_channels(trace, tmp_path / name).read_bytes() for name in ("one.png", "two.png"))
    assert one == two
    assert one.startswith(b"\x89PNG")


def test_inputs_are_drawn_once_and_named_after_their_readers():
    inputs, weights, heads = _panels(load_workload("decoder_values")).values()
    assert (len(inputs), len(weights), len(heads)) == (9 * 4 + 1, 64, 9 * 6)
    assert [one.role for one in inputs[:2]] == ["self_attn.q_proj, k_proj, v_proj", "self_attn.o_proj"]
    assert (inputs[-1].role, inputs[-1].layer, inputs[4].layer) == ("lm_head", "", "1")
    assert [one.role for one in heads[:5:2]] == ["K before rotation", "K in the cache", "V"]


def test_the_outlier_is_marked_where_it_is():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    strong, weak = np.ones(11), np.ones(11)
    strong[5], weak[5] = 30.0, 7.0
    _draw(axes, "title", [Column("a", "0", weak), Column("b", "1", strong)])
    assert [(text.get_text(), text.xy) for text in axes.texts] == [("30×", (pytest.approx(1.0), 30.0))]


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.png, \.svg, \.pdf, got .*x\.gif"):
        plot_channels(load_workload("decoder_values"), tmp_path / "x.gif")
