"""Low-rank approximations of a weight W [N, K] ~ up down, up = U Sigma [N, r], down = V^T [r, K]."""

from typing import Any

Tensor = Any
OVERSAMPLE, POWERS = 8, 4


def full(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(up, down) float64 from the full singular value decomposition in float64."""
    import torch

    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    return left[:, :rank] * values[:rank], right[:rank]


def subspace(
    weight: Tensor, rank: int, start: Tensor | None = None, powers: int = POWERS, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """(up, down) in the type of `weight` by randomised subspace iteration (Halko, Martinsson and Tropp, SIAM Review
    2011, algorithm 4.4). start: `down` [r, K] of a similar weight, whose space is tried too.
    """
    import torch

    size = min(rank + OVERSAMPLE, *weight.shape)
    generator = torch.Generator().manual_seed(seed)
    test = torch.randn(weight.shape[1], size, generator=generator, dtype=weight.dtype).to(weight.device)
    if start is not None:
        test = torch.cat([start.T.to(weight.dtype), test[:, : size - len(start)]], 1)
    basis = torch.linalg.qr(weight @ test).Q
    for _ in range(powers):
        basis = torch.linalg.qr(weight @ torch.linalg.qr(weight.T @ basis).Q).Q
    left, values, right = torch.linalg.svd(basis.T @ weight, full_matrices=False)
    return basis @ (left[:, :rank] * values[:rank]), right[:rank]
