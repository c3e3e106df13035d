"""Operands with planted outliers, and the errors that ways to quantize leave on them.

What is planted, with its source; the rest of each tensor is normal:
- activations: 0.5 % of the channels 10 to 50 times the others, the same ones in every token (assumed within what is
  printed: SmoothQuant, arXiv 2211.10438, section 3: outliers some 100 times most values, in few fixed channels);
- correlation of channels: half of the variance lies in 32 directions (assumed: real channels are correlated, without
  which GPTQ has nothing to gain);
- keys: channels about 10 times the others (QServe, arXiv 2405.04532, section 4.2);
- weights: singular values that fall steeply at first and are flat behind (SVDQuant, arXiv 2411.05007, figure 5, which
  prints no numbers: assumed 32 directions from 4 times the edge of the normal part, falling as 1 / sqrt(j)).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from analysis.quality.measures import layer_errors, quantize_group
from analysis.quality.recipes import Recipe

Tensor = Any
SHARE, WEAKEST, STRONGEST, KEYS = 0.005, 10.0, 50.0, 10.0
DIRECTIONS, EDGE = 32, 4.0
RECIPES = (
    *("rtn_int4", "svd_int4", "smooth_int4", "svdquant_int4", "svdquant_int4_gptq"),
    *("rtn_nvfp4", "smooth_nvfp4", "svdquant_nvfp4", "svdquant_nvfp4_gptq"),
)


def gains(channels: int, generator: Any, share: float = SHARE) -> Tensor:
    """[channels] float32: 1, but for `share` of them (at least 2) 10 to 50, evenly in the logarithm."""
    import torch

    found = torch.ones(channels)
    count = max(2, round(share * channels))
    place = torch.randperm(channels, generator=generator)[:count]
    spread = torch.rand(count, generator=generator)
    found[place] = WEAKEST * (STRONGEST / WEAKEST) ** spread
    return found


def weight(rows: int, columns: int, generator: Any) -> Tensor:
    """[rows, columns] float32 of unit output variance but for the planted directions."""
    import torch

    normal = torch.randn(rows, columns, generator=generator)
    count = min(DIRECTIONS, rows, columns)
    left = torch.randn(rows, count, generator=generator) / rows**0.5
    right = torch.randn(count, columns, generator=generator) / columns**0.5
    edge = rows**0.5 + columns**0.5
    fall = EDGE * edge / torch.arange(1, count + 1).sqrt()
    return (normal + (left * fall) @ right) / columns**0.5


@dataclass(frozen=True)
class Tensors:
    """inputs, scored: [rows, K] to calibrate on and to score; weight [N, K]; all float32."""

    inputs: Tensor
    scored: Tensor
    weight: Tensor


def planted(rows: int = 1024, outputs: int = 256, columns: int = 256, seed: int = 0) -> Tensors:
    """A layer with outliers in its inputs; calibration and scored rows share the channels, nothing else."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    channel, mix = gains(columns, generator), mixture(columns, generator)
    inputs, scored = (activations(rows, mix, generator) * channel for _ in range(2))
    return Tensors(inputs, scored, weight(outputs, columns, generator))


def mixture(columns: int, generator: Any) -> Tensor:
    """[directions, columns]: what the channels have in common."""
    import torch

    return torch.randn(DIRECTIONS, columns, generator=generator) / DIRECTIONS**0.5


def activations(rows: int, mix: Tensor, generator: Any) -> Tensor:
    """[rows, columns] of variance 1: half of it common, half of each channel's own."""
    import torch

    own = torch.randn(rows, mix.shape[1], generator=generator)
    return (own + torch.randn(rows, len(mix), generator=generator) @ mix) / 2**0.5


def outlier_quality(
    recipes: Mapping[str, Recipe], seeds: int = 5, size: int = 256, form: str = "float16"
) -> Iterator[dict[str, Any]]:
    """A row for each recipe: output error (mean and extremes over seeds), and of activations and weights alone."""
    drawn = [planted(outputs=size, columns=size, seed=seed) for seed in range(seeds)]
    for name, recipe in recipes.items():
        found = [_errors(recipe, one, form) for one in drawn]
        yield {
            "recipe": name,
            "error": sum(one.output for one in found) / seeds,
            "error_least": min(one.output for one in found),
            "error_most": max(one.output for one in found),
            "activation_error": sum(one.activations for one in found) / seeds,
            "weight_error": sum(one.weights for one in found) / seeds,
        }


def _errors(recipe: Recipe, drawn: Tensors, form: str) -> Any:
    layer = quantize_group(recipe, [drawn.weight], [None], drawn.inputs, form)[0]
    return layer_errors(layer, drawn.weight, None, drawn.scored)
