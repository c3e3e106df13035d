"""Recording of modules that write in place, the page's own example, and what a shipped trace says of its making."""

import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the test extra has torch")

from workloads.decoder import DecoderShape, build_decoder  # noqa: E402
from workloads.trace import Trace, load_workload  # noqa: E402
from workloads.values import NAMES, Operands, channel_table, record_values  # noqa: E402
from workloads.values.reading import head_ranges, layer_channels, operands, outlier_strength  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "values.md"
MADE = {
    *("kind", "weights_sha256", "inputs", "tokens", "computed", "statistics", "quantile", "kurtosis", "rounding"),
    *("operand_choice", "operand_form", "operands", "importance_inputs", "idle", "unnamed", "starts"),
}


class Rewriting(torch.nn.Module):
    """Two layers that are given one tensor, which is scaled in place between them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def forward(self, x):
        x = x * 1
        first = self.first(x)
        x.mul_(100)
        return first + self.second(x)


class Turning(torch.nn.Module):
    """One head of attention, whose keys are negated and doubled in place, as a rotation may be."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def forward(self, x):
        key = self.k_proj(x)
        key.mul_(-2)
        return torch.nn.functional.scaled_dot_product_attention(self.q_proj(x)[:, None], key[:, None], x[:, None])


def trace_of(values):
    return Trace("toy_values", {"name": "toy"}, {"kind": "values", **values.notes}, {}, values.facts)


def example(word):
    """The Python block of the page with this word."""
    return next(b for b in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if word in b)


def test_an_input_that_is_written_in_place_is_read_again():
    """Shared work between layers that read one tensor must not outlive the numbers in it."""
    trace = trace_of(record_values(Rewriting(), [torch.ones(3, 4)]))
    assert layer_channels(trace, "first")["absmax"].tolist() == [1] * 4
    assert layer_channels(trace, "second")["absmax"].tolist() == [100] * 4


def test_keys_that_are_turned_in_place_were_recorded_before():
    trace = trace_of(record_values(Turning(), [torch.randn(1, 6, 4)], keys_before="k_proj"))
    before, after = head_ranges(trace, "key_before", 0), head_ranges(trace, "key", 0)
    np.testing.assert_array_equal(after["max"], -2 * before["min"])
    np.testing.assert_array_equal(after["min"], -2 * before["max"])


def test_operands_with_a_bias_reproduce_the_layer():
    """Within the rounding of 11 bits of each operand; a bias of the wrong rows, or none, is far outside."""
    torch.manual_seed(4)
    layer, x = torch.nn.Linear(8, 6), torch.randn(5, 8)
    kept = operands(trace_of(record_values(layer, [x], operands=Operands(["*"], tokens=4, outputs=3))), "")
    got, right = kept["input"] @ kept["weight"].T + kept["bias"], layer.double()(x.double()).detach().numpy()[:4, :3]
    assert np.abs(got - right).max() <= 2**-10 * (np.abs(kept["input"]) @ np.abs(kept["weight"]).T + 1).max()
    assert np.abs(kept["bias"]).min() > 0.01


def test_the_example_of_the_page_runs():
    block = example("record_values(")
    shape = DecoderShape(layers=1, hidden=32, heads=4, kv_heads=2, head_size=16, intermediate=48, context=64)
    scope = {"module": build_decoder(shape), "inputs": [torch.randint(256, (1, 40))]}
    exec(block, scope)
    assert set(scope["values"].notes["operands"]) == {f"model.layers.0.mlp.{n}_proj" for n in ("gate", "up", "down")}
    assert "attention.key_before.max" in scope["values"].facts


def test_the_reading_of_the_page_gives_what_it_says():
    scope = {}
    exec(example("load_workload("), scope)
    assert f"{scope['strength']:.1f}" == "30.3"
    assert [f"{one:.2f}" for one in scope["keys"]] == ["3.06", "1.92"]
    assert (scope["weight"].shape, scope["weight"].dtype) == ((256, 256), np.float64)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_trace_tells_its_source_and_no_machine(name):
    """Times, paths, versions or hosts in `made` would make the bytes depend on where it was exported."""
    trace = load_workload(f"{name}_values")
    assert set(trace.made) <= MADE
    assert not re.search(r"/(?:home|root|tmp|work)\b|\d\.\d+\.\d+|20\d\d-\d\d", str({**trace.made, **trace.model}))


@pytest.mark.parametrize("name", NAMES)
def test_strengths_of_the_table_are_those_of_the_channels(name):
    trace = load_workload(f"{name}_values")
    for row in channel_table(trace)[1]:
        channels = layer_channels(trace, row[0])
        assert (len(channels["absmax"]), len(channels["n_absmax"])) == row[1:3]
        absmax = np.sort(channels["absmax"])
        median = (absmax[(len(absmax) - 1) // 2] + absmax[len(absmax) // 2]) / 2
        assert row[5] == absmax[-1] / median
        assert row[9] == outlier_strength(channels["k_absmax"])
