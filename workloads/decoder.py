"""A small decoder of the Llama type over bytes: RMSNorm, RoPE, grouped queries, SwiGLU, no biases.

The modules carry the names of Hugging Face's `LlamaForCausalLM`, whose logits it has in float32. One token is one
byte, so no tokenizer is needed and bits per byte are the loss over ln 2. `docs/decoder.md` says how the shipped
weights were trained. Left out: padding, dropout, attention over more than one text a row, and every other variant
of Llama (scaled RoPE, biases).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
WEIGHTS, HELD_OUT = DATA / "decoder.safetensors", DATA / "heldout.txt.xz"
NORM_EPSILON = 1e-5  # Llama 2 and 3
Attend = Callable[[int, Any, Any, Any], Any]
Cache = list[tuple[Any, Any]]


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a decoder; `context` is the longest sequence it was trained for, in tokens. ValueError."""

    layers: int = 9
    hidden: int = 256
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 64
    intermediate: int = 768
    context: int = 2048
    vocabulary: int = 256
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"DecoderShape: {field.name} must be > 0, got {getattr(self, field.name)}")
        if self.heads % self.kv_heads:
            raise ValueError(f"DecoderShape: kv_heads must divide heads, got {self.kv_heads} and {self.heads}")
        if self.head_size % 2:
            raise ValueError(f"DecoderShape: head_size must be even (RoPE turns pairs), got {self.head_size}")


def build_decoder(shape: DecoderShape) -> Any:
    """A decoder with fresh weights from torch's generator: normal, deviation 0.02, less where a residual is added.

    `decoder(tokens, cache=None, attend=None)`: tokens int64 [B, n] -> logits [B, n, vocabulary] of the next byte.
    `cache` is a list, empty at first, that receives (key, value) [B, kv_heads, m, head_size] of each layer, with RoPE
    applied; tokens continue where it ends. `attend(layer, query [B, H, n, D], key [B, KV, m, D], value [B, KV, m, D])
    -> context [B, H, n, D]` replaces the attention; query i sits at position m - n + i and must not look beyond.
    """
    from torch import nn

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shape = shape
            self.model = _body(shape)
            self.lm_head = nn.Linear(shape.hidden, shape.vocabulary, bias=False)

        def forward(self, tokens: Any, cache: Cache | None = None, attend: Attend | None = None) -> Any:
            return _logits(self, tokens, cache, attend or _dense)

    decoder = Decoder()
    _initialize(decoder)
    return decoder


def load_decoder(path: str | Path | None = None) -> Any:
    """The shipped decoder, or that of `path`: float32, eval. ValueError if the file is not one of ours."""
    import torch
    from safetensors import SafetensorError, safe_open

    file = Path(path or WEIGHTS)
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            state = {name: opened.get_tensor(name).to(torch.float32) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file}: not a readable safetensors file: {error}") from None
    if "shape" not in metadata:
        raise ValueError(f"{file}: its metadata must hold the decoder's shape, got {sorted(metadata)}")
    decoder = build_decoder(DecoderShape(**json.loads(metadata["shape"])))
    decoder.load_state_dict(state)
    return decoder.eval().requires_grad_(False)


def save_decoder(decoder: Any, file: Path, **metadata: str) -> None:
    """Write the weights in bfloat16, rounded to nearest even, with the shape and `metadata` beside them."""
    import torch
    from safetensors.torch import save_file

    state = {name: tensor.detach().to("cpu", torch.bfloat16) for name, tensor in decoder.state_dict().items()}
    save_file(state, file, {"format": "pt", "shape": json.dumps(asdict(decoder.shape)), **metadata})


def heldout_text() -> bytes:
    """Text that no document of the training corpus holds: whole documents, one after the other (docs/decoder.md)."""
    import lzma

    return lzma.decompress(HELD_OUT.read_bytes())


def bits_per_byte(decoder: Any, text: bytes, window: int, stride: int) -> float:
    """Mean of -log2 p(byte) over `text` but its first byte.

    Windows of `window` bytes start every `stride` bytes; each scores the bytes that the one before did not, so
    that, past the first window, every byte is predicted from at least window - stride others.
    """
    import torch

    if not 0 < stride < window:
        raise ValueError(f"bits_per_byte: stride must be in 1..window-1, got {stride} of {window}")
    device = next(decoder.parameters()).device
    tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(device, torch.int64)
    total = 0.0
    with torch.inference_mode():
        for start, scored in _windows(len(text), window, stride):
            part = tokens[start : start + window]
            logits = decoder(part[None, :-1])[0, scored - start - 1 :].double()
            total += float(torch.nn.functional.cross_entropy(logits, part[scored - start :], reduction="sum"))
    return total / (len(text) - 1) / 0.6931471805599453


def _windows(size: int, window: int, stride: int) -> Iterator[tuple[int, int]]:
    """(start, first scored byte) of each window, until all bytes but the first are scored."""
    start, scored = 0, 1
    while scored < size:
        yield start, scored
        scored, start = start + window, start + stride


def _body(shape: DecoderShape) -> Any:
    from torch import nn

    layers = nn.ModuleList(_layer(shape) for _ in range(shape.layers))
    embedding = nn.Embedding(shape.vocabulary, shape.hidden)
    return nn.ModuleDict({"embed_tokens": embedding, "layers": layers, "norm": _norm(shape)})


def _norm(shape: DecoderShape) -> Any:
    from torch import nn

    return nn.RMSNorm(shape.hidden, eps=NORM_EPSILON)


def _layer(shape: DecoderShape) -> Any:
    from torch import nn

    query, key = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    attention = {"q_proj": query, "k_proj": key, "v_proj": key}
    parts = {name: nn.Linear(shape.hidden, wide, bias=False) for name, wide in attention.items()}
    mlp = {name: nn.Linear(shape.hidden, shape.intermediate, bias=False) for name in ("gate_proj", "up_proj")}
    return nn.ModuleDict(
        {
            "self_attn": nn.ModuleDict(parts | {"o_proj": nn.Linear(query, shape.hidden, bias=False)}),
            "mlp": nn.ModuleDict(mlp | {"down_proj": nn.Linear(shape.intermediate, shape.hidden, bias=False)}),
            "input_layernorm": _norm(shape),
            "post_attention_layernorm": _norm(shape),
        }
    )


def _initialize(decoder: Any) -> None:
    from torch import nn

    less = (2 * decoder.shape.layers) ** -0.5  # GPT-2: so many terms are added up
    for name, weight in decoder.named_parameters():
        if weight.dim() == 2:
            nn.init.normal_(weight, std=0.02 * (less if name.endswith(("o_proj.weight", "down_proj.weight")) else 1))


def _logits(decoder: Any, tokens: Any, cache: Cache | None, attend: Attend) -> Any:
    shape, start = decoder.shape, cache[0][0].shape[2] if cache else 0
    if start + tokens.shape[1] > shape.context:
        raise ValueError(f"decoder: {start} cached + {tokens.shape[1]} new tokens > context of {shape.context}")
    turn = _turn(shape, start, tokens.shape[1], tokens.device)
    hidden = decoder.model.embed_tokens(tokens)
    for index, layer in enumerate(decoder.model.layers):
        query, key, value = _project(layer.self_attn, layer.input_layernorm(hidden), shape, turn)
        if cache is not None:
            key, value = _cached(cache, index, key, value)
        context = attend(index, query, key, value).transpose(1, 2).flatten(2)
        hidden = hidden + layer.self_attn.o_proj(context)
        hidden = hidden + _mlp(layer.mlp, layer.post_attention_layernorm(hidden))
    return decoder.lm_head(decoder.model.norm(hidden))


def _turn(shape: DecoderShape, start: int, count: int, device: Any) -> tuple[Any, Any]:
    """cos and sin [count, head_size] of RoPE, float32; the halves of a head are the pairs, as in transformers."""
    import torch

    power = torch.arange(0, shape.head_size, 2, device=device).float() / shape.head_size
    place = torch.arange(start, start + count, device=device).float()
    angle = torch.outer(place, 1.0 / shape.rope_theta**power).repeat(1, 2)
    return angle.cos(), angle.sin()


def _project(attention: Any, hidden: Any, shape: DecoderShape, turn: tuple[Any, Any]) -> Sequence[Any]:
    """query [B, H, n, D], key and value [B, KV, n, D]; the first two turned."""
    names = ("q_proj", "k_proj", "v_proj")
    split = [attention[name](hidden).unflatten(2, (-1, shape.head_size)).transpose(1, 2) for name in names]
    return [_rotated(split[0], *turn), _rotated(split[1], *turn), split[2]]


def _rotated(heads: Any, cosine: Any, sine: Any) -> Any:
    import torch

    low, high = heads.chunk(2, dim=3)
    return (heads * cosine + torch.cat((-high, low), dim=3) * sine).to(heads.dtype)


def _cached(cache: Cache, layer: int, key: Any, value: Any) -> tuple[Any, Any]:
    """Key and value of all tokens so far; the cache holds them afterwards."""
    import torch

    if layer == len(cache):
        cache.append((key, value))
    else:
        old_key, old_value = cache[layer]
        cache[layer] = (torch.cat((old_key, key), dim=2), torch.cat((old_value, value), dim=2))
    return cache[layer]


def _dense(layer: int, query: Any, key: Any, value: Any) -> Any:
    """Causal softmax attention of all tokens."""
    import torch

    count, total = query.shape[2], key.shape[2]
    mask = None
    if 1 < count < total:
        mask = torch.ones(count, total, dtype=torch.bool, device=query.device).tril(total - count)
    attention = torch.nn.functional.scaled_dot_product_attention
    return attention(query, key, value, attn_mask=mask, is_causal=1 < count == total, enable_gqa=True)


def _mlp(mlp: Any, hidden: Any) -> Any:
    from torch.nn.functional import silu

    return mlp.down_proj(silu(mlp.gate_proj(hidden)) * mlp.up_proj(hidden))
