"""Smaller ranges for weights: a ratio of each row's or group's range, by grid search (QServe, section 4.3).

The range, not the scale alone, shrinks: scale and zero are measured from the cut weights, so that zero stays where it
belongs. Most layers minimize their own output error; q_proj and k_proj that of the attention block, one ratio a head.
"""

from collections.abc import Callable, Iterable
from typing import Any

from workloads.quantization.grids import KINDS, Grid, measured
from workloads.quantization.numbers import grouped
from workloads.quantization.qoq.cache import causal
from workloads.quantization.qoq.llama import Llama, sequences

Tensor = Any
SHRINK = 0.8  # the smallest ratio is 1 - this: deepcompressor 69f3473


def ratios(points: int) -> list[float]:
    """1 and below, evenly, down to just above 1 - SHRINK."""
    return [1 - SHRINK * i / points for i in range(points)]


def clipped(weight: Tensor, ratio: Tensor) -> Tensor:
    """Weight [N, K] cut to `ratio` [N, K / group] of each group's range, which is widened to hold 0."""
    import torch

    parts = grouped(weight, weight.shape[1] // ratio.shape[1])
    low, high = parts.amin(-1).clamp(max=0) * ratio, parts.amax(-1).clamp(min=0) * ratio
    return torch.minimum(torch.maximum(parts, low[..., None]), high[..., None]).reshape(weight.shape)


def clipped_grid(kind: str, weight: Tensor, ratio: Tensor | None, dtype: Any, wide: bool = True) -> Grid:
    """The grid of a weight whose ranges are cut; None: not cut. wide=False: float32, for searches."""
    return measured(kind, weight if ratio is None else clipped(weight, ratio.to(weight)), dtype, wide=wide)


def search(kind: str, weight: Tensor, hessian: Tensor, dtype: Any, points: int) -> Tensor:
    """Ratio [N, groups] of least output error d H d^T, H = hessian [K, K] of the inputs, each group for itself."""
    import torch

    weight = weight.float()
    groups = weight.shape[1] // (KINDS[kind].group or weight.shape[1])
    size = weight.shape[1] // groups
    blocks = torch.stack([hessian[i : i + size, i : i + size] for i in range(0, len(hessian), size)]).to(weight)
    best = weight.new_full((weight.shape[0], groups), torch.inf)
    found = torch.ones_like(best)
    for ratio in ratios(points):
        grid = clipped_grid(kind, weight, torch.full_like(best, ratio), dtype, wide=False)
        apart = grouped(grid.snap(weight) - weight, size)
        error = (torch.einsum("ngk,gkj->ngj", apart, blocks) * apart).sum(-1)
        found, best = torch.where(error < best, ratio, found), torch.minimum(error, best)
    return found


def search_attention(
    view: Llama, run: Callable[[Any], object], kind: str, dtype: Any, points: int, tokens: int
) -> dict[str, Tensor]:
    """Ratios [N, groups] of all q_proj and k_proj: k_proj is searched with q_proj cut and quantized."""
    names = view.names("q_proj")
    seen, found = sequences(view, run, names, tokens), {}
    for name, block in zip(names, view.blocks, strict=True):
        errors = _Block(view, block.self_attn, seen[name])
        for part in ("q_proj", "k_proj"):
            layer = getattr(block.self_attn, part)
            ratio = errors.best(part, kind, dtype, points)
            found[name.replace("q_proj", part)] = ratio
            errors.weights[part] = clipped_grid(kind, layer.weight, ratio, dtype).snap(layer.weight)
    return found


class _Block:
    """The output error of one attention block, by head, for other weights of q_proj and k_proj."""

    def __init__(self, view: Llama, attention: Any, inputs: Iterable[Tensor]) -> None:
        self.view, self.attention, self.inputs = view, attention, list(inputs)
        self.weights: dict[str, Tensor] = {}
        self.exact = [self._contexts(x, {}) for x in self.inputs]
        output = attention.o_proj.weight.float().unflatten(1, (view.heads, -1))
        import torch

        self.gram = torch.einsum("nhd,nhe->hde", output, output)

    def best(self, part: str, kind: str, dtype: Any, points: int) -> Tensor:
        """Ratio [N, groups] of one projection, the same in all rows of a head."""
        import torch

        weight = getattr(self.attention, part).weight.float()
        heads = len(weight) // self.view.head_size
        groups = weight.shape[1] // (KINDS[kind].group or weight.shape[1])
        errors = []
        for ratio in ratios(points):
            grid = clipped_grid(kind, weight, weight.new_full((len(weight), groups), ratio), dtype, wide=False)
            errors.append(self._errors({**self.weights, part: grid.snap(weight)}).reshape(heads, -1).sum(1))
        place = torch.stack(errors).argmin(0)
        chosen = torch.tensor(ratios(points), device=weight.device, dtype=weight.dtype)[place]
        return chosen.repeat_interleave(self.view.head_size)[:, None].expand(-1, groups)

    def _errors(self, weights: dict[str, Tensor]) -> Tensor:
        """[heads]: squares of each head's part of the block's output error."""
        import torch

        total = torch.zeros(self.view.heads, device=self.gram.device)
        for x, exact in zip(self.inputs, self.exact, strict=True):
            apart = self._contexts(x, weights) - exact
            total += (torch.einsum("bhnd,hde->bhne", apart, self.gram) * apart).sum((0, 2, 3))
        return total

    def _contexts(self, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """[B, H, n, D] float32."""
        from torch.nn.functional import linear

        parts = []
        for part in ("q_proj", "k_proj", "v_proj"):
            layer = getattr(self.attention, part)
            parts.append(self.view.split(linear(x, weights.get(part, layer.weight).to(x.dtype), layer.bias)))
        return causal(0, self.view.turned(parts[0]), self.view.turned(parts[1]), parts[2]).float()
