"""Building a model on a place: shapes only, random weights that are sane, checkpoints that fit or are refused."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from workloads.zoo.placing import construct, tensor  # noqa: E402
from workloads.zoo.registry import Place  # noqa: E402

CPU = Place("cpu", "float32")


def llama(**changes: Any) -> Callable[[], Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    return partial(LlamaForCausalLM, LlamaConfig(**{"vocab_size": 100, **sizes, **changes}))


def bert() -> Callable[..., Any]:
    from transformers import BertConfig, BertModel

    return partial(BertModel, BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2))


def autoencoder(channels: int = 32) -> Callable[[], Any]:
    from diffusers import AutoencoderKL

    return partial(AutoencoderKL, block_out_channels=(channels,))


def equal(one: Any, other: Any) -> bool:
    found, expected = dict(one.named_parameters()), dict(other.named_parameters())
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_everything_is_on_the_place(device: str, dtype: str) -> None:
    before = torch.get_default_dtype()
    module = construct(llama(), Place(device, dtype))
    assert {(p.device.type, p.dtype, p.requires_grad) for p in module.parameters()} == {
        (device, getattr(torch, dtype), False)
    }
    assert {b.device.type for b in module.buffers()} == {device}
    assert not module.training
    assert torch.get_default_dtype() == before


def test_random_weights_are_sane_and_the_same_again() -> None:
    module = construct(llama(), CPU)
    assert equal(module, construct(llama(), CPU))
    weights = dict(module.named_parameters())
    assert float(weights["model.layers.1.mlp.up_proj.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert set(weights["model.norm.weight"].tolist()) == {1.0}
    assert not torch.equal(weights["model.layers.0.mlp.up_proj.weight"], weights["model.layers.1.mlp.up_proj.weight"])
    biases = [p for name, p in construct(bert(), CPU).named_parameters() if name.endswith("bias")]
    assert sum(float(bias.abs().sum()) for bias in biases) == 0


def test_building_leaves_the_callers_random_numbers_alone() -> None:
    """And spends no time on weights that are drawn again."""
    before = torch.get_rng_state()
    construct(llama(), CPU)
    construct(partial(torch.nn.Linear, 4, 4), CPU)
    assert torch.equal(before, torch.get_rng_state())


def test_buffers_are_those_of_the_class_in_full_precision() -> None:
    """Frequencies of RoPE in bfloat16 would be off by 0.4 %."""
    found = construct(llama(rope_theta=5e5), Place("cpu", "bfloat16")).model.rotary_emb.inv_freq
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, 5e5 ** -(torch.arange(0, 16, 2) / 16))


def test_a_checkpoint_is_read_from_its_folder_or_the_pipelines(tmp_path: Path) -> None:
    module = construct(llama(), CPU)
    module.model.norm.weight.fill_(0.5)
    module.save_pretrained(tmp_path / "text_encoder")
    for folder in (tmp_path, tmp_path / "text_encoder"):
        assert equal(module, construct(llama(), Place("cpu", "float32", str(folder)), "text_encoder"))
    half = construct(llama(), Place("cpu", "bfloat16", str(tmp_path / "text_encoder")))
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


def test_arguments_of_the_class_reach_the_checkpoint_too(tmp_path: Path) -> None:
    construct(bert(), CPU).save_pretrained(tmp_path)
    for place in (CPU, Place("cpu", "float32", str(tmp_path))):
        module = construct(bert(), place, add_pooling_layer=False)
        assert module.pooler is None


def test_a_checkpoint_of_diffusers(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    module = construct(autoencoder(), CPU)
    module.save_pretrained(tmp_path)
    assert equal(module, construct(autoencoder(), Place("cpu", "float32", str(tmp_path))))
    with pytest.raises(ValueError, match=r"\(64, 3, 3, 3\) expected, \(32, 3, 3, 3\) found"):
        construct(autoencoder(64), Place("cpu", "float32", str(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 128}, r"not the architecture asked for, 21 differences: .* expected, .* found"),
        ({"num_hidden_layers": 3}, r"model.layers.2.* is missing"),
        ({"attention_bias": True}, r"bias is missing"),
    ],
)
def test_another_architecture_is_refused(changes: Any, message: str, tmp_path: Path, capfd: Any) -> None:
    construct(llama(), CPU).save_pretrained(tmp_path)
    capfd.readouterr()
    with pytest.raises(ValueError, match=message):
        construct(llama(**changes), Place("cpu", "float32", str(tmp_path)))
    assert capfd.readouterr().err == ""


def test_fewer_layers_than_the_checkpoint_are_the_first(tmp_path: Path) -> None:
    module = construct(llama(), CPU)
    module.save_pretrained(tmp_path)
    one = construct(llama(num_hidden_layers=1), Place("cpu", "float32", str(tmp_path)))
    assert equal(one.model.layers[0], module.model.layers[0])
    assert len(one.model.layers) == 1


def test_a_folder_that_is_none_or_holds_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a local folder with config"):
        construct(llama(), Place("cpu", "float32", str(tmp_path / "absent")))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="no LlamaForCausalLM can be read"):
        construct(llama(), Place("cpu", "float32", str(tmp_path)))
    with pytest.raises(ValueError, match="need device cpu or cuda"):
        construct(llama(), Place("meta", "float32", str(tmp_path)))
    with pytest.raises(ValueError, match="Linear reads no checkpoints"):
        construct(partial(torch.nn.Linear, 2, 2), Place("cpu", "float32", str(tmp_path)))


@pytest.mark.parametrize(
    ("place", "message"),
    [(Place("gpu"), "device: must be one of"), (Place("cpu", "int8"), "dtype: must be one of bfloat16")],
)
def test_unknown_places_are_refused(place: Place, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        construct(llama(), place)


def test_inputs() -> None:
    place = Place("cpu", "bfloat16")
    normal = tensor((64, 64), place)
    assert normal.dtype == torch.bfloat16
    assert float(normal.float().std()) == pytest.approx(1, rel=0.1)
    assert torch.equal(normal, tensor((64, 64), place))
    assert not torch.equal(normal, tensor((64, 64), place, seed=1))
    ids = tensor((1000,), place, "ids", below=7)
    assert ids.dtype == torch.int64
    assert set(ids.tolist()) == set(range(7))
    assert tensor((2, 3), place, "mask").tolist() == [[1, 1, 1]] * 2
    assert [tensor((2,), Place(), kind).device.type for kind in ("normal", "ids", "mask", "zeros")] == ["meta"] * 4
    with pytest.raises(ValueError, match="kind must be one of"):
        tensor((2,), place, "uniform")
