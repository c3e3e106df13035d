"""The same layer in bfloat16 by torch's own operators: matrix products by F.linear, attention by SDPA over a cache of
[B, kv heads, T, D] into which the new token is written, norms by F.rms_norm. No quantization anywhere.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpu_kernels.decode_layer.config import EPSILON, GROUP
from gpu_kernels.decode_layer.operands import CHANNELS, Matrix, Weights, rotation

Tensor = Any
BACKENDS = {"cudnn": "CUDNN_ATTENTION", "flash": "FLASH_ATTENTION"}


def dense(matrix: Matrix) -> Tensor:
    """The weights bfloat16 [N, K] on the GPU."""
    import torch

    codes, scale, zero, channel = (
        torch.from_numpy(part).cuda().float()
        for part in (matrix.codes, matrix.group_scale, matrix.group_zero, matrix.scale)
    )
    grouped = codes.unflatten(1, (-1, GROUP)) - zero[:, :, None]
    blocks = (grouped * scale[:, :, None]).flatten(1) * channel[:, None]
    order = torch.from_numpy(matrix.order).cuda()
    return blocks.to(torch.bfloat16).unflatten(0, (-1, CHANNELS))[order].flatten(0, 1).contiguous()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """x [B, heads, D]; cosine and sine [B, 1, D], the second half as the first."""
    import torch

    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


class TorchLayer:
    """One layer with its cache, as `DecodeLayer`."""

    def __init__(self, given: Weights, batch: int, context: int, backend: str = "cudnn") -> None:
        import torch

        self.sizes, self.batch, self.context, self.backend = given.sizes, batch, context, backend
        self.weights = {name: dense(matrix) for name, matrix in given.matrices.items()}
        self.norms = [torch.from_numpy(norm).to("cuda", torch.bfloat16) for norm in given.norms]
        sizes = given.sizes
        room = (batch, sizes.kv_heads, -(-(context + 1) // 64) * 64, sizes.head_size)
        self.keys, self.values = (torch.zeros(room, dtype=torch.bfloat16, device="cuda") for _ in range(2))
        angles = rotation(np.full(batch, context), sizes)
        self.angles = [torch.from_numpy(np.tile(part, 2)).to("cuda", torch.bfloat16)[:, None] for part in angles]

    def fill(self, keys: Tensor, values: Tensor) -> None:
        """As `DecodeLayer.fill`."""
        self.keys[:, :, : keys.shape[2]] = keys
        self.values[:, :, : values.shape[2]] = values

    def step(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(x', h') of x and residual [B, hidden], bfloat16."""
        from torch.nn.functional import linear, rms_norm, silu

        h = x + residual
        normed = rms_norm(h, (self.sizes.hidden,), self.norms[0], EPSILON)
        mixed = self.attend(linear(normed, self.weights["qkv"]))
        h = h + linear(mixed, self.weights["o"])
        normed = rms_norm(h, (self.sizes.hidden,), self.norms[1], EPSILON)
        gate, up = linear(normed, self.weights["gate_up"]).chunk(2, dim=1)
        return linear(silu(gate) * up, self.weights["down"]), h

    def attend(self, projected: Tensor) -> Tensor:
        """[B, heads x D]; the cache gets its new token."""
        sizes = self.sizes
        heads = projected.view(self.batch, -1, sizes.head_size)
        query, key, value = heads.split([sizes.heads, sizes.kv_heads, sizes.kv_heads], dim=1)
        self.keys[:, :, self.context] = rotate(key, *self.angles)
        self.values[:, :, self.context] = value
        return self._mixed(rotate(query, *self.angles)).reshape(self.batch, -1)

    def _mixed(self, query: Tensor) -> Tensor:
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.nn.functional import scaled_dot_product_attention

        keys, values = (part[:, :, : self.context + 1] for part in (self.keys, self.values))
        with sdpa_kernel(getattr(SDPBackend, BACKENDS[self.backend])):
            return scaled_dot_product_attention(query[:, :, None], keys, values, enable_gqa=True)


def compiled(layer: TorchLayer) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """`layer.step` by torch.compile with its default mode, for these shapes only."""
    import torch

    found: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = torch.compile(layer.step, dynamic=False, fullgraph=True)
    return found
