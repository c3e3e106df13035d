"""Studies of quality: the order on planted outliers, where the error is, planted blocks, intervals, records."""

import numpy as np
import pytest

from analysis.quality.recipes import RECIPES

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def planted():
    """Mean errors by recipe over two layers with planted outliers."""
    from dataclasses import replace

    from analysis.quality.outliers import RECIPES as names
    from analysis.quality.outliers import outlier_quality
    from analysis.quality.recipes import adapted

    found = {name: RECIPES[name] for name in names}
    coarse = {name: replace(one, options={**one.options, **adapted(one, grids=8)}) for name, one in found.items()}
    return {row["recipe"]: row for row in outlier_quality(coarse, 2, 192)}


def test_the_order_of_quality_on_planted_outliers(planted):
    """The issue's order; smoothing and branch alone both lie between naive and SVDQuant."""
    error = {name: row["error"] for name, row in planted.items()}
    assert error["svdquant_int4_gptq"] < error["svdquant_int4"] < error["smooth_int4"] < error["svd_int4"]
    assert error["svd_int4"] < error["rtn_int4"]
    assert error["svdquant_nvfp4_gptq"] < error["svdquant_nvfp4"] < error["smooth_nvfp4"] < error["rtn_nvfp4"]
    for int4, nvfp4 in [(name, name.replace("int4", "nvfp4")) for name in error if "int4" in name]:
        assert nvfp4 not in error or error[nvfp4] < error[int4]


def test_activations_and_weights_apart_add_up_to_the_error(planted):
    """Two independent errors: the root of their squares is the whole within a fifth, and none is greater than it."""
    for row in planted.values():
        both = (row["activation_error"] ** 2 + row["weight_error"] ** 2) ** 0.5
        assert both == pytest.approx(row["error"], rel=0.2)


def test_without_rounding_there_is_no_error():
    from analysis.quality.measures import layer_errors, quantize_group
    from analysis.quality.outliers import planted as draw
    from analysis.quality.recipes import Recipe

    drawn = draw(rows=64, outputs=64, columns=64)
    exact = Recipe("", "svdquant", {"kind": "unquantized", "rank": 8, "alpha": 0.5, "beta": 0.5})
    layer = quantize_group(exact, [drawn.weight.double()], [None], drawn.inputs, "float16")[0]
    found = layer_errors(layer, drawn.weight.double(), None, drawn.scored)
    assert max(found.output, found.activations, found.weights, found.largest) < 1e-6


def test_errors_of_activations_know_shift_smoothing_and_branch():
    """(Q(Xs) - Xs) R^T by hand, from the layer's own output with and without rounded activations."""
    from analysis.quality.measures import activation_error, quantize_group

    generator = torch.Generator().manual_seed(1)
    x = torch.nn.functional.gelu(2 * torch.randn(48, 128, generator=generator))
    weight = torch.randn(64, 128, generator=generator)
    layer = quantize_group(RECIPES["svdquant_int4_r16"], [weight], [None], x, "float16", shifted=True)[0]
    assert float(layer.shift) == 0.171875
    snapped = layer.dequantized().double() / layer.smooth.double()  # a "weight" whose residual is what codes stand for
    branch = layer.up.double() @ layer.down.double()
    rounded = layer(x.double())
    layer.quantize_activations = False
    apart = rounded - layer(x.double())
    np.testing.assert_allclose(activation_error(layer, snapped + branch, x.double()), apart, atol=1e-9)


def test_why_smoothing_moves_outliers_and_the_branch_takes_them(tmp_path):
    from analysis.quality.outliers import planted as draw
    from analysis.quality.why import plot, stages, table

    drawn = draw(rows=256, outputs=128, columns=128)
    found = stages(drawn.weight, None, drawn.inputs, drawn.scored, grids=5, iterations=2)
    raw, smoothed, branch = table(found)
    assert smoothed["x_outlier"] < raw["x_outlier"] / 3
    assert smoothed["w_outlier"] > 2 * raw["w_outlier"]
    assert smoothed["weight_error"] > raw["weight_error"] > branch["weight_error"]
    assert branch["w_outlier"] < smoothed["w_outlier"] / 2
    assert branch["rounded_weights"] < 0.8
    one, two = (plot(found, "title", tmp_path / name).read_bytes() for name in ("one.png", "two.png"))
    assert one == two
    with pytest.raises(ValueError, match=r"must end in \.png"):
        plot(found, "title", tmp_path / "x.gif")


def test_the_interval_of_a_rank_correlation_holds_it():
    from analysis.quality.encoder import rank_interval

    random = np.random.default_rng(0)
    dense = random.normal(size=(16, 24))
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    noisy = dense + 0.05 * random.normal(size=dense.shape)
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    low, high = rank_interval(dense, noisy, draws=100)
    assert 0.5 < low < high < 1
    assert rank_interval(dense, dense, draws=5) == (pytest.approx(1), pytest.approx(1))


def test_calibration_texts_are_none_of_the_scored():
    from analysis.quality.encoder import calibration_texts
    from workloads.texts import load_texts

    pieces = calibration_texts()
    assert len(set(pieces)) == len(pieces) == 48
    for text in load_texts():
        assert not any(text["text"][:60] in piece or piece[:60] in text["text"] for piece in pieces)


def test_a_pointwise_convolution_is_its_linear_layer():
    from analysis.quality.blocks import _pointwise

    convolution = torch.nn.Conv2d(40, 24, 1)
    found = _pointwise(convolution)
    assert found.linear.in_features == 64
    found.linear.weight.data[:, :40] = convolution.weight.data[:, :, 0, 0]
    found.linear.bias.data = convolution.bias.data
    x = torch.randn(2, 40, 3, 5)
    torch.testing.assert_close(found(x), convolution(x))


def test_an_unknown_block_is_named():
    from analysis.quality.blocks import build

    with pytest.raises(ValueError, match=r"block: must be one of flux, sana, llama3, got 'sdxl'"):
        build("sdxl")


def test_a_fixed_rank_stays():
    from analysis.quality.recipes import adapted

    assert adapted(RECIPES["svdquant_int4"], rank=64, grids=None) == {"rank": 64}
    assert adapted(RECIPES["smooth_int4"], rank=64, grids=7) == {"grids": 7}
    assert adapted(RECIPES["svd_int4"], iterations=9) == {}
    assert adapted(RECIPES["nf4"], rank=64) == {}


def test_records_say_how_they_were_made(tmp_path):
    from analysis.quality.records import read_rows, write_rows

    file = tmp_path / "a.csv"
    write_rows(file, [{"a": 1, "b": 0.123456789}, {"a": 2, "c": None}], {"command": "tilewright x, y"})
    assert file.read_text("utf-8").startswith("# command: tilewright x, y\na,b,c\n")
    assert read_rows(file) == [{"a": "1", "b": "0.123457", "c": ""}, {"a": "2", "b": "", "c": ""}]


def test_intervals_share_a_column():
    from analysis.commands.quality import _intervals

    row = {"recipe": "a", "rank": 0.98, "rank_low": 0.97, "rank_high": 0.99, "b_high": 3.0, "step": float("nan")}
    assert _intervals(row) == {"recipe": "a", "rank": "0.98", "rank 95 %": "0.97 to 0.99", "b_high": "3", "step": ""}


def test_a_study_is_recorded_row_by_row(tmp_path):
    from analysis.commands.quality import Record
    from analysis.quality.records import read_rows

    record = Record(tmp_path / "a.csv")
    record.add({"a": 1})
    assert read_rows(tmp_path / "a.csv") == [{"a": "1"}]
    record.add({"a": 2})
    assert read_rows(tmp_path / "a.csv") == [{"a": "1"}, {"a": "2"}]
