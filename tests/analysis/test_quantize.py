"""`tilewright quantize`: folders that load again, errors and bytes that are right, messages for mistakes."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from analysis.cli import app
from analysis.commands import quantize as command

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def tilewright(*words: Any) -> Any:
    return CliRunner().invoke(app, ["quantize", *map(str, words)])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama, and the inputs of two calls beside it."""
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "vocab_size": 50}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))
    folder = tmp_path_factory.mktemp("llama")
    model.to(torch.bfloat16).save_pretrained(folder)
    save_file({f"{n}.input_ids": torch.randint(50, (1, 40)) for n in range(2)}, folder / "calls.safetensors")
    return folder


def test_a_folder_is_quantized_and_loads_again(llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from workloads.quantization.layers import quantized_layers
    from workloads.quantization.saving import load_quantized

    out = tmp_path / "small"
    calls = llama / "calls.safetensors"
    words = (llama, "--out", out, "--calibration", calls, "--rank", 4, "--set", "grids=3", "--set", "iterations=1")
    done = tilewright(*words, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    model = load_quantized(out, AutoModelForCausalLM.from_pretrained(llama, dtype="auto"))
    layers = quantized_layers(model)
    assert [row["layer"] for row in told["layers"]] == list(layers)
    assert {layer.form for layer in layers.values()} == {"bfloat16"}
    assert {len(layer.down) for layer in layers.values()} == {4}
    assert told["left"] == {
        "model.layers.0.mlp.down_proj": "w4a4: K must be a multiple of 64, got 96",
        "lm_head": "a head; --skip '' takes it too",
    }
    row = told["layers"][0]
    assert row["bytes_16bit"] == 2 * 64 * 64
    assert row["bytes"] == 64 * 64 // 2 + 2 * (64 + 64 + 4 * (64 + 64) + 1)  # codes, scale, smooth, branch, shift
    assert 0.01 < row["error"] < 0.3
    assert "exists; name another folder" in tilewright(*words).output


def test_the_table_sums_the_bytes(tmp_path: Path) -> None:
    words = ("decoder", "--method", "nf4", "--layers", "model.layers.0.mlp.*_proj", "--out", tmp_path / "nf4")
    done = tilewright(*words)
    assert done.exit_code == 0, done.output
    before = 2 * 3 * 768 * 256
    assert f"{before:,}" in done.output
    assert f"{3 * (768 * 256 // 2 + 4 * 768 * 256 // 64):,}" in done.output
    assert not [one for one in tmp_path.iterdir() if one.name != "nf4"]


def test_heads_stay_unless_nothing_is_skipped() -> None:
    from analysis.quality.models import layers_for
    from analysis.quality.recipes import RECIPES

    model = torch.nn.ModuleDict({name: torch.nn.Linear(64, 64) for name in ("one", "two", "lm_head")})
    method = RECIPES["nf4"].build()
    assert layers_for(model, method, None, None)[0] == ["one", "two"]
    assert layers_for(model, method, None, [""])[0] == ["one", "two", "lm_head"]
    assert layers_for(model, method, ["one", "two"], ["t*"]) == (["one"], {"two": "--skip"})
    with pytest.raises(ValueError, match="no linear layer is called 'tw'; nearest: two"):
        layers_for(model, method, None, ["tw"])


def test_interrupted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workloads.quantization import quantize as core

    def stop(*words: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(core, "quantize", stop)
    done = tilewright("decoder", "--method", "nf4", "--out", tmp_path / "x")
    assert done.exit_code == 130
    assert "nothing was written" in done.output
    assert list(tmp_path.iterdir()) == []


MISTAKES = {
    "decodr --out x": "did you mean decoder?",
    "decoder": "--out: must name the folder",
    "--out x": "MODEL: must be minilm, decoder or a folder",
    "decoder --method svdquant_in4 --out x": "nearest: svdquant_int4",
    "decoder --method nf4 --rank 8 --out x": "has no option 'rank'",
    "decoder --method nf4 --set rank --out x": "--set: must be name=value, got 'rank'",
    "decoder --method nf4 --device cuda:99 --out x": "--device: torch must have it",
    "decoder --method nf4 --form float32 --out x": "--form: must be float16 or bfloat16",
    "decoder --method nf4 --layers q_porj --out x": "no linear layer is called 'q_porj'",
    "LLAMA --out x": "--calibration: svdquant_int4 needs data",
    "LLAMA --out x --calibration a.csv": "must end in .txt or .safetensors",
    "LLAMA --out x --calibration LLAMA/model.safetensors": "must be named <call>.<argument>",
    "LLAMA/.. --out x": "must hold a readable config.json",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_get_a_message(words: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = tilewright(*words.replace("LLAMA", str(llama)).split())
    assert done.exit_code == 2, done.output
    assert MISTAKES[words] in done.output
    assert list(tmp_path.iterdir()) == []


def test_methods_are_listed() -> None:
    done = tilewright("--list", "--json")
    assert json.loads(done.stdout)["svdquant_nvfp4_gptq"]["options"]["gptq"] is True


def test_values_of_options() -> None:
    assert command._options(["a=1", "b=0.5", "c=true", "d=w4a4"]) == {"a": 1, "b": 0.5, "c": True, "d": "w4a4"}
