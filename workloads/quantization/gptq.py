"""GPTQ (arXiv 2210.17323): weights rounded column by column, each error pushed onto the columns to come.

Settings of deepcompressor 69f3473: damping 1 %, blocks of 128 columns, columns in falling order of the Hessian's
diagonal, scales fixed before. The Hessian is X^T X of the inputs as the layer will see them.
"""

from typing import Any, Protocol

Tensor = Any
DAMP, BLOCK, TRIES = 0.01, 128, 250


class Rounding(Protocol):
    """A rule of rounding with fixed scales; `columns` [k] says which of the K columns the weights [N, k] are."""

    def encode(self, weight: Tensor, columns: Any) -> Tensor:
        """Codes [N, k]."""

    def decode(self, codes: Tensor, columns: Any) -> Tensor:
        """Weights [N, k]."""


def hessian_of(x: Tensor) -> Tensor:
    """float64 [K, K]: mean of x^T x over the rows of x [M, K]."""
    return (x.T.double() @ x.double()) / max(x.shape[0], 1)


def gptq(
    weight: Tensor,
    hessian: Tensor,
    grid: Rounding,
    damp: float = DAMP,
    block: int = BLOCK,
    tries: int = TRIES,
    reorder: bool = True,
) -> Tensor:
    """Codes [N, K] of weight [N, K] under a grid, least squares against hessian [K, K] (float64).

    damp: share of the mean of the diagonal that is added to it, again at each of `tries` until the Cholesky
    factorisation succeeds (ValueError if it never does). Columns that were never active become the code of 0.
    """
    import torch

    work, hessian = weight.float().clone(), hessian.clone()
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    work[:, dead] = 0
    order = hessian.diagonal().argsort(descending=True, stable=True) if reorder else torch.arange(len(dead))
    order = order.to(weight.device)
    work, factor = work[:, order], _factor(hessian[order][:, order], damp, tries).float()
    codes = []
    for start in range(0, work.shape[1], block):
        stop = min(start + block, work.shape[1])
        found, errors = _block(work[:, start:stop], factor[start:stop, start:stop], grid, order[start:stop])
        work[:, stop:] -= errors @ factor[start:stop, stop:]
        codes.append(found)
    return torch.cat(codes, 1)[:, order.argsort()]


def _block(work: Tensor, factor: Tensor, grid: Rounding, columns: Tensor) -> tuple[Tensor, Tensor]:
    """(codes, scaled errors) [N, block]; `work` is changed."""
    import torch

    codes, errors = [], torch.zeros_like(work)
    for j in range(work.shape[1]):
        here = columns[j : j + 1]
        code = grid.encode(work[:, j : j + 1], here)
        error = (work[:, j : j + 1] - grid.decode(code, here)) / factor[j, j]
        work[:, j + 1 :] -= error @ factor[j : j + 1, j + 1 :]
        errors[:, j : j + 1] = error
        codes.append(code)
    return torch.cat(codes, 1), errors


def _factor(hessian: Tensor, damp: float, tries: int) -> Tensor:
    """Upper Cholesky factor of the inverse of the damped Hessian."""
    import torch

    step = damp * hessian.diagonal().mean()
    for _ in range(tries):
        hessian.diagonal().add_(step)
        lower, failed = torch.linalg.cholesky_ex(hessian)
        if not failed and bool(torch.isfinite(lower).all()):
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed and bool(torch.isfinite(upper).all()):
                return upper
    raise ValueError(f"gptq: the Hessian has no Cholesky factor after {tries} dampings of {damp}")
