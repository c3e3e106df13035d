"""One transformer block each of FLUX.1, Sana-1.6B and Llama-3-8B at full width, quantized: errors by layer and block.

Classes and shapes are those of diffusers and transformers (`workloads.zoo`); weights are random with what
`analysis.quality.outliers` plants. Outlier channels of 10 to 50 times enter where real ones do: by the norm's weight or
the modulation, by rows of the value projection and of the FFN's first layer; Llama's keys have one pair of channels a
head of 10 times (QServe, section 4.2). Sana's 1x1 convolutions are taken as linear layers, their K padded to 64.
Left out: quantized modulation (W4A16 in Nunchaku v1.1), Sana's cross K and V (16 bit there), positions, real inputs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from analysis.quality import outliers
from analysis.quality.measures import layer_errors
from analysis.quality.recipes import Recipe, adapted

Tensor = Any
Progress = Callable[[int, int, str], None]
RECIPES = (*outliers.RECIPES, "rtn_w4a8", "rtn_w4a8_g128", "smoothquant_w8a8", "awq_w4a16", "nf4")


@dataclass(frozen=True)
class Block:
    """module: float32 on its device. draw(generator) -> (args, kwargs) of one call; layers: those to quantize."""

    name: str
    module: Any
    draw: Callable[[Any], tuple[tuple[Any, ...], dict[str, Any]]]
    layers: Sequence[str]


def build(name: str, tokens: int = 256, device: str = "cpu", seed: int = 0) -> Block:
    """A block by name: flux, sana or llama3. tokens: of one call, a square for sana. Raises ValueError."""
    if name not in BUILDERS:
        raise ValueError(f"block: must be one of {', '.join(BUILDERS)}, got {name!r}")
    return BUILDERS[name](tokens, device, _generator(seed))


def block_quality(
    block: Block, recipes: Mapping[str, Recipe], calls: int = 4, seed: int = 0,
    progress: Progress = lambda *_: None, **changes: Any
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Rows by recipe: one for each layer on its exact inputs, then one for the block ("block").

    calls: calibration calls; as many others are scored. error: norm of the output's error over the norm of the output;
    for the block, over that of what the block adds to its residual stream. changes: options such as grids or rank,
    for the recipes that have them.
    """
    import torch

    from workloads.quantization.quantize import quantize

    generator = _generator(seed + 1)
    calibration, scored = ([block.draw(generator) for _ in range(calls)] for _ in range(2))
    exact = _outputs(block.module, scored)
    size = float((exact - _streams(scored)).norm())
    inputs = _inputs(block, scored)
    for name, recipe in recipes.items():
        method = recipe.build(**adapted(recipe, **changes))
        told = _told(progress, name)
        with torch.no_grad():
            found = quantize(
                block.module, method, lambda model: _outputs(model, calibration), block.layers,
                form="float16", seed=seed, progress=told,
            )  # fmt: skip
            yield from _layer_rows(block, name, found.model, inputs)
            error = float((_outputs(found.model, scored) - exact).norm()) / size
        yield {"block": block.name, "recipe": name, "layer": "block", "error": error}


def _told(progress: Progress, name: str) -> Progress:
    return lambda done, total, layer: progress(done, total, f"{name}: {layer}")


def _layer_rows(block: Block, recipe: str, model: Any, inputs: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
    for name, x in inputs.items():
        exact = block.module.get_submodule(name)
        found = layer_errors(model.get_submodule(name), exact.weight, exact.bias, x)
        parts = {"activation_error": found.activations, "weight_error": found.weights}
        yield {"block": block.name, "recipe": recipe, "layer": name, "error": found.output, **parts}


def _inputs(block: Block, calls: Sequence[Any]) -> dict[str, Tensor]:
    from workloads.quantization.calibration import record_inputs

    return record_inputs(block.module, lambda model: _outputs(model, calls), block.layers, rows=256)


def _outputs(module: Any, calls: Sequence[Any]) -> Tensor:
    """All outputs of all calls, flat, float64."""
    import torch

    with torch.no_grad():
        found = [module(*args, **kwargs) for args, kwargs in calls]
    return torch.cat([part.double().flatten() for one in found for part in (one if isinstance(one, tuple) else (one,))])


def _streams(calls: Sequence[Any]) -> Tensor:
    """The residual streams that enter, in the order of `_outputs`."""
    import torch

    names = ("encoder_hidden_states", "hidden_states")  # FLUX gives the text stream first
    streams = [kwargs[name] for _, kwargs in calls for name in names if name in kwargs and name not in _others(kwargs)]
    return torch.cat([one.double().flatten() for one in streams])


def _others(kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """Text that is only read: Sana's."""
    return ("encoder_hidden_states",) if "timestep" in kwargs else ()


def _generator(seed: int) -> Any:
    import torch

    return torch.Generator().manual_seed(seed)


def _empty(model: str, path: str, device: str, **options: int) -> Any:
    """A block of a model of the zoo, with memory but no values."""
    from workloads.zoo.registry import Place, find_model, options_of

    found = find_model(model)
    stage = found.build(Place("meta", "float32"), options_of(found, options))[0]
    return stage.module.get_submodule(path).to_empty(device=device)


def _plant(module: Any, generator: Any, weak: Sequence[str] = (), gain: float = 1.0) -> None:
    """Matrices with a steep start of their spectrum, over `gain`; vectors 0 (bias) or 1. weak: modulation, near 0."""
    import torch

    for name, tensor in module.named_parameters():
        if tensor.dim() != 2:
            tensor.data.fill_(0 if name.endswith("bias") else 1)
        elif any(part in name for part in weak):
            tensor.data.copy_(0.002 * torch.randn(tensor.shape, generator=generator))
        else:
            rows, columns = tensor.shape
            tensor.data.copy_(outliers.weight(rows, columns, generator) / gain)


def _gains(tensor: Tensor, generator: Any) -> Tensor:
    """Outlier gains for the elements of a vector, or the rows of a matrix, on its device."""
    found = outliers.gains(tensor.shape[0], generator)
    return found.to(tensor.device).reshape(-1, *[1] * (tensor.dim() - 1))


def _raise_rows(layer: Any, generator: Any, rows: int | None = None) -> None:
    """Make some outputs of a linear layer (of its first `rows`) outlier channels of the next one."""
    part = layer.weight.data[:rows]
    part.mul_(_gains(part, generator))


_RMS = sqrt(1 + outliers.SHARE * (outliers.STRONGEST**2 - outliers.WEAKEST**2) / 2 / 1.6)  # of gains: log(5) = 1.6


def _normal(shape: Sequence[int], generator: Any, device: str) -> Tensor:
    import torch

    return torch.randn(*shape, generator=generator).to(device)


def _llama3(tokens: int, device: str, generator: Any) -> Block:
    import torch

    block = _empty("llama3_8b", "model.layers.0", device, layers=1)
    _plant(block, generator, gain=_RMS)
    for norm in (block.input_layernorm, block.post_attention_layernorm):
        norm.weight.data.copy_(_gains(norm.weight, generator))
    _raise_rows(block.self_attn.v_proj, generator)
    _raise_rows(block.mlp.up_proj, generator)
    keys = block.self_attn.k_proj.weight.data.unflatten(0, (-1, 128))
    keys[:, [20, 84]] *= outliers.KEYS  # RoPE turns channel j with channel j + 64
    cosine, sine = torch.ones(1, tokens, 128, device=device), torch.zeros(1, tokens, 128, device=device)

    def draw(source: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden = _normal((1, tokens, 4096), source, device)
        return (), {"hidden_states": hidden, "position_embeddings": (cosine, sine)}

    return Block("llama3", block, draw, ["self_attn.*", "mlp.*"])


def _flux(tokens: int, device: str, generator: Any) -> Block:
    """A double block: image and text streams; a quarter as much text."""
    import torch

    block = _empty("flux_dev", "transformer_blocks.0", device, layers=1, single_layers=1)
    _plant(block, generator, ("norm1.", "norm1_context."), _RMS)
    for norm in (block.norm1, block.norm1_context):
        _modulate(norm.linear.bias.data.view(6, -1), generator)
    for layer in (block.attn.to_v, block.attn.add_v_proj, block.ff.net[0].proj, block.ff_context.net[0].proj):
        _raise_rows(layer, generator)
    text = max(1, tokens // 4)
    turn = torch.ones(tokens + text, 128, device=device), torch.zeros(tokens + text, 128, device=device)

    def draw(source: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        streams = {"hidden_states": (1, tokens, 3072), "encoder_hidden_states": (1, text, 3072), "temb": (1, 3072)}
        drawn = {name: _normal(shape, source, device) for name, shape in streams.items()}
        return (), drawn | {"image_rotary_emb": turn}

    return Block("flux", block, draw, ["attn.*", "ff.*", "ff_context.*"])


def _modulate(table: Tensor, generator: Any) -> None:
    """shift, scale, gate of attention and FFN [6, width]: gates 1, scales raise outlier channels (1 + scale)."""
    table.zero_()
    for scale, gate in ((1, 2), (4, 5)):
        table[scale] = _gains(table[scale], generator) - 1
        table[gate] = 1


def _sana(tokens: int, device: str, generator: Any) -> Block:
    block = _empty("sana_1600m", "transformer_blocks.0", device, layers=1)
    for name in ("conv_inverted", "conv_point"):
        setattr(block.ff, name, _pointwise(getattr(block.ff, name)))
    _plant(block, generator, gain=_RMS)
    block.ff.conv_depth.weight.data.copy_(_normal(block.ff.conv_depth.weight.shape, generator, device) / 3)
    _modulate(block.scale_shift_table.data, generator)
    for layer, rows in ((block.attn1.to_v, None), (block.attn2.to_v, None), (block.ff.conv_inverted.linear, 5600)):
        _raise_rows(layer, generator, rows)
    block.ff.conv_point.linear.weight.data[:, 5600:] = 0
    side = max(1, round(tokens**0.5))

    def draw(source: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        streams = {"hidden_states": (1, side * side, 2240), "encoder_hidden_states": (1, max(1, tokens // 4), 2240)}
        drawn = {name: _normal(shape, source, device) for name, shape in streams.items()}
        return (), drawn | {"timestep": 0 * _normal((1, 6 * 2240), source, device), "height": side, "width": side}

    return Block("sana", block, draw, ["attn1.*", "attn2.to_q", "attn2.to_out.*", "ff.*"])


def _pointwise(convolution: Any) -> Any:
    """A 1x1 convolution as a linear layer whose K is padded with zeros to a multiple of 64."""
    from torch import nn
    from torch.nn.functional import pad

    columns = -(-convolution.in_channels // 64) * 64
    device, bias = convolution.weight.device, convolution.bias is not None

    class Pointwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(columns, convolution.out_channels, bias=bias, device=device)

        def forward(self, x: Any) -> Any:
            x = x.movedim(1, -1)
            return self.linear(pad(x, (0, columns - x.shape[-1]))).movedim(-1, 1)

    return Pointwise()


BUILDERS: dict[str, Callable[[int, str, Any], Block]] = {"flux": _flux, "sana": _sana, "llama3": _llama3}
