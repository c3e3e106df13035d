"""Sana 0.6B and 1.6B (diffusers' SanaTransformer2DModel), one call, and the four DiTs of its design ladder.

Fields: Sana, arXiv 2410.10629, table 6, and transformer/config.json of Efficient-Large-Model/Sana_600M_* and
Sana_1600M_* (diffusers format). Positional encoding: none at 512 and 1024, sine-cosine with interpolation scale 1 at
2048 and 2 at 4096 (diffusers' scripts/convert_sana_to_diffusers.py; paper, appendix B).

The ladder is table 8: full attention with a plain FFN, linear attention, Mix-FFN, all on an F8C4 autoencoder with 2x2
patches, then the F32C32 autoencoder without patches. The paper does not name the model; Sana-0.6B's width and depth are
taken, since a batch of 2 (guidance) of it comes to the printed MACs within 1 % if the products of cross-attention are
not counted. Ours too, where the paper is silent: softmax attention has 16 heads of 72 (as this width's cross-attention
and PixArt-Sigma's), the plain FFN is 4 times as wide with GELU (as PixArt-Sigma's), and the rungs without the 3x3
convolution of Mix-FFN keep a positional encoding, without which they could not tell places apart.
"""

from collections.abc import Callable, Mapping
from typing import Any

from workloads.zoo.placing import construct, tensor
from workloads.zoo.registry import Builder, Model, Place, Stage, register

COMMON: dict[str, Any] = {
    "in_channels": 32,
    "out_channels": 32,
    "attention_head_dim": 32,
    "caption_channels": 2304,  # Gemma-2-2B
    "mlp_ratio": 2.5,
    "attention_bias": False,
    "patch_size": 1,
}
CONFIG_600M: dict[str, Any] = COMMON | {
    "num_attention_heads": 36,
    "num_layers": 28,
    "num_cross_attention_heads": 16,
    "cross_attention_head_dim": 72,
    "cross_attention_dim": 1152,
}
CONFIG_1600M: dict[str, Any] = COMMON | {
    "num_attention_heads": 70,
    "num_layers": 20,
    "num_cross_attention_heads": 20,
    "cross_attention_head_dim": 112,
    "cross_attention_dim": 2240,
}
F8C4P2 = {"in_channels": 4, "out_channels": 4, "patch_size": 2}
SOFTMAX_HEADS = {"num_attention_heads": 16, "attention_head_dim": 72}
INTERPOLATION = {512: None, 1024: None, 2048: 1.0, 4096: 2.0}


def build_sana(config: Mapping[str, Any]) -> Builder:
    """Builder of one step of a published model."""

    def build(place: Place, options: Mapping[str, Any]) -> list[Stage]:
        fields = {**config, "num_layers": options["layers"], "interpolation_scale": INTERPOLATION[options["size"]]}
        return [_stage(fields, 32, sana_transformer, place, options)]

    return build


def build_rung(latent: Mapping[str, Any], pixels: int, full: bool = False, plain: bool = False) -> Builder:
    """Builder of a rung of the ladder: `full` attention instead of linear, a `plain` FFN instead of Mix-FFN.

    latent   fields that another autoencoder than F32C32 changes
    pixels   edge of a latent's pixel in the image: 8 or 32
    """

    def make(fields: Mapping[str, Any]) -> Any:
        return _swapped(sana_transformer(fields), full, plain)

    def build(place: Place, options: Mapping[str, Any]) -> list[Stage]:
        heads = SOFTMAX_HEADS if full else {}
        scale = 1.0 if plain else None
        given = {**CONFIG_600M, **latent, **heads, "num_layers": options["layers"], "interpolation_scale": scale}
        return [_stage(given, pixels, make, place, options)]

    return build


def sana_transformer(fields: Mapping[str, Any]) -> Any:
    """A SanaTransformer2DModel of these fields."""
    from diffusers.models import SanaTransformer2DModel

    return SanaTransformer2DModel(**fields)


def _stage(
    fields: Mapping[str, Any],
    pixels: int,
    make: Callable[[Mapping[str, Any]], Any],
    place: Place,
    options: Mapping[str, Any],
) -> Stage:
    """Latent [batch, channels, size/pixels, size/pixels], text [batch, tokens, 2304], timestep and mask."""
    batch, text, side = options["batch"], options["tokens"], options["size"] // pixels
    module = construct(lambda: make({**fields, "sample_size": side}), place, "transformer")
    if module.config.interpolation_scale != fields["interpolation_scale"]:
        rule = f"interpolation_scale must be {fields['interpolation_scale']} at size {options['size']}"
        raise ValueError(f"weights: {place.weights}: {rule}, got {module.config.interpolation_scale}")
    kwargs = {
        "hidden_states": tensor([batch, fields["in_channels"], side, side], place, seed=1),
        "encoder_hidden_states": tensor([batch, text, fields["caption_channels"]], place, seed=2),
        "timestep": tensor([batch], place, seed=3),
        "encoder_attention_mask": tensor([batch, text], place, "mask"),
        "return_dict": False,
    }
    return Stage("transformer", module, (), kwargs)


def _swapped(model: Any, full: bool, plain: bool) -> Any:
    """The model with softmax self-attention and/or a plain feed-forward in every block."""
    from diffusers.models.transformers.sana_transformer import SanaAttnProcessor2_0

    for block in model.transformer_blocks:
        if full:
            block.attn1.set_processor(SanaAttnProcessor2_0())
        if plain:
            block.ff = _plain_feed_forward(block.attn1.query_dim)
    return model


def _plain_feed_forward(width: int) -> Any:
    """Linear to 4 x width, GELU, linear back, on [batch, width, h, w] as a Sana block hands it over."""
    from diffusers.models.attention import FeedForward
    from torch import Tensor, nn

    class PlainFeedForward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = FeedForward(width, mult=4, activation_fn="gelu-approximate")

        def forward(self, x: Tensor) -> Tensor:
            height_width = x.shape[2:]
            return self.net(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, height_width)

    return PlainFeedForward()


def _options(layers: int) -> dict[str, Any]:
    return {"size": 1024, "batch": 1, "tokens": 300, "layers": layers}


def _published(name: str, title: str, config: Mapping[str, Any]) -> Model:
    return Model(
        name,
        f"{title}, one step of the linear DiT",
        f"arXiv 2410.10629, table 6; config.json of Efficient-Large-Model/{name.title()}_1024px_diffusers",
        _options(config["num_layers"]),
        build_sana(config),
        {"size": tuple(INTERPOLATION)},
    )


SANA_600M = register(_published("sana_600m", "Sana-0.6B", CONFIG_600M))
SANA_1600M = register(_published("sana_1600m", "Sana-1.6B", CONFIG_1600M))
for _name, _title, _build in (
    (
        "full_ffn_f8c4p2",
        "full attention, plain FFN, F8C4P2",
        build_rung(F8C4P2, 8, full=True, plain=True),
    ),
    ("linear_ffn_f8c4p2", "linear attention, plain FFN, F8C4P2", build_rung(F8C4P2, 8, plain=True)),
    ("linear_mixffn_f8c4p2", "linear attention, Mix-FFN, F8C4P2", build_rung(F8C4P2, 8)),
    ("linear_mixffn_f32c32p1", "linear attention, Mix-FFN, F32C32P1", build_rung({}, 32)),
):
    register(
        Model(
            f"sana_ladder_{_name}",
            f"Sana's design ladder: {_title}, one step",
            "arXiv 2410.10629, table 8, at the width and depth of Sana-0.6B",
            _options(CONFIG_600M["num_layers"]),
            _build,
            {"size": (512, 1024)},
        )
    )
