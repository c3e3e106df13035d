"""Activation-aware reordering: channels of like magnitude into the same group of 128 (QServe, section 4.3).

No gather at run time: what produces the channels gives them in the new order. One order serves the whole residual
stream; o_proj's inputs are ordered inside each KV head, down_proj's freely. Inside heads nothing changes group where
the head size divides 128, as with heads of 64 or 128: that order then has no effect.
"""

from collections.abc import Callable
from typing import Any

from workloads.quantization.qoq.llama import Llama, largest, sequences, take_columns, take_rows
from workloads.quantization.qoq.smoothing import by_value, to_queries

Tensor = Any


def reorder(view: Llama, run: Callable[[Any], object]) -> None:
    """Sort the input channels of all layers by max|X|, largest first."""
    parts = ("q_proj", "gate_proj", "o_proj", "down_proj")
    seen = {name: largest(x) for name, x in sequences(view, run, view.names(*parts)).items()}
    at = {part: [seen[name] for name in view.names(part)] for part in parts}
    reorder_stream(view, falling(sum(x / x.mean() for x in at["q_proj"] + at["gate_proj"])))
    for block, values, hidden in zip(view.blocks, at["o_proj"], at["down_proj"], strict=True):
        reorder_values(view, block.self_attn, head_order(view, by_value(view, values)))
        reorder_hidden(block.mlp, falling(hidden))


def falling(values: Tensor) -> Tensor:
    """Places of the values along the last axis, largest first."""
    return values.argsort(dim=-1, descending=True, stable=True)


def head_order(view: Llama, channels: Tensor) -> Tensor:
    """Order of V's channels [KV D] that sorts inside each KV head."""
    import torch

    order = falling(channels.reshape(view.kv_heads, -1))
    return (order + torch.arange(view.kv_heads, device=order.device)[:, None] * view.head_size).flatten()


def reorder_stream(view: Llama, order: Tensor) -> None:
    """The residual stream: embedding, norms, all layers that read or write it."""
    embedding, head = view.model.model.embed_tokens, view.model.lm_head
    tied = head.weight.data_ptr() == embedding.weight.data_ptr()
    take_columns(embedding, order)
    for layer in view.writers():
        take_rows(layer, order)
    for norm, layers in view.readers():
        norm.weight.data = norm.weight[order].clone()
        for layer in layers:
            if not (tied and layer is head):
                take_columns(layer, order)


def reorder_values(view: Llama, attention: Any, order: Tensor) -> None:
    """Channels of V in an order [KV D] that stays inside heads; o_proj reads them so."""
    import torch

    take_rows(attention.v_proj, order)
    inside = order.reshape(view.kv_heads, -1) % view.head_size
    heads = to_queries(view, inside.flatten()).reshape(view.heads, -1)
    take_columns(attention.o_proj, (heads + torch.arange(view.heads)[:, None].to(heads) * view.head_size).flatten())


def reorder_hidden(mlp: Any, order: Tensor) -> None:
    """Channels between the FFN's layers."""
    take_rows(mlp.gate_proj, order)
    take_rows(mlp.up_proj, order)
    take_columns(mlp.down_proj, order)
