"""QuaRot-type W4A4: rotations folded or at run time, in models of the Llama type and in others."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.workloads.quantization.llamas import logits, run, small_decoder  # noqa: E402
from workloads.quantization.layers import QuantizedLinear, quantized_layers  # noqa: E402
from workloads.quantization.quantize import quantize  # noqa: E402
from workloads.quantization.saving import load_quantized, save_quantized  # noqa: E402

LAYERS = ["model.layers.*"]


def model_with_outliers() -> Any:
    """Outlier channels in the stream and before down_proj."""
    model = small_decoder(hidden=128, intermediate=192, head_size=16).float()
    model.model.embed_tokens.weight[:, [5, 77]] *= 20
    for layer in model.model.layers:
        layer.mlp.up_proj.weight[11] *= 20
    return model


@pytest.mark.parametrize("gptq", [False, True])
def test_rotation_helps_against_outliers(gptq: bool) -> None:
    model = model_with_outliers()
    exact = logits(model)
    plain = logits(quantize(model, "gptq" if gptq else "rtn", run, LAYERS, kind="w4a4").model)
    turned = quantize(model, "quarot", run, LAYERS, gptq=gptq).model
    names = [name for name, layer in quantized_layers(turned).items() if "hadamard" in layer.names]
    assert [name.rpartition(".")[2] for name in names] == ["down_proj"] * 2
    assert (logits(turned) - exact).norm() < 0.8 * (plain - exact).norm()


def test_any_layer_is_rotated_at_run_time() -> None:
    """The inverse is in the weights: with exact activations only the rounding of weights is left."""
    layer = torch.nn.Linear(192, 40).requires_grad_(False)
    x = torch.randn(200, 192, generator=torch.Generator().manual_seed(0))
    x[:, 3] *= 50
    found = quantize(torch.nn.Sequential(layer), "quarot", lambda model: model(x), gptq=True)
    (turned,) = quantized_layers(found.model).values()
    plain = quantize(torch.nn.Sequential(layer), "rtn", kind="w4a4").model
    exact = layer(x)
    errors = [float((one(x) - exact).norm() / exact.norm()) for one in (plain, found.model)]
    assert errors[1] < 0.5 * errors[0]
    turned.quantize_activations = False
    assert (found.model(x) - exact).norm() < 0.15 * exact.norm()
    with pytest.raises(ValueError, match=r"names of LlamaForCausalLM"):
        quantize(torch.nn.Sequential(layer), "quarot", lambda model: model(x), kv_bits=4)


def test_a_kernel_gets_the_rotated_input() -> None:
    layer = torch.nn.Linear(64, 8, bias=False).requires_grad_(False)
    found = quantize(torch.nn.Sequential(layer), "quarot", lambda model: model(torch.ones(2, 64))).model[0]
    seen = {}

    def kernel(x: Any, state: Any, form: str) -> Any:
        seen.update(state, x=x)
        return x @ found.dequantized().numpy().T

    found.kernel = kernel
    x = torch.randn(5, 64)
    by_kernel = found(x)
    found.kernel, found.quantize_activations = None, False
    torch.testing.assert_close(by_kernel, found(x), rtol=1e-2, atol=1e-2)
    assert "hadamard" not in seen


def test_a_saved_model_still_rotates(tmp_path: Any) -> None:
    model = model_with_outliers()
    found = quantize(model, "quarot", run, LAYERS).model
    save_quantized(found, tmp_path / "model")
    other = load_quantized(tmp_path / "model", model_with_outliers())
    assert torch.equal(logits(other), logits(found))
    assert isinstance(other.get_submodule("model.layers.0.mlp.down_proj"), QuantizedLinear)
