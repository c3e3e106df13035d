"""Language models of QServe's tables: prefill, and decode with a filled cache, on the classes of transformers.

Attention is one scaled_dot_product_attention a layer with grouped queries: transformers' "sdpa" passes keys and values
as they are and asks for causality by a flag as long as there is a cache and no mask (tests hold this).
Left out: tokens past 4096 of Mistral, whose window would close, a chunk of a prompt behind a filled cache, sampling,
and dropout.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from workloads.zoo.cache import filled_cache
from workloads.zoo.placing import construct, tensor
from workloads.zoo.registry import Model, Place, Stage, register

# fields of transformers' configuration classes; values are those of config.json of the repository named below
_LLAMA2 = {"vocab_size": 32_000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 1e4}


def _sizes(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "tie_word_embeddings": False,
    }


# name: (title, repository, class prefix in transformers, fields)
CONFIGURATIONS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "llama2_7b": ("Llama-2-7B", "meta-llama/Llama-2-7b-hf", "Llama", _LLAMA2 | _sizes(4096, 11008, 32, 32, 32)),
    "llama2_13b": ("Llama-2-13B", "meta-llama/Llama-2-13b-hf", "Llama", _LLAMA2 | _sizes(5120, 13824, 40, 40, 40)),
    "llama2_70b": ("Llama-2-70B", "meta-llama/Llama-2-70b-hf", "Llama", _LLAMA2 | _sizes(8192, 28672, 80, 64, 8)),
    "llama3_8b": (
        "Llama-3-8B",
        "meta-llama/Meta-Llama-3-8B",
        "Llama",
        {"vocab_size": 128_256, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 5e5}
        | _sizes(4096, 14336, 32, 32, 8),
    ),
    "llama_30b": (
        "Llama-30B",
        "huggyllama/llama-30b",
        "Llama",
        {"vocab_size": 32_000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 1e4}
        | _sizes(6656, 17920, 60, 52, 52),
    ),
    "mistral_7b": (
        "Mistral-7B",
        "mistralai/Mistral-7B-v0.1",
        "Mistral",
        {"vocab_size": 32_000, "max_position_embeddings": 32_768, "rms_norm_eps": 1e-5, "rope_theta": 1e4}
        | _sizes(4096, 14336, 32, 32, 8)
        | {"sliding_window": 4096},
    ),
    "yi_34b": (
        "Yi-34B",
        "01-ai/Yi-34B",
        "Llama",
        {"vocab_size": 64_000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 5e6}
        | _sizes(7168, 20480, 60, 56, 8),
    ),
    "qwen15_72b": (
        "Qwen1.5-72B",
        "Qwen/Qwen1.5-72B",
        "Qwen2",
        {"vocab_size": 152_064, "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6, "rope_theta": 1e6}
        | _sizes(8192, 24576, 80, 64, 64)
        | {"use_sliding_window": False},
    ),
}


def causal_stage(name: str, module: Any, cache: Any, place: Place, options: Mapping[str, Any]) -> Stage:
    """One prefill or one decode step of a causal language model: ids int64 [batch, tokens] behind `cache`."""
    ids = tensor((options["batch"], options["tokens"]), place, "ids", below=module.config.vocab_size)
    kwargs = {"past_key_values": cache}
    if options["logits"] == "last":
        kwargs["logits_to_keep"] = 1
    return Stage(name, module, (ids,), kwargs)


def check_lengths(name: str, options: Mapping[str, Any], layers: int) -> None:
    """Raises ValueError for a chunk of a prompt behind a filled cache, and for more layers than published."""
    if options["past"] and options["tokens"] > 1:
        raise ValueError(
            f"{name}: past > 0 needs tokens = 1 (decode), got tokens {options['tokens']} and past {options['past']}; "
            "a chunk of a prompt needs a mask, for which transformers copies keys and values for every query head"
        )
    if options["layers"] > layers:
        raise ValueError(f"{name}.layers: must be at most the {layers} published, got {options['layers']}")


def mode(options: Mapping[str, Any]) -> str:
    """ "decode" behind a filled cache, "prefill" without."""
    return "decode" if options["past"] else "prefill"


def _build(name: str, place: Place, options: Mapping[str, Any]) -> list[Stage]:
    fields = dict(CONFIGURATIONS[name][3])
    check_lengths(name, options, fields["num_hidden_layers"])
    if fields.get("sliding_window"):
        _leave_window(name, fields, options["tokens"] + options["past"])
    fields["num_hidden_layers"] = options["layers"]
    module = construct(_maker(CONFIGURATIONS[name][2], fields), place)
    heads, size = fields["num_key_value_heads"], fields["hidden_size"] // fields["num_attention_heads"]
    cache = filled_cache(options["layers"], options["batch"], heads, options["past"], size, place)
    return [causal_stage(mode(options), module, cache, place, options)]


def _leave_window(name: str, fields: dict[str, Any], length: int) -> None:
    """A window that no query reaches the end of masks nothing, so causality by a flag is the same. ValueError."""
    if length > fields["sliding_window"]:
        raise ValueError(
            f"{name}: tokens + past must be at most its window of {fields['sliding_window']}, got {length}"
        )
    fields["sliding_window"] = None


def _maker(prefix: str, fields: Mapping[str, Any]) -> Callable[[], Any]:
    import transformers

    config = getattr(transformers, f"{prefix}Config")(**fields, attn_implementation="sdpa")
    return partial(getattr(transformers, f"{prefix}ForCausalLM"), config)


for _name, (_title, _repository, _, _fields) in CONFIGURATIONS.items():
    register(
        Model(
            name=_name,
            title=_title,
            origin=f"config.json of {_repository}",
            options={"tokens": 1024, "past": 0, "batch": 1, "layers": _fields["num_hidden_layers"], "logits": "all"},
            build=partial(_build, _name),
            allowed={"logits": ("all", "last")},
            dtype="float16" if _name.startswith("llama2") or _name == "llama_30b" else "bfloat16",
        )
    )
