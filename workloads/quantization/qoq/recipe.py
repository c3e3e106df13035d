"""The method "qoq": its steps as switches, in the order in which they are applied."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from workloads.quantization.gptq import gptq, hessian_of
from workloads.quantization.grids import KINDS, check_kind
from workloads.quantization.methods import Group, LayerState, Method, complete, register
from workloads.quantization.qoq.cache import quantize_cache
from workloads.quantization.qoq.clipping import clipped_grid, search, search_attention
from workloads.quantization.qoq.llama import Llama, llama_of
from workloads.quantization.qoq.reorder import reorder
from workloads.quantization.qoq.rotation import rotate
from workloads.quantization.qoq.smoothing import smooth_attention, smooth_outputs

Tensor = Any
STRENGTHS = {"w4a8_channel": (0.1, 0.9), "w4a8_group": (0.3, 0.7)}  # alpha, beta: deepcompressor 69f3473
ATTENTION_TOKENS = 1024  # on which the clipping of q_proj and k_proj is searched


@register("qoq")
@dataclass(frozen=True)
class QoQ(Method):
    """W4A8KV4 of a model of the Llama type. Each switch is one step; all off: round to nearest, W4A8.

    kind: w4a8_channel or w4a8_group (progressive groups of 128), or another kind: the steps are the same. reorder only
    acts on kinds with groups. alpha, beta: strengths of inputs and weights in output smoothing; None: as shipped for
    the kind. clipping_points: ratios tried. kv_bits: 4, 8, or 16 for a cache as it is. seed: random signs of the
    rotation. Raises ValueError for models of another type, whatever is switched on.
    """

    kind: str = "w4a8_group"
    rotation: bool = True
    smooth_attention: bool = True
    output_smoothing: bool = True
    reorder: bool = True
    clipping: bool = True
    gptq: bool = True
    kv_bits: int = 4
    alpha: float | None = None
    beta: float | None = None
    clipping_points: int = 20
    seed: int | None = None

    @cached_property
    def clips(self) -> dict[str, Tensor]:
        """Ratios of q_proj and k_proj, found by `transform` for the model at hand."""
        return {}

    def transform(self, model: Any, run: Callable[[Any], object] | None, layers: dict[str, Any]) -> None:
        """All steps that leave the model as it is, the search that needs whole blocks, and the cache."""
        view = llama_of(model)
        check_kind(self.kind)
        self.clips.clear()
        if self.rotation:
            rotate(view, self.seed)
        if run is not None:
            self._calibrated(view, run, layers)
        quantize_cache(model, self.kv_bits)

    def _calibrated(self, view: Llama, run: Callable[[Any], object], layers: dict[str, Any]) -> None:
        if self.smooth_attention:
            smooth_attention(view, run)
        if self.output_smoothing:
            alpha, beta = STRENGTHS.get(self.kind, (0.1, 0.9))
            smooth_outputs(
                view, run, *(alpha if self.alpha is None else self.alpha, beta if self.beta is None else self.beta)
            )
        if self.reorder and KINDS[self.kind].group is not None:
            reorder(view, run)
        if self.clipping and set(view.names("q_proj", "k_proj")) <= set(layers):
            dtype = _type(view.model)
            found = search_attention(view, run, self.kind, dtype, self.clipping_points, ATTENTION_TOKENS)
            self.clips.update(found)

    def quantize(self, group: Group) -> list[LayerState]:
        """Clipping and GPTQ with the inputs after their quantization."""
        seen = KINDS[self.kind].activations(group.inputs, group.dtype, False)
        hessian = hessian_of(seen) if self.clipping or self.gptq else None
        layers = zip(group.names, group.weights, group.biases, strict=True)
        return [self._layer(name, weight, bias, hessian, group.dtype) for name, weight, bias in layers]

    def _layer(self, name: str, weight: Tensor, bias: Tensor | None, hessian: Tensor, dtype: Any) -> LayerState:
        ratio = self.clips.get(name)
        if self.clipping and ratio is None:
            ratio = search(self.kind, weight, hessian, dtype, self.clipping_points)
        grid = clipped_grid(self.kind, weight, ratio, dtype)
        found = gptq(weight, hessian, grid) if self.gptq else grid.encode(weight)
        state = complete(self.kind, {"codes": found, **grid.scales}, weight, bias, dtype)
        return LayerState(self.kind, state, {} if ratio is None else {"clip": float(ratio.mean())})


def _type(model: Any) -> Any:
    import torch

    kinds = {parameter.dtype for parameter in model.parameters()}
    return torch.bfloat16 if torch.bfloat16 in kinds else torch.float16
