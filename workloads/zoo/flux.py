"""FLUX.1-dev and -schnell: diffusers' FluxTransformer2DModel, one call of it.

Fields as in transformer/config.json of black-forest-labs/FLUX.1-dev and FLUX.1-schnell. The latent is 8x smaller than
the image and packed 2x2, so a square image of `size` pixels is (size / 16)^2 tokens of 64 channels.
"""

from collections.abc import Mapping
from typing import Any

from workloads.zoo.placing import construct, tensor
from workloads.zoo.registry import Builder, Model, Place, Stage, register

CONFIG: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,  # blocks with separate weights for text and image
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,  # T5-XXL
    "pooled_projection_dim": 768,  # CLIP-L
    "axes_dims_rope": (16, 56, 56),
}
PIXELS_PER_TOKEN = 16
SIZES = (512, 1024, 2048, 4096)


def flux(guided: bool) -> Builder:
    """Builder of one step; `guided`: dev's guidance embedding, which stands in for a doubled batch."""

    def build(place: Place, options: Mapping[str, Any]) -> list[Stage]:
        fields = CONFIG | {
            "guidance_embeds": guided,
            "num_layers": options["layers"],
            "num_single_layers": options["single_layers"],
        }
        kwargs = _inputs(options, place) | ({"guidance": tensor([options["batch"]], place)} if guided else {})
        return [Stage("transformer", construct(lambda: _transformer(fields), place, "transformer"), (), kwargs)]

    return build


def _transformer(fields: Mapping[str, Any]) -> Any:
    from diffusers.models import FluxTransformer2DModel

    return FluxTransformer2DModel(**fields)


def _inputs(options: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """Packed latent [batch, N, 64], T5 [batch, T, 4096], CLIP [batch, 768], positions [N, 3] and [T, 3]."""
    batch, text, side = options["batch"], options["tokens"], options["size"] // PIXELS_PER_TOKEN
    return {
        "hidden_states": tensor([batch, side * side, CONFIG["in_channels"]], place, seed=1),
        "encoder_hidden_states": tensor([batch, text, CONFIG["joint_attention_dim"]], place, seed=2),
        "pooled_projections": tensor([batch, CONFIG["pooled_projection_dim"]], place, seed=3),
        "timestep": tensor([batch], place, seed=4),
        "img_ids": _grid(side, place),
        "txt_ids": tensor([text, 3], place, "zeros"),
        "return_dict": False,
    }


def _grid(side: int, place: Place) -> Any:
    """Rotary positions [side * side, 3]: 0, row, column."""
    import torch

    zeros = tensor([side, side], place, "zeros")
    line = torch.arange(side, device=place.device).to(zeros.dtype)
    return torch.stack([zeros, zeros + line[:, None], zeros + line[None]], dim=-1).reshape(-1, 3)


def _options(tokens: int) -> dict[str, Any]:
    layers = {"layers": CONFIG["num_layers"], "single_layers": CONFIG["num_single_layers"]}
    return {"size": 1024, "batch": 1, "tokens": tokens, **layers}


FLUX_DEV = register(
    Model(
        "flux_dev",
        "FLUX.1-dev, one step of the transformer",
        "config.json of black-forest-labs/FLUX.1-dev; at most 512 text tokens",
        _options(512),
        flux(guided=True),
        {"size": SIZES},
    )
)
FLUX_SCHNELL = register(
    Model(
        "flux_schnell",
        "FLUX.1-schnell, one step of the transformer",
        "config.json of black-forest-labs/FLUX.1-schnell; at most 256 text tokens",
        _options(256),
        flux(guided=False),
        {"size": SIZES},
    )
)
