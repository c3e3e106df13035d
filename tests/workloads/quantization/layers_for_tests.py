"""What the tests of the quantizers share: a layer with outliers, a small model with q, k, v and a GELU."""

from typing import Any


def outlier_layer(columns: int = 128, rows: int = 96, tokens: int = 192, seed: int = 0) -> tuple[Any, Any]:
    """(nn.Linear, inputs [tokens, columns]): a few channels of the inputs are 20 to 60 times the others."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    layer = torch.nn.Linear(columns, rows)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(rows, columns, generator=draw) * 0.05)
        layer.weight[:, ::37] *= 3
        layer.bias.copy_(torch.randn(rows, generator=draw))
    inputs = torch.randn(tokens, columns, generator=draw)
    inputs[:, ::29] *= 20
    inputs[:, 5] *= 60
    return layer, inputs


def small_block(seed: int = 0) -> tuple[Any, Any]:
    """(block of 64 channels with q, k, v, out, fc1, GELU, fc2; inputs [3, 20, 64])."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(64)
            self.q, self.k, self.v, self.out = (nn.Linear(64, 64, bias=i > 0) for i in range(4))
            self.fc1, self.act, self.fc2 = nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)

        def forward(self, x: Any) -> Any:
            h = self.norm(x)
            q, k, v = self.q(h), self.k(h), self.v(h)
            x = x + self.out((q @ k.mT / 8).softmax(-1) @ v)
            return x + self.fc2(self.act(self.fc1(x)))

    torch.manual_seed(seed)
    return Block(), torch.randn(3, 20, 64)
