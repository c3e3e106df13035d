"""Text encoders of the zoo: published sizes, FLOPs, and the lengths that the pipelines run them at."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from workloads.zoo import text_encoders  # noqa: E402
from workloads.zoo.registry import Place  # noqa: E402

CPU = Place("cpu", "float32")


def clip_parameters(hidden: int, layers: int, projection: int = 0) -> int:
    """Closed form: two embeddings, 12 hidden^2 + 13 hidden a layer, the last norm, a projection without bias."""
    return (49_408 + 77) * hidden + layers * (12 * hidden**2 + 13 * hidden) + 2 * hidden + hidden * projection


def clip_flops(hidden: int, layers: int, projection: int = 0) -> int:
    return layers * (2 * 77 * 12 * hidden**2 + 4 * 77**2 * hidden) + 2 * hidden * projection


@pytest.mark.parametrize(
    ("name", "options", "parameters", "exact_flops"),
    [
        ("clip_l", {}, clip_parameters(768, 12), clip_flops(768, 12)),
        ("clip_bigg", {}, clip_parameters(1280, 32, 1280), clip_flops(1280, 32, 1280)),
        ("t5_xxl", {}, 4_762_310_656, None),
        ("gemma2_2b", {"instruction": False}, 2_614_341_888, None),
    ],
)
def test_sizes(name: str, options: Any, parameters: int, exact_flops: Any, only_stage: Any, flops: Any) -> None:
    stage = only_stage(name, **options)
    assert sum(parameter.numel() for parameter in stage.module.parameters()) == parameters
    tera = {"t5_xxl": 4.845, "gemma2_2b": 1.234}.get(name)
    assert flops(stage) == (pytest.approx(tera * 1e12, rel=1e-3) if tera else exact_flops)


def test_published_parameters_of_clip() -> None:
    assert clip_parameters(768, 12) == 123_060_480  # text_encoder of SDXL and FLUX.1
    assert clip_parameters(1280, 32, 1280) == 694_659_840  # text_encoder_2 of SDXL


def test_gemma_runs_over_the_instruction_too(only_stage: Any) -> None:
    """300 kept positions: the instruction's tokens less its first and last mark, which the prompt brings itself."""
    stage = only_stage("gemma2_2b", layers=1, instruction_tokens=100, batch=2)
    assert stage.args[0].shape == stage.kwargs["attention_mask"].shape == (2, 100 + 300 - 2)
    stage = only_stage("gemma2_2b", layers=1, instruction=False)
    assert stage.args[0].shape == (1, 300)


def test_gemma_is_eager_and_the_others_are_not(only_stage: Any, attention_calls: Any) -> None:
    assert attention_calls(only_stage("gemma2_2b", layers=2)) == []
    for name, masked, causal in (("clip_l", False, True), ("clip_bigg", False, True), ("t5_xxl", True, False)):
        calls = attention_calls(only_stage(name, layers=2))
        assert [(call.masked, call.causal) for call in calls] == [(masked, causal)] * 2


def test_clip_sees_no_later_token(only_stage: Any) -> None:
    stage = only_stage("clip_l", CPU, layers=1, tokens=6)
    ids = stage.args[0]
    other = ids.clone()
    other[0, -1] += 1
    one, two = (stage.module(tokens).last_hidden_state[0] for tokens in (ids, other))
    torch.testing.assert_close(one[:-1], two[:-1])
    assert (one[-1] - two[-1]).abs().max() > 0.1


def test_numbers_of_t5_are_those_of_eager_attention(only_stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4}
    monkeypatch.setattr(text_encoders, "T5_XXL", text_encoders.T5_XXL | small)
    stage = only_stage("t5_xxl", CPU, layers=2, tokens=12)
    with torch.inference_mode():
        found = stage.module(*stage.args).last_hidden_state
        stage.module.set_attn_implementation("eager")
        expected = stage.module(*stage.args).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("clip_l", {"tokens": 78}, "tokens: must be at most 77, got 78"),
        ("t5_xxl", {"layers": 25}, "layers: must be at most 24, got 25"),
        ("gemma2_2b", {"tokens": 4000}, "must be at most 4096"),
        ("gemma2_2b", {"instruction": "no"}, "instruction: must be one of"),
        ("t5_xxl", {"past": 4}, "t5_xxl.past: must be one of"),
    ],
)
def test_mistakes_are_refused(name: str, options: Any, message: str, only_stage: Any) -> None:
    with pytest.raises(ValueError, match=message):
        only_stage(name, **options)
