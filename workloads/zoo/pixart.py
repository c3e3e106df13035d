"""PixArt-Sigma XL/2: diffusers' PixArtTransformer2DModel, one call of it.

Fields as in transformer/config.json of PixArt-alpha/PixArt-Sigma-XL-2-1024-MS (and -512-MS, -2K-MS, which differ in
sample_size). The positional encoding's scale follows from sample_size by the class's own rule: 1, 2, 4.
"""

from collections.abc import Mapping
from typing import Any

from workloads.zoo.placing import construct, tensor
from workloads.zoo.registry import Model, Place, Stage, register

CONFIG: dict[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,  # the noise, and its variance, which samplers drop
    "cross_attention_dim": 1152,
    "caption_channels": 4096,  # T5-XXL
    "patch_size": 2,
    "use_additional_conditions": False,  # Sigma drops the size and aspect ratio that alpha was told
}
PIXELS_PER_LATENT = 8
UNTOLD = {"resolution": None, "aspect_ratio": None}


def build(place: Place, options: Mapping[str, Any]) -> list[Stage]:
    """One step: latent [batch, 4, size/8, size/8], text [batch, tokens, 4096] with its mask [batch, tokens]."""
    batch, side, text = options["batch"], options["size"] // PIXELS_PER_LATENT, options["tokens"]
    fields = CONFIG | {"num_layers": options["layers"], "sample_size": side}
    kwargs = {
        "hidden_states": tensor([batch, CONFIG["in_channels"], side, side], place, seed=1),
        "encoder_hidden_states": tensor([batch, text, CONFIG["caption_channels"]], place, seed=2),
        "timestep": tensor([batch], place, seed=3),
        "encoder_attention_mask": tensor([batch, text], place, "mask"),
        "added_cond_kwargs": UNTOLD,
        "return_dict": False,
    }
    return [Stage("transformer", construct(lambda: _transformer(fields), place, "transformer"), (), kwargs)]


def _transformer(fields: Mapping[str, Any]) -> Any:
    from diffusers.models import PixArtTransformer2DModel

    return PixArtTransformer2DModel(**fields)


PIXART_SIGMA = register(
    Model(
        "pixart_sigma",
        "PixArt-Sigma XL/2, one step of the transformer",
        "config.json of PixArt-alpha/PixArt-Sigma-XL-2-1024-MS; 300 text tokens",
        {"size": 1024, "batch": 1, "tokens": 300, "layers": 28},
        build,
        {"size": (512, 1024, 2048)},
    )
)
