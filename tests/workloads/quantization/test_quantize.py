"""`quantize` and the plain methods: groups, errors, kernels, GPTQ, SmoothQuant, AWQ."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.workloads.quantization.layers_for_tests import outlier_layer, small_block  # noqa: E402
from workloads.quantization.gptq import gptq, hessian_of  # noqa: E402
from workloads.quantization.grids import KINDS, measured  # noqa: E402
from workloads.quantization.layers import QuantizedLinear, quantized_layers, use_kernel  # noqa: E402
from workloads.quantization.methods import methods, register  # noqa: E402
from workloads.quantization.quantize import quantize  # noqa: E402
from workloads.quantization.smoothing import smooth_scale, strengths  # noqa: E402


def error(method: str, layer: Any, x: Any, **options: Any) -> float:
    found = quantize(torch.nn.Sequential(layer), method, lambda model: model(x), rows=None, **options)
    assert found.report[0].error is not None
    return found.report[0].error


def test_each_kind_comes_near_the_layer() -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(128, 32), torch.randn(64, 128)
    limits = {"w8a8": 3e-4, "w4a4": 0.05, "w4a4_nvfp4": 0.05}
    for kind in KINDS:
        if kind != "unquantized":
            assert 0 < error("rtn", layer, x, kind=kind) < limits.get(kind, 0.02), kind


def test_the_model_stays_and_its_copy_is_quantized() -> None:
    block, x = small_block()
    steps: list[tuple[int, int, str]] = []
    found = quantize(block, "rtn", layers=["fc*", "q"], progress=lambda *step: steps.append(step))
    assert not quantized_layers(block)
    assert list(quantized_layers(found.model)) == ["q", "fc1", "fc2"]
    assert steps == [(0, 3, "q"), (1, 3, "fc1"), (2, 3, "fc2"), (3, 3, "")]
    assert found.model(x).shape == x.shape
    assert quantize(block, "rtn", in_place=True).model is block


def test_gptq_has_less_error_than_rounding() -> None:
    layer, x = outlier_layer()
    mixed = x + 0.5 * x.roll(1, 1)  # correlated channels
    for kind in ("w4a16", "nf4", "w4a8_channel", "w4a8_group"):
        assert error("gptq", layer, mixed, kind=kind) < 0.85 * error("rtn", layer, mixed, kind=kind), kind


def test_gptq_does_not_depend_on_the_block() -> None:
    layer, x = outlier_layer()
    grid, hessian = measured("w4a16", layer.weight.detach(), torch.float16), hessian_of(x + x.roll(1, 1))
    whole = gptq(layer.weight.detach(), hessian, grid)
    assert not torch.equal(whole, grid.encode(layer.weight.detach()))
    assert (gptq(layer.weight.detach(), hessian, grid, block=24) != whole).float().mean() < 0.002  # sums in float32


def test_gptq_without_correlation_is_rounding() -> None:
    weight = outlier_layer()[0].weight.detach()
    grid = measured("w4a16", weight, torch.float16)
    assert torch.equal(gptq(weight, torch.eye(128).double(), grid), grid.encode(weight))


def test_gptq_solves_two_columns_exactly() -> None:
    """The second weight takes half the first one's error with it, as its least squares say (correlation 1/2)."""

    class Whole:
        def encode(self, weight: Any, columns: Any) -> Any:
            return weight.round()

        def decode(self, codes: Any, columns: Any) -> Any:
            return codes

    hessian = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double()
    assert gptq(torch.tensor([[1.4, 2.33]]), hessian, Whole(), damp=0).tolist() == [[1.0, 3.0]]  # 2.33 + 0.4 / 2
    assert gptq(torch.tensor([[1.4, 2.28]]), hessian, Whole(), damp=0).tolist() == [[1.0, 2.0]]


def test_gptq_of_singular_and_dead_inputs() -> None:
    layer, x = outlier_layer()
    x = x[:4].clone()
    x[:, 7] = 0
    grid = measured("w4a16", layer.weight.detach(), torch.float16)
    codes = gptq(layer.weight.detach(), hessian_of(x), grid)
    assert torch.equal(grid.decode(codes)[:, 7], torch.zeros(96))
    with pytest.raises(ValueError, match=r"no Cholesky factor after 3 dampings"):
        gptq(layer.weight.detach(), -torch.eye(128).double(), grid, tries=3)


def test_smoothing_helps_where_outliers_are() -> None:
    layer, x = outlier_layer()
    assert error("smoothquant", layer, x) < 0.5 * error("rtn", layer, x, kind="w8a8")
    assert error("awq", layer, x) < 0.7 * error("rtn", layer, x, kind="w4a16")


def test_strengths_are_the_39_of_deepcompressor() -> None:
    found = strengths()
    assert len(found) == len(set(found)) == 39
    assert {(0.0, 0.0), (0.05, 0.0), (0.05, 0.95), (0.95, 0.0)} <= set(found)
    assert all(0 <= beta < 1 and (beta == 0 or alpha + beta == pytest.approx(1)) for alpha, beta in found)


def test_a_dead_channel_is_not_smoothed() -> None:
    inputs, weights = torch.tensor([4.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 4.0])
    assert smooth_scale(inputs, weights, 0.5, 0.5).tolist() == [2.0, 1.0, 0.5]
    assert smooth_scale(inputs, torch.tensor([1.0, 1.0, 0.0]), 0.5, 0.5).tolist() == [1.0, 1.0, 1.0]
    assert smooth_scale(torch.tensor([4.0, 1e-6]), torch.ones(2), 1, 0, torch.float16).tolist() == [4.0, 1.0]


def test_a_kernel_takes_the_place_of_the_computation() -> None:
    layer, x = outlier_layer()
    found = quantize(torch.nn.Sequential(layer), "smoothquant", lambda model: model(x), form="bfloat16")
    seen: list[Any] = []

    def kernel(inputs: Any, state: Any, form: str) -> Any:
        seen.append((inputs, dict(state), form))
        return np.full((len(inputs), 96), 3, np.float32)

    assert use_kernel(found.model, lambda kind: {"w8a8": kernel}[kind])(x[:6].reshape(2, 3, 128)).eq(3).all()
    inputs, state, form = seen[0]
    assert form == "bfloat16"
    assert sorted(state) == ["bias", "codes", "scale"]  # the division was made before
    assert {name: array.dtype.name for name, array in state.items()} == {
        "bias": "float32",
        "codes": "int8",
        "scale": "float32",
    }
    smooth = found.model[0].smooth
    assert np.array_equal(inputs, (x[:6].bfloat16() / smooth).float().numpy())
    use_kernel(found.model, None)(x)
    assert len(seen) == 1


def test_a_state_that_changes_is_decoded_anew() -> None:
    torch.manual_seed(0)
    one, other = (quantize(torch.nn.Sequential(torch.nn.Linear(64, 8)), "rtn").model for _ in range(2))
    x = torch.randn(4, 64)
    assert not torch.equal(one(x), other(x))
    one.load_state_dict(other.state_dict())
    assert torch.equal(one(x), other(x))
    one[0].change({"scale": one[0].scale * 2, "bias": None})
    torch.testing.assert_close(one(x), 2 * (other(x) - other[0].bias.float()))


def test_weights_alone_have_less_error_than_both() -> None:
    layer, x = outlier_layer()
    module = quantize(torch.nn.Sequential(layer), "rtn", kind="w4a4").model[0]
    both = (module(x) - layer(x)).square().sum()
    module.quantize_activations = False
    alone = (module(x) - layer(x)).square().sum()
    exact = torch.nn.functional.linear(x, module.dequantized(), module.bias.float())
    torch.testing.assert_close(module(x), exact)
    assert alone < both


def test_errors_say_what_is_wrong() -> None:
    block, x = small_block()
    run = lambda model: model(x)  # noqa: E731
    for message, arguments, options in (
        (r"method: must be one of .*, got 'svd'; nearest: ", ("svd",), {}),
        (r"svdquant: has no option 'ranks', only .*; nearest: rank", ("svdquant", run), {"ranks": 3}),
        (r"gptq: needs calibration data: give run=", ("gptq",), {}),
        (r"q: w4a8_group: K must be a multiple of 128, got 64; leave it out", ("rtn",), {"kind": "w4a8_group"}),
        (r"run\(model\) never reached q", ("gptq", lambda model: None), {}),
        (r"after_gelu: no layer to quantize is called 'fc3'; nearest: fc", ("rtn", run), {"after_gelu": ["fc3"]}),
        (r"rank must be at least 0, got -1", ("svdquant", run), {"rank": -1}),
    ):
        with pytest.raises(ValueError, match=message):
            quantize(block, *arguments, **options)
    with pytest.raises(ValueError, match="'rtn' is taken by Rtn"):
        register("rtn")(methods()["nf4"])


def test_layer_prints_what_it_is() -> None:
    block, _ = small_block()
    assert "q: w4a4" not in repr(block)
    found = quantize(block, "rtn").model
    assert "(q): QuantizedLinear(w4a4, in_features=64, out_features=64, float16, rank=0)" in repr(found)
    assert isinstance(found.q, QuantizedLinear)


def test_fake_quantized_comes_near_the_kernel_models() -> None:
    """All roundings that matter are in both: the difference is far below the error itself."""
    from gpu_kernels.models import kernel_model

    layer, x = outlier_layer()
    model, x = torch.nn.Sequential(layer), x[:32].half().float()
    for kind, method in (("w8a8", "rtn"), ("w4a8_channel", "rtn"), ("w4a4", "svdquant")):
        options = {"kind": kind, **({"iterations": 1, "rank": 16} if method == "svdquant" else {})}
        found = quantize(model, method, lambda model: model(x), **options).model
        fake, exact = found(x), model(x)
        difference = (use_kernel(found, kernel_model)(x) - fake).square().sum()
        assert 0 < difference < 0.02 * (fake - exact).square().sum(), kind
