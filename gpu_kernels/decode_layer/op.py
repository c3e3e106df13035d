"""A decode layer in W4A8KV4 on a GPU, made of the operators of `w4a8_gemm`, `kv4_attention` and `activations`.

    layer = DecodeLayer(weights(LLAMA3_8B, seed), batch=64, context=1024)
    layer.step(x, residual)          # residual becomes h', the result is x': float16 [B, hidden]

Nine launches, nothing allocated, every one of them may start while the one before still runs: a CUDA graph captures it.
Call it once before (kernels are compiled then).
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gpu_kernels.activations.op import Quantized, quantize, quantize_gate, quantize_norm
from gpu_kernels.decode_layer.config import EPSILON, PAGE
from gpu_kernels.decode_layer.operands import Matrix, Weights, rotation
from gpu_kernels.kv4_attention import op as attention
from gpu_kernels.w4a8_gemm.op import pack_group, w4a8_group

BITS = 4


class Linear(NamedTuple):
    """Weights on the GPU; `output` is overwritten by every call."""

    packed: Tensor
    scale: Tensor  # float16 [N]
    output: Tensor  # float16 [B, N]

    def __call__(self, tokens: Quantized) -> Tensor:
        return w4a8_group(tokens.codes, tokens.scale, self.packed, self.scale, out=self.output)


@lru_cache(maxsize=8)
def _blocks(matrix: Matrix) -> Tensor:
    return pack_group(matrix.codes, matrix.group_scale, matrix.group_zero)


def linear(matrix: Matrix, batch: int, device: str = "cuda") -> Linear:
    """A drawn matrix on the GPU: its blocks are packed once, then put where they belong."""
    packed = _blocks(matrix).to(device)[torch.from_numpy(matrix.order).to(device)].contiguous()
    scale = torch.from_numpy(matrix.scales()).to(device, torch.float16)
    return Linear(packed, scale, torch.empty(batch, len(scale), dtype=torch.float16, device=device))


def tokens_of(batch: int, channels: int, device: str = "cuda") -> Quantized:
    """Room for INT8 tokens without sums."""
    codes = torch.empty(batch, channels, dtype=torch.int8, device=device)
    return Quantized(codes, torch.empty(batch, dtype=torch.float16, device=device), None)


class DecodeLayer:
    """One layer with its cache, for a batch of sequences that have `context` tokens each."""

    def __init__(self, given: Weights, batch: int, context: int) -> None:
        self.sizes, self.batch, self.context = given.sizes, batch, context
        sizes = given.sizes
        self.linears = {name: linear(matrix, batch) for name, matrix in given.matrices.items()}
        self.norms = [torch.from_numpy(norm).to("cuda", torch.float16) for norm in given.norms]
        pages = -(-(context + 1) // PAGE)
        self.cache = attention.new_cache(batch * pages, sizes.kv_heads, sizes.head_size, BITS, "cuda")
        self.table = torch.arange(batch * pages, dtype=torch.int32, device="cuda").view(batch, pages)
        self.lengths = torch.full((batch,), context, dtype=torch.int32, device="cuda")
        self.cosine, self.sine = (torch.from_numpy(part).cuda() for part in rotation(np.full(batch, context), sizes))
        width = sizes.heads * sizes.head_size
        self.normed, self.wide = tokens_of(batch, sizes.hidden), tokens_of(batch, sizes.inner)
        self.attended = tokens_of(batch, width)
        self.mixed = torch.empty(batch, sizes.heads, sizes.head_size, dtype=torch.float16, device="cuda")
        self.space = attention.workspace(batch, sizes.heads, sizes.kv_heads, sizes.head_size, BITS, context, "cuda")

    def results(self) -> dict[str, Tensor]:
        """What the kernels of the last step gave, by the names of `reference.STAGES`; the residual is the caller's."""
        names = {"projected": "qkv", "attended": "o", "gates": "gate_up", "x": "down"}
        outputs = {name: self.linears[linear].output for name, linear in names.items()}
        return outputs | {"mixed": self.mixed.view(self.batch, -1)}

    def fill(self, keys: Tensor, values: Tensor) -> None:
        """The cache's first tokens: keys, rotated, and values [B, kv heads, T, D], float16."""
        key, value = (x.transpose(1, 2).flatten(0, 1).contiguous() for x in (keys, values))
        each = torch.arange(self.batch * keys.shape[2], dtype=torch.int32, device="cuda")
        sequence, position = each // keys.shape[2], each % keys.shape[2]
        attention.append(key, value, None, None, sequence, position, self.table, self.cache, BITS)
        torch.cuda.synchronize()  # later kernels may look at the cache before those in front of them have ended

    def step(self, x: Tensor, residual: Tensor) -> Tensor:
        """x' of x and residual [B, hidden]; the residual becomes h'. x may be what a layer gave, or this one."""
        quantize_norm(x, self.norms[0], EPSILON, residual, out=self.normed)
        self.attend(self.linears["qkv"](self.normed))
        quantize(self.mixed.view(self.batch, -1), out=self.attended)
        attended = self.linears["o"](self.attended)
        quantize_norm(attended, self.norms[1], EPSILON, residual, out=self.normed)
        gates = self.linears["gate_up"](self.normed)
        quantize_gate(gates, out=self.wide)
        return self.linears["down"](self.wide)

    def attend(self, projected: Tensor) -> None:
        """Attention of query, key and value in one [B, N] to `mixed`; the cache gets its new token."""
        sizes = self.sizes
        heads = projected.view(self.batch, -1, sizes.head_size)
        query, key, value = heads.split([sizes.heads, sizes.kv_heads, sizes.kv_heads], dim=1)
        attention.decode(
            query,
            key,
            value,
            self.cosine,
            self.sine,
            self.cache,
            self.table,
            self.lengths,
            self.context,
            BITS,
            early=True,
            out=self.mixed,
            space=self.space,
        )
