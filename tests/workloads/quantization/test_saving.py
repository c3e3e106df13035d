"""Saved models: the same bits after loading, nothing half, what is damaged or foreign is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from tests.workloads.quantization.layers_for_tests import small_block  # noqa: E402
from workloads.quantization import saving  # noqa: E402
from workloads.quantization.quantize import quantize  # noqa: E402
from workloads.quantization.saving import load_quantized, save_quantized  # noqa: E402

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "w4a4": ("svdquant", {"rank": 16}),
    "w4a4_nvfp4": ("svdquant", {"rank": 16, "kind": "w4a4_nvfp4"}),
    "w8a8": ("smoothquant", {}),
    "w4a16": ("rtn", {"kind": "w4a16"}),
    "w4a8_channel": ("rtn", {"kind": "w4a8_channel"}),
    "nf4": ("nf4", {}),
}


@pytest.mark.parametrize("kind", METHODS)
def test_loads_bit_for_bit(kind: str, tmp_path: Path) -> None:
    block, x = small_block()
    name, options = METHODS[kind]
    found = quantize(block, name, lambda model: model(x), form="bfloat16", **options)
    save_quantized(found.model, tmp_path / "saved", found.method)
    other, _ = small_block(seed=1)
    loaded = load_quantized(tmp_path / "saved", other)
    for key, tensor in found.model.state_dict().items():
        same = loaded.state_dict()[key]
        assert same.dtype == tensor.dtype, key
        assert torch.equal(same, tensor), key
    assert torch.equal(loaded(x), found.model(x))
    stored = safetensors.load_file(tmp_path / "saved" / "model.safetensors")
    if kind != "w8a8":
        assert stored["fc2.codes"].shape == (64, 64)  # two a byte
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["method"]["name"] == name
    assert config["layers"]["fc2"]["kind"] == kind


def test_an_architecture_on_the_meta_device_is_enough(tmp_path: Path) -> None:
    block, x = small_block()
    found = quantize(block, "rtn").model
    save_quantized(found, tmp_path / "saved")
    with torch.device("meta"):
        empty, _ = small_block()
    assert torch.equal(load_quantized(tmp_path / "saved", empty)(x), found(x))


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = quantize(small_block()[0], "rtn").model
    save_quantized(found, tmp_path / "saved")
    before = (tmp_path / "saved" / "config.json").read_bytes()

    def fail(file: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(saving, "_hash", fail)
        for name in ("saved", "new"):
            with pytest.raises(KeyboardInterrupt):
                save_quantized(found, tmp_path / name, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["saved"]
    assert (tmp_path / "saved" / "config.json").read_bytes() == before


def test_only_our_own_folders_are_overwritten(tmp_path: Path) -> None:
    found = quantize(small_block()[0], "rtn").model
    folder = save_quantized(found, tmp_path / "saved")
    with pytest.raises(ValueError, match="exists"):
        save_quantized(found, folder)
    save_quantized(found, folder, overwrite=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["saved"]
    (tmp_path / "diary").mkdir()
    with pytest.raises(ValueError, match=r"diary.*not readable"):
        save_quantized(found, tmp_path / "diary", overwrite=True)
    with pytest.raises(ValueError, match="no quantized layer"):
        save_quantized(small_block()[0], tmp_path / "none")


def test_damage_is_told(tmp_path: Path) -> None:
    folder = save_quantized(quantize(small_block()[0], "rtn").model, tmp_path / "saved")
    file, config = folder / "model.safetensors", folder / "config.json"
    data, text = file.read_bytes(), config.read_text()
    file.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with pytest.raises(ValueError, match=r"model.safetensors: damaged"):
        load_quantized(folder, small_block()[0])
    file.write_bytes(data)
    for old, new, message in (
        ('"version": 1', '"version": 2', "version must be 1, got 2"),
        (saving.FORMAT, "gguf", "not a quantized model of ours"),
        ('"fc1"', '"fc9"', "fc9: the model has no such linear layer; nearest: fc"),
        ('"kind": "w4a4"', '"kind": "w3"', "kind must be one of .*, got 'w3'"),
        ("128,\n", "127,\n", r"shape must be \[127, 64\], the model has \[128, 64\]"),
        ("{", "[", "not readable"),
    ):
        config.write_text(text.replace(old, new, 1))
        with pytest.raises(ValueError, match=message):
            load_quantized(folder, small_block()[0])
    config.write_text(text)
    model = torch.nn.Sequential(small_block()[0])
    with pytest.raises(ValueError, match=r"q: the model has no such linear layer; nearest: 0.q"):
        load_quantized(folder, model)
