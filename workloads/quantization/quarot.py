"""QuaRot-type W4A4 (arXiv 2404.00456): activations rotated by Hadamard matrices, 4 bits without a branch.

In models of the Llama type the rotation of the residual stream and that of V inside each head are folded into the
weights; the input of down_proj is rotated at run time. In other models every input is. What differs from the paper:
scales belong to 64 channels of a token or row (kind w4a4), not to whole ones; no rotation across heads before
o_proj, none of queries and keys after RoPE (their KV4 has it); no clipping.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from workloads.quantization.gptq import gptq, hessian_of
from workloads.quantization.grids import KINDS, State, measured
from workloads.quantization.hadamard import rotation
from workloads.quantization.methods import Group, LayerState, Method, complete, register
from workloads.quantization.qoq.cache import quantize_cache
from workloads.quantization.qoq.llama import Llama, llama_of
from workloads.quantization.qoq.rotation import rotate

Tensor = Any


@register("quarot")
@dataclass(frozen=True)
class QuaRot(Method):
    """Rotated inputs, then to nearest or GPTQ. seed: random signs of the stream's rotation (None: none). kv_bits: 4 or
    8 for models of the Llama type. Raises ValueError for K that no Hadamard matrix is known for.
    """

    kind: str = "w4a4"
    gptq: bool = False
    kv_bits: int = 16
    seed: int | None = 0

    @cached_property
    def folded(self) -> set[str]:
        """Layers whose input is rotated by what was folded into weights, found by `transform`."""
        return set()

    def transform(self, model: Any, run: Callable[[Any], object] | None, layers: dict[str, Any]) -> None:
        """Fold what can be folded; models of another type stay as they are."""
        self.folded.clear()
        try:
            view = llama_of(model)
        except ValueError:
            if self.kv_bits != 16:
                raise
            return
        rotate(view, self.seed)
        rotate_values(view)
        quantize_cache(model, self.kv_bits)
        self.folded.update(view.names("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"), ("lm_head",))

    def quantize(self, group: Group) -> list[LayerState]:
        folded = self.folded.issuperset(group.names)
        turn = None if folded else rotation(group.weights[0].shape[1], None, None, group.weights[0].device)
        hessian = hessian_of(self._seen(group, turn)) if self.gptq else None
        layers = zip(group.weights, group.biases, strict=True)
        return [self._layer(weight, bias, turn, hessian, group.dtype) for weight, bias in layers]

    def _seen(self, group: Group, turn: Tensor) -> Tensor:
        inputs: Tensor = group.inputs
        inputs = inputs if turn is None else (inputs.double() @ turn).float()
        return KINDS[self.kind].activations(inputs, group.dtype, False)

    def _layer(self, weight: Tensor, bias: Tensor, turn: Tensor, hessian: Tensor, dtype: Any) -> LayerState:
        import torch

        weight = weight if turn is None else weight.double() @ turn
        grid = measured(self.kind, weight, dtype)
        codes = grid.encode(weight) if hessian is None else gptq(weight, hessian, grid)
        state: State = complete(self.kind, {"codes": codes, **grid.scales}, weight, bias, dtype)
        if turn is not None:
            state["hadamard"] = torch.ones((), dtype=torch.uint8, device=weight.device)
        return LayerState(self.kind, state)


def rotate_values(view: Llama) -> None:
    """V rotated inside each head, the inverse in o_proj. Raises ValueError for a head size without a matrix."""
    import torch

    for block in view.blocks:
        value, output = block.self_attn.v_proj, block.self_attn.o_proj
        turn = rotation(view.head_size, None, torch.float64, value.weight.device)
        rows = torch.einsum("de,hdk->hek", turn, value.weight.double().unflatten(0, (-1, view.head_size)))
        value.weight.data = rows.flatten(0, 1).to(value.weight.dtype)
        if value.bias is not None:
            value.bias.data = (value.bias.double().unflatten(0, (-1, view.head_size)) @ turn).flatten().to(value.bias)
        columns = output.weight.double().unflatten(1, (-1, view.head_size)) @ turn
        output.weight.data = columns.flatten(1).to(output.weight.dtype)
