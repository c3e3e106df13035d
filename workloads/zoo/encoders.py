"""Models of the SpAtten tables, the sentence encoder of the MiniLM trace, and our own decoder.

BERT and MiniLM encode `tokens` positions without padding; GPT-2 and our decoder prefill or decode (`past`).
torch and transformers are imported inside functions. Left out: poolers, task heads of BERT, dropout.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workloads.decoder import DecoderShape, build_decoder, load_decoder
from workloads.zoo.cache import filled_cache, kv_tensors
from workloads.zoo.language import causal_stage, check_lengths, mode
from workloads.zoo.placing import construct, dtype_of, tensor
from workloads.zoo.registry import Model, Place, Stage, register


def _bert_fields(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "vocab_size": 30_522,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "max_position_embeddings": 512,
    }


# fields of BertConfig and GPT2Config as in config.json of the repository
BERT: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert_base": ("BERT-Base", "google-bert/bert-base-uncased", _bert_fields(768, 12, 12)),
    "bert_large": ("BERT-Large", "google-bert/bert-large-uncased", _bert_fields(1024, 24, 16)),
    "minilm_l6": ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2", _bert_fields(384, 6, 12)),
}
GPT2: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2_small": ("GPT-2 Small", "openai-community/gpt2", {"n_embd": 768, "n_layer": 12, "n_head": 12}),
    "gpt2_medium": ("GPT-2 Medium", "openai-community/gpt2-medium", {"n_embd": 1024, "n_layer": 24, "n_head": 16}),
}
GPT2_CONTEXT = 1024  # positions that GPT-2 has embeddings for


def _bert(name: str, place: Place, options: Mapping[str, Any]) -> list[Stage]:
    from transformers import BertConfig, BertModel

    fields = BERT[name][2]
    check_lengths(name, {**options, "past": 0}, fields["num_hidden_layers"])
    _fits(name, options["tokens"], fields["max_position_embeddings"])
    config = BertConfig(**{**fields, "num_hidden_layers": options["layers"], "attn_implementation": "sdpa"})
    module = construct(partial(BertModel, config), place, add_pooling_layer=False)
    ids = tensor((options["batch"], options["tokens"]), place, "ids", below=fields["vocab_size"])
    return [Stage("encoder", module, (ids,))]


def _minilm(place: Place, options: Mapping[str, Any]) -> list[Stage]:
    """With trained weights: `place.weights`, or those of the package that carries them; random where neither is."""
    if place.device != "meta":
        place = replace(place, weights=place.weights or _installed())
    return _bert("minilm_l6", place, options)


def _installed() -> str | None:
    """The folder of the model in the installed package of `workloads/minilm.py`."""
    from workloads.minilm import PACKAGE  # inside: it asks for pydantic, which machines that only measure may lack

    spec = find_spec(PACKAGE)
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((str(Path(folder) / "model") for folder in folders), None)


def _gpt2(name: str, place: Place, options: Mapping[str, Any]) -> list[Stage]:
    from transformers import GPT2Config, GPT2LMHeadModel

    fields = GPT2[name][2]
    check_lengths(name, options, fields["n_layer"])
    _fits(name, options["tokens"] + options["past"], GPT2_CONTEXT)
    config = GPT2Config(**{**fields, "n_layer": options["layers"], "attn_implementation": "sdpa"})
    module = construct(partial(GPT2LMHeadModel, config), place)
    size = fields["n_embd"] // fields["n_head"]
    cache = filled_cache(options["layers"], options["batch"], fields["n_head"], options["past"], size, place)
    return [causal_stage(mode(options), module, cache, place, options)]


def _decoder(place: Place, options: Mapping[str, Any]) -> list[Stage]:
    """Our decoder with its shipped weights, or those of the file `place.weights`; shapes only on meta."""
    module = _our_decoder(place)
    shape = module.shape
    _fits("decoder", options["tokens"] + options["past"], shape.context)
    module.register_forward_pre_hook(_own_list, with_kwargs=True)
    cache = kv_tensors(shape.layers, (options["batch"], shape.kv_heads, options["past"], shape.head_size), place)
    ids = tensor((options["batch"], options["tokens"]), place, "ids", below=shape.vocabulary)
    return [Stage(mode(options), module, (ids,), {"cache": cache})]


def _our_decoder(place: Place) -> Any:
    dtype = dtype_of(place)
    if place.device == "meta":
        return construct(lambda: build_decoder(DecoderShape()), place)
    return load_decoder(place.weights).to(place.device, dtype)


def _own_list(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Each run gets a list of its own to put its keys and values in, so that the next run sees the same past."""
    return args, {**kwargs, "cache": list(kwargs["cache"])}


def _fits(name: str, tokens: int, context: int) -> None:
    if tokens > context:
        raise ValueError(f"{name}: tokens + past must be at most its context of {context}, got {tokens}")


for _name, (_title, _repository, _fields) in BERT.items():
    register(
        Model(
            name=_name,
            title=_title,
            origin=f"config.json of {_repository}",
            options={"tokens": 384, "batch": 1, "layers": _fields["num_hidden_layers"]},
            build=_minilm if _name == "minilm_l6" else partial(_bert, _name),
            dtype="float32",
        )
    )
for _name, (_title, _repository, _fields) in GPT2.items():
    register(
        Model(
            name=_name,
            title=_title,
            origin=f"config.json of {_repository}; SpAtten's lengths: a prompt of 992, then 32 new tokens",
            options={"tokens": 992, "past": 0, "batch": 1, "layers": _fields["n_layer"], "logits": "all"},
            build=partial(_gpt2, _name),
            allowed={"logits": ("all", "last")},
            dtype="float32",
        )
    )
register(
    Model(
        name="decoder",
        title="our byte decoder",
        origin="docs/decoder.md",
        options={"tokens": 1024, "past": 0, "batch": 1},
        build=_decoder,
    )
)
