"""The residual stream in another basis: block inputs are rotated, the inverse is folded into the weights.

RMSNorm divides by the length of a vector, which no rotation changes, once its weights are moved into the linear layers
that read it. With Q orthogonal, the stream x becomes x Q: embedding and output projections write rotated, readers
get W Q. Outliers of a few channels are spread over all. Sources: QServe (arXiv 2405.04532, section 4.3), QuaRot
(arXiv 2404.00456, section 4). Left out: rotations at run time (inside heads, before the second FFN layer).
"""

from typing import Any

from workloads.quantization.hadamard import rotation
from workloads.quantization.qoq.llama import Llama, scale_columns

Tensor = Any


def fold_norms(view: Llama) -> None:
    """Move the weights of all RMSNorms into the layers that read them; they become 1."""
    import torch

    _untie(view)
    for norm, layers in view.readers():
        for layer in layers:
            scale_columns(layer, norm.weight.double())
        norm.weight.data = torch.ones_like(norm.weight)


def _untie(view: Llama) -> None:
    """Give the head weights of its own, where it shares those of the embedding."""
    head, embedding = view.model.lm_head, view.model.model.embed_tokens
    if head.weight.data_ptr() == embedding.weight.data_ptr():
        head.weight = type(head.weight)(head.weight.detach().clone(), head.weight.requires_grad)
        if hasattr(view.model, "config"):
            view.model.config.tie_word_embeddings = False


def rotate(view: Llama, seed: int | None = None) -> None:
    """Rotate the residual stream by a scaled Hadamard matrix, with random signs where there is a seed.

    Raises ValueError for a hidden size that no Hadamard matrix is known for here.
    """
    import torch

    weight = view.model.model.embed_tokens.weight
    turn = rotation(weight.shape[1], seed, torch.float64, weight.device)
    fold_norms(view)
    rotate_stream(view, turn)


def rotate_stream(view: Llama, turn: Tensor) -> None:
    """x -> x turn for an orthogonal turn [hidden, hidden]; the norms must be folded."""
    embedding = view.model.model.embed_tokens
    embedding.weight.data = (embedding.weight.double() @ turn).to(embedding.weight.dtype)
    for layer in view.writers():
        layer.weight.data = (turn.T @ layer.weight.double()).to(layer.weight.dtype)
        if layer.bias is not None:
            layer.bias.data = (layer.bias.double() @ turn).to(layer.bias.dtype)
    for _, layers in view.readers():
        for layer in layers:
            layer.weight.data = (layer.weight.double() @ turn).to(layer.weight.dtype)
