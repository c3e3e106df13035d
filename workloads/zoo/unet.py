"""SDXL and SDXL-Turbo: diffusers' UNet2DConditionModel, one call of it.

Fields as in unet/config.json of stabilityai/stable-diffusion-xl-base-1.0 and stabilityai/sdxl-turbo, which differ in
the size they were trained at alone. No `layers`: the depth of a U-Net is part of its shape.
"""

from collections.abc import Mapping
from typing import Any

from workloads.zoo.placing import construct, tensor
from workloads.zoo.registry import Model, Place, Stage, register

CONFIG: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),  # the number of heads, in spite of its name: 64 channels each
    "cross_attention_dim": 2048,  # CLIP-L beside CLIP-bigG
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,  # 1280 pooled text, 6 sizes x 256
}
PIXELS_PER_LATENT = 8


def build(place: Place, options: Mapping[str, Any]) -> list[Stage]:
    """One step: latent [batch, 4, size/8, size/8], text [batch, tokens, 2048] and [batch, 1280], sizes [batch, 6]."""
    batch, side = options["batch"], options["size"] // PIXELS_PER_LATENT
    module = construct(lambda: _unet(CONFIG | {"sample_size": side}), place, "unet")
    added = {"text_embeds": tensor([batch, 1280], place, seed=3), "time_ids": tensor([batch, 6], place, seed=4)}
    kwargs = {
        "sample": tensor([batch, CONFIG["in_channels"], side, side], place, seed=1),
        "timestep": tensor([batch], place, seed=5),
        "encoder_hidden_states": tensor([batch, options["tokens"], CONFIG["cross_attention_dim"]], place, seed=2),
        "added_cond_kwargs": added,
        "return_dict": False,
    }
    return [Stage("unet", module, (), kwargs)]


def _unet(fields: Mapping[str, Any]) -> Any:
    from diffusers.models import UNet2DConditionModel

    return UNet2DConditionModel(**fields)


SDXL = register(
    Model(
        "sdxl",
        "Stable Diffusion XL base 1.0, one step of the U-Net",
        "unet/config.json of stabilityai/stable-diffusion-xl-base-1.0; 77 text tokens",
        {"size": 1024, "batch": 1, "tokens": 77},
        build,
        {"size": (512, 768, 1024)},
    )
)
SDXL_TURBO = register(
    Model(
        "sdxl_turbo",
        "SDXL-Turbo, one step of the U-Net",
        "unet/config.json of stabilityai/sdxl-turbo; 77 text tokens",
        {"size": 512, "batch": 1, "tokens": 77},
        build,
        {"size": (512, 1024)},
    )
)
