"""Language models of the zoo: published sizes, FLOPs, attention as one operator, and a cache that stays as it is."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from workloads.zoo import language  # noqa: E402
from workloads.zoo.registry import Place  # noqa: E402

# published: Llama 2 and 3, Mistral, Yi and Qwen1.5 on their model pages (rounded there); exact by the closed form below
PARAMETERS = {
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
    "llama3_8b": 8_030_261_248,
    "llama_30b": 32_528_943_616,
    "mistral_7b": 7_241_732_096,
    "yi_34b": 34_388_917_248,
    "qwen15_72b": 72_287_920_128,
}
TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CPU = Place("cpu", "float32")


@pytest.fixture(params=["llama3_8b", "mistral_7b", "qwen15_72b"])
def tiny(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model of each class with the published rope and norm, small enough to compute."""
    title, repository, prefix, fields = language.CONFIGURATIONS[request.param]
    monkeypatch.setitem(language.CONFIGURATIONS, request.param, (title, repository, prefix, fields | TINY))
    return request.param


def closed_form(fields: dict[str, Any], biases: bool) -> int:
    hidden, heads = fields["hidden_size"], fields["num_attention_heads"]
    kv = fields["num_key_value_heads"] * hidden // heads
    attention = 2 * hidden * hidden + 2 * hidden * kv + biases * (hidden + 2 * kv)
    layer = attention + 3 * hidden * fields["intermediate_size"] + 2 * hidden
    return fields["num_hidden_layers"] * layer + 2 * fields["vocab_size"] * hidden + hidden


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_published(name: str, only_stage: Any) -> None:
    stage = only_stage(name, tokens=1)
    counted = sum(parameter.numel() for parameter in stage.module.parameters())
    assert counted == PARAMETERS[name] == closed_form(language.CONFIGURATIONS[name][3], name.startswith("qwen"))


@pytest.mark.parametrize(
    ("name", "options", "tera"),
    [
        ("llama3_8b", {}, 15.919),
        ("llama3_8b", {"logits": "last"}, 14.844),
        ("llama3_8b", {"tokens": 1, "past": 1024}, 0.01555),
        ("llama3_8b", {"tokens": 1, "past": 1024, "batch": 64}, 0.99499),
        ("qwen15_72b", {}, 148.237),
        ("qwen15_72b", {"tokens": 1, "past": 1024, "batch": 64}, 9.2649),
    ],
)
def test_flops_of_the_whole_model(name: str, options: Any, tera: float, only_stage: Any, flops: Any) -> None:
    assert flops(only_stage(name, **options)) == pytest.approx(tera * 1e12, rel=1e-3)


@pytest.mark.parametrize("name", PARAMETERS)
def test_attention_is_one_operator_with_keys_as_they_are(name: str, only_stage: Any, attention_calls: Any) -> None:
    fields = language.CONFIGURATIONS[name][3]
    heads, kv_heads = fields["num_attention_heads"], fields["num_key_value_heads"]
    for tokens, past in ((16, 0), (1, 31)):
        calls = attention_calls(only_stage(name, layers=2, tokens=tokens, past=past, batch=3))
        keys = (3, kv_heads, tokens + past, 128)
        assert [(c.query, c.key, c.value) for c in calls] == [((3, heads, tokens, 128), keys, keys)] * 2
        assert [(c.masked, c.causal) for c in calls] == [(False, tokens > 1)] * 2


def test_a_window_that_no_query_leaves_needs_no_mask(only_stage: Any, attention_calls: Any) -> None:
    calls = attention_calls(only_stage("mistral_7b", layers=1, tokens=4096))
    assert [(c.masked, c.causal, c.key) for c in calls] == [(False, True, (1, 8, 4096, 128))]


@pytest.mark.parametrize(("tokens", "past"), [(7, 0), (1, 9)])
def test_numbers_are_those_of_eager_attention(tiny: str, tokens: int, past: int, only_stage: Any) -> None:
    stage = only_stage(tiny, CPU, layers=2, tokens=tokens, past=past, batch=2)
    cache = _plain_copy(stage.kwargs["past_key_values"], past)
    with torch.inference_mode():
        logits = stage.module(*stage.args, **stage.kwargs).logits
        again = stage.module(*stage.args, **stage.kwargs).logits
        stage.module.set_attn_implementation("eager")
        expected = stage.module(*stage.args, past_key_values=cache).logits
    assert torch.equal(logits, again)
    assert expected.std() > 0.05
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def _plain_copy(cache: Any, past: int) -> Any:
    """The same keys and values in transformers' own cache."""
    from transformers import DynamicCache

    plain = DynamicCache()
    for index, layer in enumerate(cache.layers):
        if past:
            plain.update(layer.keys.clone(), layer.values.clone(), index)
    return plain


def test_each_layer_has_its_own_past(tiny: str, only_stage: Any) -> None:
    layers = only_stage(tiny, CPU, layers=2, tokens=1, past=5).kwargs["past_key_values"].layers
    found = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
    assert [tuple(tensor.shape) for tensor in found] == [(1, 2, 5, 8)] * 4
    assert len({float(tensor.sum()) for tensor in found}) == 4


def test_only_the_last_logits(tiny: str, only_stage: Any) -> None:
    runs = {}
    for logits in ("all", "last"):
        stage = only_stage(tiny, CPU, layers=1, tokens=5, batch=2, logits=logits)
        runs[logits] = stage.module(*stage.args, **stage.kwargs).logits
    assert runs["last"].shape == (2, 1, 64)
    torch.testing.assert_close(runs["last"], runs["all"][:, -1:])


def test_the_stage_says_what_it_is(only_stage: Any) -> None:
    assert only_stage("llama3_8b", layers=1).name == "prefill"
    assert only_stage("llama3_8b", layers=1, tokens=1, past=3).name == "decode"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("llama3_8b", {"tokens": 2, "past": 4}, "past > 0 needs tokens = 1"),
        ("llama3_8b", {"layers": 33}, "at most the 32 published, got 33"),
        ("llama3_8b", {"token": 5}, "did you mean 'tokens'"),
        ("llama3_8b", {"tokens": 0}, "an integer >= 1, got 0"),
        ("llama3_8b", {"batch": True}, "an integer >= 1, got True"),
        ("llama3_8b", {"logits": "none"}, "must be one of"),
        ("mistral_7b", {"tokens": 1, "past": 4096}, "at most its window of 4096, got 4097"),
    ],
)
def test_mistakes_are_refused(name: str, options: Any, message: str, only_stage: Any) -> None:
    with pytest.raises(ValueError, match=message):
        only_stage(name, **options)
