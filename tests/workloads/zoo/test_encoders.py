"""BERT, GPT-2, MiniLM and our decoder in the zoo: sizes, FLOPs, caches that stay, weights that are the trained ones."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from workloads.decoder import load_decoder  # noqa: E402
from workloads.minilm import PACKAGE, load_encoder  # noqa: E402
from workloads.zoo.registry import Place  # noqa: E402

CPU = Place("cpu", "float32")
# published counts; BERT and MiniLM less their pooler (hidden^2 + hidden), which this zoo leaves out
PARAMETERS = {
    "bert_base": 109_482_240 - 768 * 769,
    "bert_large": 335_141_888 - 1024 * 1025,
    "minilm_l6": 22_713_216 - 384 * 385,
    "gpt2_small": 124_439_808,
    "gpt2_medium": 354_823_168,
    "decoder": sum(parameter.numel() for parameter in load_decoder().parameters()),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_published(name: str, only_stage: Any) -> None:
    assert sum(parameter.numel() for parameter in only_stage(name).module.parameters()) == PARAMETERS[name]


def layer_flops(hidden: int, tokens: int, keys: int) -> int:
    """Closed form of a layer whose MLP is 4 x as wide: twelve hidden^2 of weights, two products of attention."""
    return 24 * tokens * hidden**2 + 4 * tokens * keys * hidden


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("bert_base", {}, 12 * layer_flops(768, 384, 384)),
        ("bert_large", {"tokens": 128, "batch": 2}, 2 * 24 * layer_flops(1024, 128, 128)),
        ("minilm_l6", {"tokens": 128}, 6 * layer_flops(384, 128, 128)),
        ("gpt2_small", {}, 12 * layer_flops(768, 992, 992) + 2 * 992 * 768 * 50_257),
        ("gpt2_medium", {"tokens": 1, "past": 992}, 24 * layer_flops(1024, 1, 993) + 2 * 1024 * 50_257),
        ("gpt2_medium", {"layers": 2, "logits": "last"}, 2 * layer_flops(1024, 992, 992) + 2 * 1024 * 50_257),
    ],
)
def test_flops_by_the_closed_form(name: str, options: Any, expected: int, only_stage: Any, flops: Any) -> None:
    assert flops(only_stage(name, **options)) == expected


@pytest.mark.parametrize("name", ["bert_base", "minilm_l6"])
def test_encoders_attend_in_both_directions(name: str, only_stage: Any, attention_calls: Any) -> None:
    calls = attention_calls(only_stage(name, layers=2))
    assert [(call.masked, call.causal) for call in calls] == [(False, False)] * 2


@pytest.mark.parametrize(
    ("name", "options", "query", "key"),
    [
        ("gpt2_small", {"tokens": 8, "layers": 2}, (1, 12, 8, 64), (1, 12, 8, 64)),
        ("gpt2_small", {"tokens": 1, "past": 1023, "layers": 2}, (1, 12, 1, 64), (1, 12, 1024, 64)),
        ("decoder", {"tokens": 8, "batch": 2}, (2, 4, 8, 64), (2, 2, 8, 64)),
        ("decoder", {"tokens": 1, "past": 100, "batch": 2}, (2, 4, 1, 64), (2, 2, 101, 64)),
        ("decoder", {"tokens": 4, "past": 100}, (1, 4, 4, 64), (1, 2, 104, 64)),
    ],
)
def test_attention_sees_the_past_once(
    name: str, options: Any, query: Any, key: Any, only_stage: Any, attention_calls: Any
) -> None:
    stage = only_stage(name, **options)
    first, second = attention_calls(stage), attention_calls(stage)
    assert first == second
    assert {(call.query, call.key, call.value) for call in first} == {(query, key, key)}
    assert {call.causal for call in first} == {query[2] == key[2]}


@pytest.mark.parametrize(("tokens", "past"), [(6, 0), (1, 9)])
def test_numbers_of_gpt2_are_those_of_eager_attention(tokens: int, past: int, only_stage: Any) -> None:
    from transformers import DynamicCache

    stage = only_stage("gpt2_small", CPU, layers=1, tokens=tokens, past=past, batch=2)
    layer = stage.kwargs["past_key_values"].layers[0]
    cache = DynamicCache()
    if past:
        cache.update(layer.keys.clone(), layer.values.clone(), 0)
    with torch.inference_mode():
        found = stage.module(*stage.args, **stage.kwargs).logits
        stage.module.set_attn_implementation("eager")
        expected = stage.module(*stage.args, past_key_values=cache).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_decoder_is_the_shipped_one_and_runs_again(only_stage: Any) -> None:
    stage = only_stage("decoder", CPU, tokens=3, past=20)
    one, two = (stage.module(*stage.args, **stage.kwargs) for _ in range(2))
    assert torch.equal(one, two)
    cache = list(stage.kwargs["cache"])
    torch.testing.assert_close(one, load_decoder()(*stage.args, cache=cache))


@pytest.mark.skipif(find_spec(PACKAGE) is None, reason="the package with the trained encoder is not installed")
def test_minilm_is_the_trained_encoder(only_stage: Any) -> None:
    stage = only_stage("minilm_l6", CPU, tokens=16)
    reference, _, _ = load_encoder()
    with torch.inference_mode():
        found = stage.module(*stage.args).last_hidden_state.numpy()
        expected = reference(*stage.args).last_hidden_state.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gpt2_small", {"tokens": 1, "past": 1024}, "at most its context of 1024, got 1025"),
        ("gpt2_small", {"tokens": 2, "past": 2}, "past > 0 needs tokens = 1"),
        ("bert_base", {"tokens": 513}, "at most its context of 512, got 513"),
        ("bert_base", {"layers": 13}, "at most the 12 published, got 13"),
        ("bert_base", {"past": 1}, "bert_base.past: must be one of"),
        ("decoder", {"tokens": 2049}, "at most its context of 2048, got 2049"),
    ],
)
def test_mistakes_are_refused(name: str, options: Any, message: str, only_stage: Any) -> None:
    with pytest.raises(ValueError, match=message):
        only_stage(name, **options)
