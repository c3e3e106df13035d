"""Steps of QoQ that must leave a model as it is: the decoder to float64 precision, transformers' to float32's."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.workloads.quantization.llamas import logits, run, small_decoder, small_llama, tokens  # noqa: E402
from workloads.quantization.qoq.llama import Llama, llama_of, sequences  # noqa: E402
from workloads.quantization.qoq.reorder import head_order, reorder, reorder_hidden, reorder_values  # noqa: E402
from workloads.quantization.qoq.rotation import fold_norms, rotate  # noqa: E402
from workloads.quantization.qoq.smoothing import smooth_attention, smooth_outputs  # noqa: E402
from workloads.quantization.quarot import rotate_values  # noqa: E402

MODELS: dict[str, Callable[[], Any]] = {
    "decoder": small_decoder,
    "llama": small_llama,
    "tied": lambda: small_llama(tied=True),
    "every head its own": lambda: small_llama(num_key_value_heads=4),
}


def reorder_heads(view: Llama) -> None:
    """An order of its own for each KV head: what sorting gives in general."""
    for place, block in enumerate(view.blocks):
        channels = torch.randn(view.kv_heads * view.head_size, generator=torch.Generator().manual_seed(place))
        reorder_values(view, block.self_attn, head_order(view, channels))
        reorder_hidden(block.mlp, torch.randperm(40, generator=torch.Generator().manual_seed(place)))


STEPS: dict[str, tuple[Callable[[Llama], None], tuple[str, ...]]] = {  # and the layers that it must change
    "norms": (fold_norms, ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")),
    "rotation": (rotate, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")),
    "signs": (lambda view: rotate(view, seed=7), ("q_proj", "o_proj", "up_proj", "down_proj")),
    "values": (rotate_values, ("v_proj", "o_proj")),
    "SmoothAttention": (lambda view: smooth_attention(view, run), ("q_proj", "k_proj")),
    "outputs by weights": (lambda view: smooth_outputs(view, run, 0, 1), ("v_proj", "o_proj", "up_proj", "down_proj")),
    "outputs": (lambda view: smooth_outputs(view, run, 0.3, 0.7), ("v_proj", "o_proj", "up_proj", "down_proj")),
    "reorder": (lambda view: reorder(view, run), ("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj")),
    "reorder heads": (reorder_heads, ("v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", MODELS)
def test_logits_stay(name: str, step: str) -> None:
    model = MODELS[name]()
    before, exact = copy.deepcopy(model.state_dict()), logits(model)
    view = llama_of(model)
    change, changed = STEPS[step]
    change(view)
    within = 1e-12 if name == "decoder" else 1e-6  # the norms of transformers are float32 inside
    assert float((logits(model) - exact).norm() / exact.norm()) < within
    for layer in view.names(*changed):
        assert not torch.allclose(before[f"{layer}.weight"], model.get_submodule(layer).weight), layer


def test_all_steps_together() -> None:
    model = small_decoder()
    exact = logits(model)
    for change, _ in STEPS.values():
        change(llama_of(model))
    assert float((logits(model) - exact).norm() / exact.norm()) < 1e-12


def test_rotation_spreads_an_outlier() -> None:
    """A channel that makes up nearly the whole stream: afterwards all channels are alike."""
    model = small_decoder(hidden=64)
    model.model.embed_tokens.weight[:, 5] *= 100
    view, strength = llama_of(model), []
    for change in (fold_norms, rotate):
        change(view)
        x = sequences(view, run, ["model.layers.0.self_attn.q_proj"])["model.layers.0.self_attn.q_proj"][0]
        largest = x.abs().flatten(0, 1).amax(0)
        strength.append(float(largest.max() / largest.median()))
    assert strength[0] > 6 > 2.5 > strength[1]


def test_reorder_sorts() -> None:
    """The input channels of down_proj come with falling magnitudes."""
    model = small_decoder()
    view = llama_of(model)
    reorder(view, run)
    (name, *_) = view.names("down_proj")
    largest = sequences(view, run, [name])[name][0].abs().flatten(0, 1).amax(0)
    assert torch.equal(largest, largest.sort(descending=True).values)


def test_smoothed_weights_have_equal_columns() -> None:
    """alpha 0, beta 1: all columns of down_proj are equally large; of o_proj, all that one channel of V serves."""
    model = small_decoder()
    view = llama_of(model)
    smooth_outputs(view, run, 0, 1)
    block = view.blocks[0]
    down = block.mlp.down_proj.weight.abs().amax(0)
    output = block.self_attn.o_proj.weight.abs().amax(0).reshape(2, 2, 8).amax(1)
    torch.testing.assert_close(down, down[:1].expand_as(down))
    torch.testing.assert_close(output, output[:1, :1].expand_as(output))


@pytest.mark.parametrize("model", [small_decoder, small_llama], ids=["decoder", "llama"])
def test_keys_are_those_of_the_model(model: Callable[[], Any]) -> None:
    """SmoothAttention sees the keys of the cache: rotated, with the model's own pairs and angles."""
    found = model()
    view = llama_of(found)
    x = sequences(view, run, view.names("k_proj"))
    if hasattr(found, "shape"):
        cache: list[Any] = []
        found(tokens(), cache)
        keys = [key for key, _ in cache]
    else:
        keys = [layer.keys for layer in found(tokens(), use_cache=True).past_key_values.layers]
    for name, key in zip(x, keys, strict=True):
        layer = found.get_submodule(name)
        torch.testing.assert_close(view.turned(view.split(layer(x[name][0]))), key, rtol=1e-6, atol=1e-6)


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match="names of LlamaForCausalLM, got Linear"):
        llama_of(torch.nn.Linear(2, 2))
    model = small_decoder()
    model.model.layers[1]["input_layernorm"] = torch.nn.LayerNorm(24)
    with pytest.raises(ValueError, match=r"layers\.1\.input_layernorm must be one of RMSNorm.*got LayerNorm"):
        llama_of(model)
    del model.model.layers[0].mlp["up_proj"]
    with pytest.raises(ValueError, match=r"layers\.0\.mlp has no up_proj"):
        llama_of(model)
    with pytest.raises(ValueError, match="no matrix of size 18"):
        rotate(llama_of(small_decoder(hidden=18)))


def test_normalized_keys_cannot_be_smoothed() -> None:
    model = small_decoder()
    model.model.layers[0].self_attn["q_norm"] = torch.nn.RMSNorm(8)
    with pytest.raises(ValueError, match="q_norm"):
        smooth_attention(llama_of(model), run)


def test_calibration_must_reach_the_layers() -> None:
    with pytest.raises(ValueError, match=r"never reached model\.layers\.0\.self_attn\.k_proj"):
        smooth_attention(llama_of(small_decoder()), lambda model: None)
