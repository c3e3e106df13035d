"""A KV cache of 4 or 8 bits: a float16 scale and a float16 real zero for each token and head; K after RoPE.

`codes` has the recipe of `accel.formats.kv4` bit for bit (QServe, arXiv 2405.04532; omniserve 02b2925). Every key and
value that attention reads is the one that a cache would give back, the newest token's too, as in the published
perplexities; the decode kernel uses the newest token's own before they are cached.
"""

from collections.abc import Callable
from typing import Any

Tensor = Any
BITS = (4, 8)


def codes(x: Tensor, bits: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """(codes float64 [..., D] in 0..2^bits-1, scale, zero float16 [..., 1]) of x [..., D], rounded to float16 first.

    scale = range / 15 (255 for 8 bits), zero = -15 low / range; where the scale comes out as 0: 1 and -low.
    """
    import torch

    x, levels = x.half().float(), 2**bits - 1
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    span = high - low
    scale = (span / levels).half()
    constant = scale == 0
    zero = (-(levels * low) / torch.where(constant, 1.0, span)).half()
    scale, zero = torch.where(constant, 1.0, scale), torch.where(constant, -low.half(), zero)
    near = once_rounded(*_sum(x.double() * (1 / scale.float()).double(), zero.double()), torch.float32)
    return near.round().clamp(0, levels).double(), scale, zero


def cached(x: Tensor, bits: int = 4) -> Tensor:
    """x [..., D] as a cache gives it back: code * scale - scale * zero as one float16 fma, the offset rounded."""
    import torch

    q, scale, zero = codes(x, bits)
    offset = once_rounded(-(scale.double() * zero.double()), 0.0, torch.float16).double()
    return once_rounded(*_sum(q * scale.double(), offset), torch.float16).to(x.dtype)


def _sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(sum, its error) in float64, exact together."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def once_rounded(value: Tensor, rest: Any, dtype: Any) -> Tensor:
    """value + rest (float64, rest far smaller) in a shorter type with one rounding to nearest even."""
    import torch

    value = _to_odd(value, rest, torch.int64)
    near = value.float()
    if dtype == torch.float32:
        return near
    return _to_odd(near, value - near.double(), torch.int32).to(dtype)


def _to_odd(value: Tensor, rest: Any, integer: Any) -> Tensor:
    """Value, moved by one place towards the rest where there is one and the last bit is 0."""
    import torch

    aside = torch.where(torch.as_tensor(rest) > 0, torch.inf, -torch.inf).to(value)
    move = (torch.as_tensor(rest) != 0) & ((value.view(integer) & 1) == 0)
    return torch.where(move, torch.nextafter(value, aside.expand_as(value)), value)


def quantize_cache(model: Any, bits: int = 4) -> None:
    """Let the attention of a model read keys and values from a cache of so many bits; 16: as they are.

    Transformers: by an attention function of the name `cache_of_4_bits`. `workloads.decoder`: by its `attend`.
    """
    if bits not in (*BITS, 16):
        raise ValueError(f"quantize_cache: bits must be one of 4, 8, 16, got {bits}")
    (_register if hasattr(model, "set_attn_implementation") else _attend)(model, bits)


def _register(model: Any, bits: int) -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **more: Any) -> Any:
        return sdpa_attention_forward(module, query, cached(key, bits), cached(value, bits), mask, **more)

    if bits < 16:
        AttentionInterface.register(f"cache_of_{bits}_bits", attention)
        AttentionMaskInterface.register(f"cache_of_{bits}_bits", sdpa_mask)
    model.set_attn_implementation(f"cache_of_{bits}_bits" if bits < 16 else "sdpa")


class CacheHook:
    """Pre-hook of a decoder's forward: its attention, given or its own, reads the quantized cache."""

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def __call__(self, module: Any, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        attend = args[2] if len(args) > 2 else given.get("attend")
        return args[:2], {**given, "attend": self.around(attend or causal)}

    def around(self, attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def attention(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return attend(layer, query, cached(key, self.bits), cached(value, self.bits))

        return attention


def _attend(model: Any, bits: int) -> None:
    for number, hook in list(model._forward_pre_hooks.items()):
        if isinstance(hook, CacheHook):
            del model._forward_pre_hooks[number], model._forward_pre_hooks_with_kwargs[number]
    if bits < 16:
        model.register_forward_pre_hook(CacheHook(bits), with_kwargs=True)


def causal(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention of query [B, H, n, D], the last n of m tokens, over key and value [B, KV, m, D]."""
    import torch

    count, total = query.shape[2], key.shape[2]
    mask = torch.ones(count, total, dtype=torch.bool, device=query.device).tril(total - count)
    attention = torch.nn.functional.scaled_dot_product_attention
    return attention(query, key, value, attn_mask=mask, enable_gqa=True)
