"""Our GEMMs as contenders: W4A8 per channel and per group, and W8A8 and W4A16 of the same skeleton, by wgmma; the
portable ones by `mma.sync`, which stand in for them where there is no wgmma.

Weights are blocks of 64 output channels drawn from a bank of a few packed ones, so that a large matrix is packed at
once and any of its channels can be recomputed. Sums are compared in every bit, on a sample of rows and channels.
"""

from functools import lru_cache, partial
from importlib import import_module
from typing import Any

import numpy as np

from gpu_kernels.bench.contest import Contender
from gpu_kernels.bench.shapes import GROUP, Gemm
from gpu_kernels.bench.timing import Call
from gpu_kernels.w4a8_gemm.config import packed_bytes

HOPPER, PORTABLE = "w4a8_gemm", "w4a8_portable"
KINDS = ("w4a8_channel", "w4a8_group", "w8a8", "w4a16")
BLOCK, BANK = 64, 4  # channels of a packed block; blocks of the bank
ROWS = 32  # tokens compared
WORST_A16 = 3e-3  # of the norm, against float64: float16 weights, float32 sums, one rounding
MOST_UNLIKE = 1e-3  # per channel: fma in float64 rounds twice now and then
SEED = 2029


@lru_cache(maxsize=4)
def packed_bank(kind: str, inputs: int) -> tuple[Any, Any]:
    """(packed blocks [BANK, bytes], their weights float64 [BANK x 64, inputs] as the sums see them), on the GPU."""
    import torch

    from gpu_kernels.w4a8_gemm import packing

    draw = np.random.default_rng(SEED)
    shape, groups = (BANK * BLOCK, inputs), (BANK * BLOCK, inputs // GROUP)
    codes = draw.integers(0, 16, shape, np.uint8)
    scale, zero = draw.integers(1, 9, groups, np.uint8), draw.integers(0, 16, groups, np.uint8)
    by_input = [np.repeat(part, GROUP, axis=1).astype(np.float64) for part in (scale, zero)]
    if kind == "w4a8_channel":
        packed, weights = packing.pack_channel(codes), codes.astype(np.float64)
    elif kind == "w4a8_group":
        packed, weights = packing.pack_group(codes, scale, zero), (codes - by_input[1]) * by_input[0]
    elif kind == "w8a8":
        codes = draw.integers(-128, 128, shape, np.int8)
        packed, weights = packing.pack_int8(codes), codes.astype(np.float64)
    else:
        packed = packing.pack_a16(codes, scale / np.float32(1024), zero)
        weights = (codes - by_input[1]) * by_input[0] / 1024
    return torch.from_numpy(packed).cuda(), torch.from_numpy(weights).cuda()


class Operands:
    """Of one kind and shape: activations, scales, and `sets` packed matrices."""

    def __init__(self, kind: str, shape: Gemm, sets: int) -> None:
        import torch

        draw = torch.Generator("cuda").manual_seed(SEED)
        half = {"generator": draw, "device": "cuda", "dtype": torch.float16}
        bank, weights = packed_bank(kind, shape.k)
        blocks = [torch.randint(0, BANK, (shape.n // BLOCK,), generator=draw, device="cuda") for _ in range(sets)]
        self.packed = [bank[one] for one in blocks]
        self.channels = torch.linspace(0, shape.n - 1, min(shape.n, 4 * BLOCK), device="cuda").long()
        self.weights = weights[blocks[0][self.channels // BLOCK] * BLOCK + self.channels % BLOCK]
        if kind == "w4a16":
            self.x = torch.randn(shape.m, shape.k, **half)
        else:
            self.x = torch.randint(-128, 128, (shape.m, shape.k), generator=draw, dtype=torch.int8, device="cuda")
        self.token_scale = torch.rand(shape.m, **half) / 256 + 1 / 256
        self.token_sum = torch.randn(shape.m, **half)
        self.scale = torch.rand(shape.n, **half) / 256 + 1 / 256
        self.scaled_zero = torch.rand(shape.n, **half)
        self._space: Any = None
        self.out = torch.full((shape.m, shape.n), float("nan"), dtype=torch.float16, device="cuda")

    def call(self, kind: str, packed: Any, folder: str = HOPPER) -> Call:
        """The operator of a folder on one of the packed matrices."""
        op = import_module(f"gpu_kernels.{folder}.op")
        more = {"out": self.out} | ({"space": self.space(op)} if folder == PORTABLE else {})
        if kind == "w4a16":
            return partial(op.w4a16, self.x, packed, **more)
        if kind == "w4a8_channel":
            zeros = self.token_scale, self.token_sum, packed, self.scale, self.scaled_zero
            return partial(op.w4a8_channel, self.x, *zeros, **more)
        return partial(getattr(op, kind), self.x, self.token_scale, packed, self.scale, **more)

    def space(self, op: Any) -> Any:
        """One workspace for all calls: they follow each other in one stream."""
        if self._space is None:
            self._space = op.new_workspace(self.x.device)
        return self._space

    def fault(self, kind: str) -> str:
        """What `out` has wrong of the first matrix, "" if nothing."""
        import torch

        if unwritten := int(self.out.isnan().sum()):
            return f"{unwritten} of {self.out.numel()} elements are not written or NaN"
        rows = torch.linspace(0, len(self.x) - 1, min(len(self.x), ROWS), device=self.x.device).long()
        found = self.out[rows][:, self.channels]
        exact = self.x[rows].double() @ self.weights.T
        if kind == "w4a16":
            error = float((found.double() - exact).norm() / exact.norm())
            return "" if error <= WORST_A16 else f"relative error {error:.2e}, more than {WORST_A16:.0e}"
        expected = self._rounded(kind, rows, exact.float()).half()
        unlike = float((expected != found).double().mean())
        most = MOST_UNLIKE if kind == "w4a8_channel" else 0.0
        return "" if unlike <= most else f"{unlike:.2%} of the compared elements differ"

    def _rounded(self, kind: str, rows: Any, sums: Any) -> Any:
        """The epilogues of `w4a8_gemm.model`, float32."""
        a, s = self.token_scale[rows, None].float(), self.scale[self.channels].float()
        if kind != "w4a8_channel":
            return s * a * sums
        zeros = self.scaled_zero[self.channels].float() * self.token_sum[rows, None].float()
        return (a.double() * (s * sums).double() - zeros.double()).float()


def _prepare(kind: str, folder: str, shape: Gemm, sets: int) -> tuple[list[Call], str]:
    operands = Operands(kind, shape, sets)
    calls = [operands.call(kind, packed, folder) for packed in operands.packed]
    calls[0]()
    return calls, operands.fault(kind)


def contenders(architecture: str) -> dict[str, Contender]:
    """By kind, W4A8 first; on Hopper the portable ones too, by names of their own."""
    hopper = architecture == "sm_90a"
    found = {kind: _contender(kind, HOPPER if hopper else PORTABLE) for kind in KINDS}
    if not hopper:
        return {kind: one for kind, one in found.items() if kind != "w4a16"}
    return found | {f"portable_{kind[5:]}": _contender(kind, PORTABLE) for kind in KINDS[:2]}


def _contender(kind: str, folder: str) -> Contender:
    return Contender(partial(_prepare, kind, folder), partial(_packed_bytes, kind))


def _packed_bytes(kind: str, shape: Gemm) -> int:
    return packed_bytes(kind, shape.n, shape.k)
