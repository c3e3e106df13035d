"""Autoencoders of the image models, each half by itself: pixels to latent, latent to pixels.

DC-AE f32c32 of Sana (AutoencoderDC; Efficient-Large-Model's *_diffusers/vae/config.json, = mit-han-lab/dc-ae-f32c32-
sana-1.0), the 4-channel AutoencoderKL of SDXL (stabilityai/sdxl-vae) and the 16-channel one of FLUX.1
(black-forest-labs/FLUX.1-dev, vae/config.json). Encoders of AutoencoderKL end at mean and log-variance: drawing from
them is left out. So are tiling and slicing, and SDXL's return to float32 where the rest runs in float16.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from workloads.zoo.placing import construct, tensor
from workloads.zoo.registry import Builder, Model, Place, Stage, register

_VIT = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
_SCALES = ((), (), (), (5,), (5,), (5,))
_WIDTHS = (128, 256, 512, 512, 1024, 1024)
DC_AE: dict[str, Any] = {
    "in_channels": 3,
    "latent_channels": 32,
    "attention_head_dim": 32,
    "encoder_block_types": _VIT,
    "decoder_block_types": _VIT,
    "encoder_block_out_channels": _WIDTHS,
    "decoder_block_out_channels": _WIDTHS,
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
    "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
    "encoder_qkv_multiscales": _SCALES,
    "decoder_qkv_multiscales": _SCALES,
    "downsample_block_type": "Conv",
    "upsample_block_type": "interpolate",
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
    "scaling_factor": 0.41407,
}
_KL: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 1024,
}
KL_SDXL = _KL | {"latent_channels": 4, "scaling_factor": 0.13025}
KL_FLUX = _KL | {
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


@dataclass(frozen=True)
class Autoencoder:
    """Configuration of diffusers' class `kind`; a latent's pixel covers `pixels` x `pixels` of the image."""

    kind: str
    config: Mapping[str, Any]
    pixels: int


AUTOENCODERS = {
    "dc_ae_f32c32": Autoencoder("AutoencoderDC", DC_AE, 32),
    "autoencoder_kl": Autoencoder("AutoencoderKL", KL_SDXL, 8),
    "autoencoder_kl_flux": Autoencoder("AutoencoderKL", KL_FLUX, 8),
}


def build_encode(auto: Autoencoder) -> Builder:
    """Builder of pixels [batch, 3, size, size] -> latent (AutoencoderKL: mean and log-variance)."""

    def build(place: Place, options: Mapping[str, Any]) -> list[Stage]:
        whole = construct(_maker(auto), place, "vae")
        pixels = tensor([options["batch"], auto.config["in_channels"], options["size"], options["size"]], place)
        return [Stage("encoder", _half(whole, "encoder", "quant_conv"), (pixels,))]

    return build


def build_decode(auto: Autoencoder) -> Builder:
    """Builder of latent [batch, channels, size/pixels, size/pixels] -> pixels."""

    def build(place: Place, options: Mapping[str, Any]) -> list[Stage]:
        whole, side = construct(_maker(auto), place, "vae"), options["size"] // auto.pixels
        latent = tensor([options["batch"], auto.config["latent_channels"], side, side], place)
        return [Stage("decoder", _half(whole, "post_quant_conv", "decoder"), (latent,))]

    return build


def _maker(auto: Autoencoder) -> Callable[[], Any]:
    def make() -> Any:
        from diffusers import models

        return getattr(models, auto.kind)(**auto.config)

    return make


def _half(whole: Any, *names: str) -> Any:
    """The named parts that the autoencoder has, one after the other; a part alone as it is."""
    from torch import nn

    parts = {name: getattr(whole, name, None) for name in names}
    there = OrderedDict((name, part) for name, part in parts.items() if part is not None)
    return next(iter(there.values())) if len(there) == 1 else nn.Sequential(there)


_ORIGIN = {
    "dc_ae_f32c32": "vae/config.json of Efficient-Large-Model/Sana_1600M_1024px_diffusers (dc-ae-f32c32-sana-1.0)",
    "autoencoder_kl": "config.json of stabilityai/sdxl-vae",
    "autoencoder_kl_flux": "vae/config.json of black-forest-labs/FLUX.1-dev",
}
_TITLE = {
    "dc_ae_f32c32": "DC-AE f32c32 of Sana",
    "autoencoder_kl": "AutoencoderKL of SDXL, 4 channels",
    "autoencoder_kl_flux": "AutoencoderKL of FLUX.1, 16 channels",
}
for _name, _auto in AUTOENCODERS.items():
    for _half_name, _build in (("encode", build_encode(_auto)), ("decode", build_decode(_auto))):
        register(
            Model(
                f"{_name}_{_half_name}",
                f"{_TITLE[_name]}: {_half_name}",
                _ORIGIN[_name],
                {"size": 1024, "batch": 1},
                _build,
                {"size": (256, 512, 1024, 2048, 4096)},
            )
        )
