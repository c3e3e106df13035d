"""What QoQ has to know of a model of the Llama type: its blocks, heads and rotary embedding, found by names.

The names are those of Hugging Face's `LlamaForCausalLM`; Mistral and Qwen2 have the same, and the decoder of
`workloads.decoder`. Pairs of RoPE are i and i + D/2 of a head. Weights are [N, K], rows are output channels.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Tensor = Any
NORMS = ("RMSNorm", "LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm")  # x / rms(x) * weight; Gemma's is another
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Llama:
    """A view of a model; `heads` query heads on `kv_heads`, each of `head_size` channels."""

    model: Any
    heads: int
    kv_heads: int
    head_size: int
    rope_theta: float

    @property
    def blocks(self) -> Iterable[Any]:
        return list(self.model.model.layers)

    def names(self, *parts: str) -> list[str]:
        """Names of the linear layers called so, or of all, block by block."""
        linear = dict.fromkeys(ATTENTION, "self_attn") | dict.fromkeys(MLP, "mlp")
        each = range(len(self.model.model.layers))
        return [f"model.layers.{i}.{place}.{part}" for i in each for part, place in linear.items() if _in(part, parts)]

    def readers(self) -> Iterator[tuple[Any, list[Any]]]:
        """(norm, the linear layers that read it) through the whole model, the head last."""
        for block in self.blocks:
            attention, mlp = block.self_attn, block.mlp
            yield block.input_layernorm, [attention.q_proj, attention.k_proj, attention.v_proj]
            yield block.post_attention_layernorm, [mlp.gate_proj, mlp.up_proj]
        yield self.model.model.norm, [self.model.lm_head]

    def writers(self) -> Iterator[Any]:
        """Linear layers that add to the residual stream; the embedding is not among them."""
        for block in self.blocks:
            yield block.self_attn.o_proj
            yield block.mlp.down_proj

    def split(self, x: Tensor) -> Tensor:
        """[B, heads, n, D] of a projection's output [B, n, heads D]."""
        return x.unflatten(-1, (-1, self.head_size)).transpose(1, 2)

    def turned(self, heads: Tensor) -> Tensor:
        """Heads [B, H, n, D] at places 0..n-1, rotated."""
        import torch

        cosine, sine = self._turn(heads)
        low, high = heads.chunk(2, dim=-1)
        return heads * cosine + torch.cat((-high, low), dim=-1) * sine

    def _turn(self, heads: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        place = torch.arange(heads.shape[2], device=heads.device)
        if hasattr(self.model.model, "rotary_emb"):
            cosine, sine = self.model.model.rotary_emb(heads, place[None])
            return cosine[:, None].to(heads.dtype), sine[:, None].to(heads.dtype)
        power = torch.arange(0, self.head_size, 2, device=heads.device).double() / self.head_size
        angle = torch.outer(place.double(), self.rope_theta**-power).repeat(1, 2)
        return angle.cos().to(heads.dtype), angle.sin().to(heads.dtype)


def _in(part: str, parts: tuple[str, ...]) -> bool:
    return not parts or part in parts


def llama_of(model: Any) -> Llama:
    """The view of a model. Raises ValueError where it is not of the type, with what is missing."""
    found = getattr(model, "config", None) or getattr(model, "shape", None)
    if found is None or not hasattr(getattr(model, "model", None), "layers") or not hasattr(model, "lm_head"):
        raise ValueError(f"QoQ needs a model with the names of LlamaForCausalLM, got {type(model).__name__}")
    if hasattr(found, "num_attention_heads"):
        heads, kv_heads = found.num_attention_heads, found.num_key_value_heads
        view = Llama(model, heads, kv_heads, _head_size(found), 0.0)
    else:
        view = Llama(model, found.heads, found.kv_heads, found.head_size, found.rope_theta)
    for index, block in enumerate(view.blocks):
        _check(f"model.layers.{index}", block)
    return view


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _check(name: str, block: Any) -> None:
    for place, parts in (("self_attn", ATTENTION), ("mlp", MLP)):
        for part in parts:
            if not hasattr(getattr(block, place, None), part):
                raise ValueError(f"QoQ: {name}.{place} has no {part}")
    for part in ("input_layernorm", "post_attention_layernorm"):
        norm = type(getattr(block, part, None)).__name__
        if norm not in NORMS:
            raise ValueError(f"QoQ: {name}.{part} must be one of {', '.join(NORMS)}, got {norm}")


def scale_rows(layer: Any, factor: Tensor) -> None:
    """Multiply the outputs [N] of a layer, in place."""
    layer.weight.data = (layer.weight.double() * factor[:, None]).to(layer.weight.dtype)
    if layer.bias is not None:
        layer.bias.data = (layer.bias.double() * factor).to(layer.bias.dtype)


def scale_columns(layer: Any, factor: Tensor) -> None:
    """Multiply the inputs [K] of a layer, in place."""
    layer.weight.data = (layer.weight.double() * factor).to(layer.weight.dtype)


def take_rows(layer: Any, order: Tensor) -> None:
    """Output i becomes what output order[i] was."""
    layer.weight.data = layer.weight[order].clone()
    if layer.bias is not None:
        layer.bias.data = layer.bias[order].clone()


def take_columns(layer: Any, order: Tensor) -> None:
    """Input i is what input order[i] was."""
    layer.weight.data = layer.weight[:, order].clone()


def sequences(
    view: Llama, run: Callable[[Any], object], names: Iterable[str], tokens: int = 4096
) -> dict[str, list[Tensor]]:
    """Inputs [B, n, K] of layers, call by call, until a layer has seen `tokens`. Whole texts: they start at place 0."""
    import torch

    found: dict[str, list[Tensor]] = {name: [] for name in names}

    def watch(name: str) -> Any:
        def see(module: Any, args: tuple[Any, ...]) -> None:
            left = tokens - sum(x.shape[0] * x.shape[1] for x in found[name])
            if left > 0:
                found[name].append(args[0].detach()[: -(-left // args[0].shape[1])])

        return view.model.get_submodule(name).register_forward_pre_hook(see)

    hooks = [watch(name) for name in found]
    training = view.model.training
    try:
        view.model.eval()
        with torch.no_grad():
            run(view.model)
    finally:
        view.model.train(training)
        for hook in hooks:
            hook.remove()
    if not all(found.values()):
        raise ValueError(f"QoQ: run(model) never reached {next(name for name, seen in found.items() if not seen)}")
    return found


def largest(parts: Iterable[Tensor]) -> Tensor:
    """float64 [K]: largest magnitude of each channel of tensors [..., K]."""
    import torch

    return torch.stack([x.double().abs().flatten(0, -2).amax(0) for x in parts]).amax(0)
