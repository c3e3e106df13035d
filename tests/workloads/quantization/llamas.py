"""Small models of the Llama type in float64: the decoder and transformers', with grouped queries and biases."""

from typing import Any

VOCABULARY, LENGTH = 32, 24


def small_decoder(hidden: int = 24, intermediate: int = 40, head_size: int = 8) -> Any:
    from workloads.decoder import DecoderShape, build_decoder

    shape = DecoderShape(2, hidden, 4, 2, head_size, intermediate, 64, VOCABULARY)
    return _shaken(build_decoder(shape))


def small_llama(tied: bool = False, hidden: int = 24, intermediate: int = 40, **more: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=intermediate,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        **{**sizes, "attention_bias": True, **more},
    )
    return _shaken(LlamaForCausalLM(config))


def _shaken(model: Any) -> Any:
    """Weights large enough for every part to count, norms and biases that are not trivial."""
    import torch

    torch.manual_seed(0)
    for weight in model.parameters():
        weight.data = (
            torch.randn(weight.shape) * weight.shape[-1] ** -0.5 if weight.dim() > 1 else torch.rand(weight.shape)
        )
        weight.data += 0.0 if weight.dim() > 1 else 0.5
    return model.double().eval().requires_grad_(False)


def tokens(count: int = 3, length: int = LENGTH) -> Any:
    import torch

    return torch.randint(0, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(1))


def run(model: Any) -> None:
    model(tokens())


def logits(model: Any) -> Any:
    found = model(tokens(2))
    return getattr(found, "logits", found)
