"""Scales of channels that leave the model as it is: keys for a 4-bit cache, inputs of the output projections.

Source: QServe (arXiv 2405.04532, sections 4.2 and 4.3).
"""

from collections.abc import Callable
from typing import Any

from workloads.quantization.qoq.llama import Llama, largest, scale_columns, scale_rows, sequences

Tensor = Any
KEY_STRENGTH = 0.5


def key_scales(absmax: Tensor) -> Tensor:
    """lambda [KV, D] of the largest magnitudes [KV, D] of rotated keys; equal for the pairs i and i + D/2 of RoPE."""
    import torch

    low, high = absmax.chunk(2, dim=-1)
    scale = torch.maximum(low, high) ** KEY_STRENGTH
    return torch.where(scale > 0, scale, torch.ones_like(scale)).repeat(1, 2)


def smooth_attention(view: Llama, run: Callable[[Any], object]) -> None:
    """SmoothAttention: queries times lambda, keys over lambda, folded into q_proj and k_proj.

    Raises ValueError for attention that normalizes queries and keys: then nothing can be folded.
    """
    if any(hasattr(block.self_attn, "q_norm") for block in view.blocks):
        raise ValueError("SmoothAttention: q_norm and k_norm undo what is folded into q_proj and k_proj")
    names = view.names("k_proj")
    seen = sequences(view, run, names)
    for name, block in zip(names, view.blocks, strict=True):
        keys = [view.turned(view.split(block.self_attn.k_proj(x))).transpose(1, 2).flatten(2) for x in seen[name]]
        fold_keys(view, block.self_attn, key_scales(largest(keys).reshape(view.kv_heads, -1)))


def fold_keys(view: Llama, attention: Any, scale: Tensor) -> None:
    """lambda [KV, D] into k_proj (divided) and q_proj (times): all query heads of a KV head take the same."""
    scale_rows(attention.k_proj, 1 / scale.flatten())
    scale_rows(attention.q_proj, scale.repeat_interleave(view.heads // view.kv_heads, 0).flatten())


def smooth_outputs(view: Llama, run: Callable[[Any], object], alpha: float, beta: float) -> None:
    """Divide the inputs of o_proj and down_proj by max|X|^alpha / max|W|^beta, folded into v_proj and up_proj.

    Channels of V serve all query heads of their group: the largest of these counts. Near alpha = 0 the weights decide.
    """
    names = view.names("o_proj", "down_proj")
    seen = {name: largest(parts) for name, parts in sequences(view, run, names).items()}
    for index, block in enumerate(view.blocks):
        attention, mlp = block.self_attn, block.mlp
        inputs = by_value(view, seen[names[2 * index]])
        weights = by_value(view, attention.o_proj.weight.double().abs().amax(0))
        fold_values(view, attention, output_scales(inputs, weights, alpha, beta))
        scale = output_scales(seen[names[2 * index + 1]], mlp.down_proj.weight.double().abs().amax(0), alpha, beta)
        scale_rows(mlp.up_proj, 1 / scale)
        scale_columns(mlp.down_proj, scale)


def by_value(view: Llama, channels: Tensor) -> Tensor:
    """[KV D]: the largest over the query heads of each KV head, of o_proj's input channels [H D]."""
    return channels.reshape(view.kv_heads, -1, view.head_size).amax(1).flatten()


def to_queries(view: Llama, channels: Tensor) -> Tensor:
    """[H D] of the channels [KV D] of V: each query head reads those of its KV head."""
    heads = channels.reshape(view.kv_heads, view.head_size)
    return heads.repeat_interleave(view.heads // view.kv_heads, 0).flatten()


def fold_values(view: Llama, attention: Any, scale: Tensor) -> None:
    """Scale [KV D]: v_proj divided, o_proj times."""
    scale_rows(attention.v_proj, 1 / scale)
    scale_columns(attention.o_proj, to_queries(view, scale))


def output_scales(inputs: Tensor, weights: Tensor, alpha: float, beta: float) -> Tensor:
    """[K] of the largest magnitudes of inputs and weights by channel; geometric mean 1, channels without values 1."""
    import torch

    fine = (inputs > 0) & (weights > 0)
    scale = torch.where(fine, inputs, 1.0) ** alpha / torch.where(fine, weights, 1.0) ** beta
    return torch.where(fine, scale / scale[fine].log().mean().exp(), 1.0)
