"""Text encoders of the diffusion models, called as the pipelines of diffusers call them.

CLIP: causal, the mask a flag. T5: one attention with a bias [1, heads, tokens, tokens] that the first layer makes.
Gemma-2: eager attention (its soft cap has no fused form), over an all-ones mask.
Left out: tokenizers, padding (every position is a token), and prompts longer than one window of CLIP.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from workloads.zoo.placing import construct, tensor
from workloads.zoo.registry import Model, Place, Stage, register

# fields of transformers' configuration classes; origins stand with the models at the end
CLIP_L: dict[str, Any] = {
    "vocab_size": 49_408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "eos_token_id": 2,
}
CLIP_BIGG = CLIP_L | {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
T5_XXL: dict[str, Any] = {
    "vocab_size": 32_128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10_240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "is_encoder_decoder": False,
    "use_cache": False,
}
GEMMA2_2B: dict[str, Any] = {
    "vocab_size": 256_000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
}
CLIP_WINDOW = 77  # positions that CLIP has embeddings for; the pipelines always pad to it
# assumed: 204 to 220. The instruction that diffusers' SanaPipeline puts before a prompt has 1057 characters: 206 words,
# marks and line ends, and the token that begins a text. Gemma's tokenizer, which decides, was not at hand.
INSTRUCTION_TOKENS = 208


def encoder_length(tokens: int, instruction_tokens: int) -> int:
    """Positions that Sana's text encoder runs over when `tokens` are kept (300): SanaPipeline._get_gemma_prompt_embeds.

    The prompt is padded to the instruction and `tokens` less 2 (the tokens that begin and end the instruction alone);
    the first and the last tokens - 1 positions are kept. The empty prompt of guidance runs without the instruction.
    """
    return tokens + (instruction_tokens - 2 if instruction_tokens else 0)


def _clip(fields: Mapping[str, Any], kind: str, part: str, place: Place, options: Mapping[str, Any]) -> list[Stage]:
    _at_most("tokens", options["tokens"], CLIP_WINDOW)
    return [_stage(_make(kind, "CLIPTextConfig", fields, "num_hidden_layers", options), part, place, options)]


def _t5(place: Place, options: Mapping[str, Any]) -> list[Stage]:
    make = _make("T5EncoderModel", "T5Config", T5_XXL, "num_layers", options)
    return [_stage(make, "text_encoder_2", place, options)]


def _gemma(place: Place, options: Mapping[str, Any]) -> list[Stage]:
    """The encoder over the instruction and the prompt; 300 of its positions go on (no operator of the encoder)."""
    make = _make("Gemma2Model", "Gemma2Config", GEMMA2_2B, "num_hidden_layers", options, attention="eager")
    length = encoder_length(options["tokens"], options["instruction_tokens"] if options["instruction"] else 0)
    _at_most("tokens and instruction", length, GEMMA2_2B["sliding_window"])
    stage = _stage(make, "text_encoder", place, {**options, "tokens": length})
    mask = tensor((options["batch"], length), place, "mask")
    return [Stage(stage.name, stage.module, stage.args, {"attention_mask": mask})]


def _stage(make: Callable[[], Any], part: str, place: Place, options: Mapping[str, Any]) -> Stage:
    """The encoder over ids int64 [batch, tokens]; `part` is its folder in a pipeline's checkpoint."""
    module = construct(make, place, part)
    ids = tensor((options["batch"], options["tokens"]), place, "ids", below=module.config.vocab_size)
    return Stage("text_encoder", module, (ids,))


def _make(
    kind: str, config: str, fields: Mapping[str, Any], depth: str, options: Mapping[str, Any], attention: str = "sdpa"
) -> Callable[[], Any]:
    import transformers

    _at_most("layers", options["layers"], fields[depth])
    chosen = {**fields, depth: options["layers"], "attn_implementation": attention}
    return partial(getattr(transformers, kind), getattr(transformers, config)(**chosen))


def _at_most(what: str, value: int, most: int) -> None:
    if value > most:
        raise ValueError(f"{what}: must be at most {most}, got {value}")


def _register(name: str, title: str, origin: str, options: Mapping[str, Any], build: Any, **more: Any) -> None:
    register(Model(name, title, origin, {"batch": 1, **options}, build, **more))


_register(
    "clip_l",
    "CLIP ViT-L/14 text encoder",
    "config.json of openai/clip-vit-large-patch14 (text_config)",
    {"tokens": CLIP_WINDOW, "layers": 12},
    partial(_clip, CLIP_L, "CLIPTextModel", "text_encoder"),
)
_register(
    "clip_bigg",
    "OpenCLIP ViT-bigG/14 text encoder",
    "text_encoder_2/config.json of stabilityai/stable-diffusion-xl-base-1.0",
    {"tokens": CLIP_WINDOW, "layers": 32},
    partial(_clip, CLIP_BIGG, "CLIPTextModelWithProjection", "text_encoder_2"),
    dtype="float16",
)
_register(
    "t5_xxl",
    "T5 v1.1 XXL encoder",
    "text_encoder_2/config.json of black-forest-labs/FLUX.1-dev",
    {"tokens": 512, "layers": 24},
    _t5,
)
_register(
    "gemma2_2b",
    "Gemma-2-2B-IT as Sana's text encoder",
    "config.json of google/gemma-2-2b-it; lengths: diffusers, SanaPipeline",
    {"tokens": 300, "layers": 26, "instruction": True, "instruction_tokens": INSTRUCTION_TOKENS},
    _gemma,
    allowed={"instruction": (True, False)},
)
