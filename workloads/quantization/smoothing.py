"""Smoothing: outliers of activations moved into the weights, x / s and W s by input channel; SmoothQuant and AWQ.

s = (absmax of X)^alpha / (absmax of W)^beta by channel. Real systems fold 1 / s into the norm or layer before; here
the layer itself divides (`smooth` of its state), which is the same but for that division's rounding.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from workloads.quantization.grids import KINDS, measured
from workloads.quantization.methods import Group, LayerState, Method, complete, register, rounded_weight

Tensor = Any


def strengths(grids: int = 20) -> list[tuple[float, float]]:
    """(alpha, beta): (0, 0), then (a, 0) and (a, 1 - a) for a = 1 / grids .. 1 - 1 / grids: 39 for 20 grids.

    deepcompressor 69f3473, its settings for SVDQuant.
    """
    steps = [step / grids for step in range(1, grids)]
    return [(0.0, 0.0), *((a, 0.0) for a in steps), *((a, 1 - a) for a in steps)]


def span(rows: Iterable[Tensor]) -> Tensor:
    """absmax of each column [K] over tensors [*, K]."""
    import torch

    return torch.stack([each.abs().amax(0).float() for each in rows]).amax(0)


def smooth_scale(inputs: Tensor, weights: Tensor, alpha: float, beta: float, dtype: Any = None) -> Tensor:
    """s [K] float32 from spans [K]; on the grid of `dtype` if given. What is 0 or not a number becomes 1, and if
    anything is infinite or not a number before that, all of it (deepcompressor 69f3473). So does what has no
    reciprocal in `dtype`: the branch is divided by s.
    """
    import torch

    scale = inputs.float() ** alpha / weights.float() ** beta
    scale = scale if dtype is None else scale.to(dtype).float()
    if not bool(torch.isfinite(scale).all()):
        return torch.ones_like(scale)
    back = 1 / scale if dtype is None else (1 / scale).to(dtype)
    return torch.where(torch.isfinite(back), scale, torch.ones_like(scale))


@register("smoothquant")
@dataclass(frozen=True)
class SmoothQuant(Method):
    """SmoothQuant (arXiv 2211.10438): s = absmax(X)^alpha / absmax(W)^(1 - alpha), then to nearest; shared by layers
    with one input. kind: w8a8 as published; w4a4 or w4a4_nvfp4 for smoothing alone at 4 bits.
    """

    kind: str = "w8a8"
    alpha: float = 0.5

    def quantize(self, group: Group) -> list[LayerState]:
        scale = smooth_scale(span([group.inputs]), span(group.weights), self.alpha, 1 - self.alpha, group.dtype)
        return smoothed_layers(self.kind, group, scale, {"alpha": self.alpha})


def smoothed_layers(
    kind: str, group: Group, scale: Tensor, details: dict[str, Any], size: int | None = None
) -> list[LayerState]:
    """States of a group with smoothing s [K], weights to nearest."""
    found = []
    for weight, bias in zip(group.weights, group.biases, strict=True):
        state = {
            **rounded_weight(kind, weight.double() * scale, group.dtype, group=size),
            "smooth": scale.to(group.dtype),
        }
        found.append(LayerState(kind, complete(kind, state, weight, bias, group.dtype), details))
    return found


@register("awq")
@dataclass(frozen=True)
class Awq(Method):
    """AWQ's scales (arXiv 2306.00978): s = (mean |X|)^a, a = 0, 1 / grids .. searched for the least output error of the
    rounded weights with 16-bit activations. Its clipping search is left out. group: columns with one scale.
    """

    kind: str = "w4a16"
    group: int | None = None
    grids: int = 20

    def quantize(self, group: Group) -> list[LayerState]:
        assert group.inputs is not None
        mean = group.inputs.float().abs().mean(0).clamp(min=1e-4)
        errors = {a / self.grids: self._error(group, self._scale(mean, a, group.dtype)) for a in range(self.grids)}
        best = min(errors, key=lambda a: errors[a])
        details = {"alpha": best, "gain": errors[best] / max(errors[0.0], 1e-300)}
        return smoothed_layers(
            self.kind, group, self._scale(mean, round(best * self.grids), group.dtype), details, self.group
        )

    def _scale(self, mean: Tensor, step: int, dtype: Any) -> Tensor:
        scale = mean ** (step / self.grids)
        scale = scale / (scale.max() * scale.min()).sqrt()  # AWQ's own normalisation
        return smooth_scale(scale, scale, 1, 0, dtype)

    def _error(self, group: Group, scale: Tensor) -> float:
        assert group.inputs is not None
        inputs, error = group.inputs.float(), 0.0
        for weight in group.weights:
            smoothed = weight.float() * scale
            snapped = measured(self.kind, smoothed, group.dtype, self.group, wide=False).snap(smoothed)
            seen = KINDS[self.kind].activations(inputs / scale, group.dtype, False)
            error += float((seen @ snapped.T - inputs @ weight.float().T).double().square().sum())
        return error
