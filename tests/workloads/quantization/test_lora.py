"""LoRA on quantized layers: the layouts, B A exactly, fused layers, taking it away."""

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from tests.workloads.quantization.layers_for_tests import small_block  # noqa: E402
from workloads.quantization.lora import add_adapter, read_adapter, remove_adapter  # noqa: E402
from workloads.quantization.quantize import quantize  # noqa: E402


def factors(rows: int, columns: int, rank: int, seed: int = 0) -> tuple[Any, Any]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rank, columns, generator=draw), torch.randn(rows, rank, generator=draw)


def exact_block(rank: int = 16) -> tuple[Any, Any, Any]:
    """(float64 block, the same without rounding, inputs)."""
    block, x = small_block()
    block, x = block.double(), x.double()
    return block, quantize(block, "svdquant", lambda model: model(x), kind="unquantized", rank=rank).model, x


LAYOUTS = {
    "peft": ("base_model.model.fc1.lora_A.weight", "base_model.model.fc1.lora_B.weight", None),
    "peft_named": ("base_model.model.fc1.lora_A.default.weight", "base_model.model.fc1.lora_B.default.weight", None),
    "diffusers": ("transformer.fc1.lora_A.weight", "transformer.fc1.lora_B.weight", None),
    "diffusers_old": ("unet.fc1.lora.down.weight", "unet.fc1.lora.up.weight", None),
    "kohya": ("lora_unet_fc1.lora_down.weight", "lora_unet_fc1.lora_up.weight", "lora_unet_fc1.alpha"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_the_product_added_to_the_weight(layout: str, tmp_path: Path) -> None:
    block, found, x = exact_block()
    down, up = factors(128, 64, 5)
    names = LAYOUTS[layout]
    tensors, alpha = {names[0]: down, names[1]: up}, 2.0 if names[2] else 5.0
    safetensors.save_file(tensors | ({names[2]: torch.tensor(alpha)} if names[2] else {}), tmp_path / "a.safetensors")
    adapter = read_adapter(tmp_path / "a.safetensors", found)
    assert adapter.unknown == {}
    add_adapter(found, adapter, strength=0.5)
    assert len(found.fc1.down) == 32  # 16 of the branch, 5 padded to 16
    with torch.no_grad():
        block.fc1.weight += 0.5 * alpha / 5 * (up.double() @ down.double())
    torch.testing.assert_close(found(x), block(x), rtol=0, atol=1e-11)


def test_alpha_of_a_peft_folder(tmp_path: Path) -> None:
    _, found, _ = exact_block()
    down, up = factors(128, 64, 4)
    file = tmp_path / "adapter_model.safetensors"
    safetensors.save_file({"fc1.lora_A.weight": down, "fc1.lora_B.weight": up}, file)
    for config, scale in (({"r": 4, "lora_alpha": 8}, 2.0), ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 4.0)):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        assert read_adapter(tmp_path, found).layers["fc1"].scale == scale


def test_fused_layers_take_their_parts_in_blocks(tmp_path: Path) -> None:
    """q and v have adapters of their own, k none: a block matrix over one shared down."""
    torch.manual_seed(0)
    fused = torch.nn.Sequential(torch.nn.Linear(64, 96)).double()
    x = torch.randn(5, 64).double()
    found = quantize(fused, "svdquant", lambda model: model(x), kind="unquantized", rank=16).model
    q, v = factors(32, 64, 3, 1), factors(32, 64, 4, 2)
    tensors = {
        "a.q.lora_A.weight": q[0],
        "a.q.lora_B.weight": q[1],
        "a.v.lora_A.weight": v[0],
        "a.v.lora_B.weight": v[1],
    }
    safetensors.save_file(tensors, tmp_path / "a.safetensors")
    add_adapter(found, read_adapter(tmp_path / "a.safetensors", found, {"0": ["a.q", "a.k", "a.v"]}))
    with torch.no_grad():
        fused[0].weight[:32] += q[1].double() @ q[0].double()
        fused[0].weight[64:] += v[1].double() @ v[0].double()
    torch.testing.assert_close(found(x), fused(x), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("method", "kind"), [("svdquant", "w4a4"), ("svdquant", "w4a4_nvfp4"), ("rtn", "w4a16")])
def test_nothing_is_quantized_anew_and_all_can_be_taken_back(method: str, kind: str, tmp_path: Path) -> None:
    block, x = small_block()
    found = quantize(block, method, lambda model: model(x), kind=kind).model
    states = [listed(found.fc1)]
    for name, rank in (("one", 8), ("two", 20)):
        down, up = factors(128, 64, rank, rank)
        safetensors.save_file({"fc1.lora_A.weight": down, "fc1.lora_B.weight": up}, tmp_path / "a.safetensors")
        adapter = read_adapter(tmp_path / "a.safetensors", found)
        add_adapter(found, adapter, name=name)
        states.append(listed(found.fc1))
    assert states[0]["codes"] == states[2]["codes"]
    remove_adapter(found, "two")
    assert listed(found.fc1) == states[1]
    add_adapter(found, adapter, name="two")
    remove_adapter(found, "one")
    with_two = found.fc1(x)
    remove_adapter(found, "two")
    assert listed(found.fc1) == states[0]
    extra = torch.nn.functional.linear(x, down.half().float())  # the raw input: not divided by smooth
    expected = torch.nn.functional.linear(extra, up.half().float())
    torch.testing.assert_close(with_two - found.fc1(x), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"no layer has an adapter 'one'"):
        remove_adapter(found, "one")
    add_adapter(found, adapter)
    with pytest.raises(ValueError, match=r"fc1: has an adapter 'default' already"):
        add_adapter(found, adapter)


def listed(layer: Any) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in layer.state.items()}


def test_keys_that_fit_nothing_are_told(tmp_path: Path) -> None:
    _, found, _ = exact_block()
    down, up = factors(128, 64, 4)
    good = {"fc1.lora_A.weight": down, "fc1.lora_B.weight": up}
    odd = {"fc3.lora_A.weight": down, "q.lora_A.weight": down.clone(), "fc1.dora_scale": up}
    file = tmp_path / "a.safetensors"
    safetensors.save_file({name: tensor.clone() for name, tensor in (good | odd).items()}, file)
    unknown = read_adapter(file, found).unknown
    assert unknown["fc3.lora_A.weight"].startswith("no such quantized layer; nearest: fc")
    assert unknown["q"] == "has only down"
    assert unknown["fc1.dora_scale"] == "not a matrix of LoRA"
    safetensors.save_file(odd, file)
    with pytest.raises(ValueError, match=r"a.safetensors: no key fits a quantized layer"):
        read_adapter(file, found)
    safetensors.save_file({"fc2.lora_A.weight": down, "fc2.lora_B.weight": up}, file)
    with pytest.raises(ValueError, match=r"fc2: LoRA must have .* with N, K = \(64, 128\), got up \(128, 4\)"):
        read_adapter(file, found)
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        read_adapter(file, found)
