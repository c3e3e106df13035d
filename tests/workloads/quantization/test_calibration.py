"""Calibration: which inputs are recorded, which layers share one, which come from a GELU."""

import pytest

torch = pytest.importorskip("torch")

from tests.workloads.quantization.layers_for_tests import small_block  # noqa: E402
from workloads.quantization.calibration import record, record_inputs, shared_inputs  # noqa: E402
from workloads.quantization.linears import linear_layers, replace_linear  # noqa: E402


def test_inputs_are_those_of_the_layers() -> None:
    block, x = small_block()
    inputs = record_inputs(block, lambda model: model(x), rows=None)
    assert set(inputs) == {"q", "k", "v", "out", "fc1", "fc2"}
    assert torch.equal(inputs["q"], block.norm(x).detach().reshape(-1, 64))
    assert inputs["q"] is inputs["v"]


def test_layers_with_the_same_tensor_are_one_group() -> None:
    block, x = small_block()
    recording = record(block, lambda model: (model(x), model(x)))
    assert shared_inputs(recording) == [("q", "k", "v"), ("out",), ("fc1",), ("fc2",)]
    assert recording.after_gelu() == ["fc2"]


def test_a_layer_that_once_had_another_input_shares_none() -> None:
    block, x = small_block()

    def run(model: object) -> None:
        block(x)
        block.k(x)

    assert ("q", "v") in shared_inputs(record(block, run))


def test_a_tensor_changed_in_place_is_another() -> None:
    pair = torch.nn.ModuleList([torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)])

    def run(model: object) -> None:
        x = torch.ones(4, 8)
        pair[0](x)
        pair[1](x.mul_(2))

    recording = record(pair, run)
    assert len(shared_inputs(recording)) == 2
    assert float(recording.inputs["0"].max()) == 1
    assert float(recording.inputs["1"].max()) == 2


def test_a_gelu_with_something_after_it_is_none() -> None:
    model = torch.nn.Sequential(
        torch.nn.GELU(), torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Tanh(), torch.nn.Linear(8, 8)
    )
    assert record(model, lambda m: m(torch.ones(2, 8))).after_gelu() == ["1"]
    assert record(model, lambda m: (m(torch.ones(2, 8)), m[1](torch.ones(2, 8)))).after_gelu() == []


def test_samples_are_even_and_repeatable() -> None:
    layer = torch.nn.Linear(1, 1)

    def run(model: object) -> None:
        for start in range(0, 1000, 10):
            layer(torch.arange(start, start + 10.0)[:, None])

    first = record_inputs(torch.nn.Sequential(layer), run, rows=200)["0"]
    assert torch.equal(first, record_inputs(torch.nn.Sequential(layer), run, rows=200)["0"])
    assert not torch.equal(first, record_inputs(torch.nn.Sequential(layer), run, rows=200, seed=1)["0"])
    assert first.shape == (200, 1)
    assert first.unique().numel() == 200
    assert float(first.mean()) == pytest.approx(499.5, abs=4 * 289 / 200**0.5)


def test_layers_are_chosen_by_pattern() -> None:
    block, _ = small_block()
    assert list(linear_layers(block, ["fc*", "q"])) == ["q", "fc1", "fc2"]
    assert list(linear_layers(block, lambda name, layer: layer.in_features == 128)) == ["fc2"]
    with pytest.raises(ValueError, match=r"no linear layer is called 'fc3'; nearest: fc"):
        linear_layers(block, ["fc3"])
    with pytest.raises(ValueError, match=r"the model has no module 'fc3'"):
        replace_linear(block, "fc3", block.q)
