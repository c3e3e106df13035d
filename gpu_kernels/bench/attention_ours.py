"""Our decode attention as contenders: `kv4`, `kv8`, `kv16`, each with rotation and the append of the new token.

Pages of the cache are drawn from a bank of a few packed ones, in an order of its own for each sequence, so that any
sequence can be recomputed in float64. The new token is zero and not rotated, which needs no second quantizer here:
it has score 0 and adds nothing but its weight.
"""

from functools import lru_cache, partial
from typing import Any

import numpy as np

from gpu_kernels.bench.contest import Contender
from gpu_kernels.bench.shapes import HEAD_SIZE, HEADS, KV_HEADS, Attention
from gpu_kernels.bench.timing import Call

PAGE, BANK = 64, 32  # tokens of a page; pages of the bank
WORST = 1e-2  # of the norm, against float64: scores and probabilities are rounded to float16
SAMPLE = 4  # sequences compared
SEED = 2030
Pages = tuple[Any, Any, Any]


@lru_cache(maxsize=3)
def _bank(bits: int) -> Pages:
    """(packed pages uint8 [BANK, 8, bytes], their keys and values float64 [BANK, 8, 64, 128]) on the GPU."""
    import torch

    from gpu_kernels.kv4_attention import packing

    draw = np.random.default_rng(SEED)
    shape = (BANK, KV_HEADS, PAGE, HEAD_SIZE)
    (key, keys), (value, values) = (packed_part(draw, shape, bits) for _ in range(2))
    packed, exact = packing.pack(key, value, bits), (torch.from_numpy(x).cuda() for x in (keys, values))
    return torch.from_numpy(packed).cuda(), *exact


def packed_part(draw: np.random.Generator, shape: tuple[int, ...], bits: int) -> tuple[Any, Any]:
    """(what `packing.pack` takes, the numbers that it stands for): spread about as a normal distribution's."""
    from gpu_kernels.kv4_attention.packing import Part

    if bits == 16:
        numbers = draw.standard_normal(shape).astype(np.float16)
        return Part(numbers, None, None), numbers.astype(np.float64)
    most = (1 << bits) - 1
    codes = draw.integers(0, most + 1, shape, np.uint8)
    scale = (draw.uniform(3, 5, shape[:3]) / most).astype(np.float16)
    zero = draw.uniform(0.4 * most, 0.6 * most, shape[:3]).astype(np.float16)
    wide = [part.astype(np.float64)[..., None] for part in (scale, zero)]
    return Part(codes, scale, zero), (codes - wide[1]) * wide[0]


class Operands:
    """Of one width and shape: queries, the new token, and `sets` caches."""

    def __init__(self, bits: int, shape: Attention, sets: int) -> None:
        import torch

        from gpu_kernels.kv4_attention import op

        self.bits, self.shape = bits, shape
        draw = torch.Generator("cuda").manual_seed(SEED)
        pages = shape.context // PAGE + 1  # the last one for the new token
        count = shape.batch * pages
        order = torch.randperm(count, generator=draw, device="cuda").int()
        self.table = order.view(shape.batch, pages)
        self.drawn = [torch.randint(0, BANK, (count,), generator=draw, device="cuda") for _ in range(sets)]
        self.caches = [_bank(bits)[0][one] for one in self.drawn]
        half = {"dtype": torch.float16, "device": "cuda"}
        self.query = torch.randn(shape.batch, HEADS, HEAD_SIZE, generator=draw, **half)
        self.new = torch.zeros(shape.batch, KV_HEADS, HEAD_SIZE, **half)
        angle = torch.ones(shape.batch, HEAD_SIZE // 2, device="cuda")
        self.turn = angle, torch.zeros_like(angle)
        self.lengths = torch.full((shape.batch,), shape.context, dtype=torch.int32, device="cuda")
        self.out = torch.full_like(self.query, float("nan"))
        sizes = (shape.batch, HEADS, KV_HEADS, HEAD_SIZE, bits, shape.context)
        self.space = op.workspace(*sizes, self.query.device)

    def call(self, cache: Any) -> Call:
        """The operator on one of the caches."""
        from gpu_kernels.kv4_attention import op

        step = (self.query, self.new, self.new, *self.turn, cache, self.table, self.lengths)
        options = {"early": True, "out": self.out, "space": self.space}
        return partial(op.decode, *step, self.shape.context, self.bits, **options)

    def fault(self) -> str:
        """What `out` has wrong of the first cache, "" if nothing."""
        if unwritten := int(self.out.isnan().sum()):
            return f"{unwritten} of {self.out.numel()} elements are not written or NaN"
        exact = self._exact()
        error = float((self.out[: len(exact)].double() - exact).norm() / exact.norm())
        return "" if error <= WORST else f"relative error {error:.2e}, more than {WORST:.0e}"

    def _exact(self) -> Any:
        """Float64, the first SAMPLE sequences."""
        import torch

        _, keys, values = _bank(self.bits)
        pages = self.drawn[0][self.table[:SAMPLE, :-1].long()]  # [sequences, pages] of the bank
        k, v = (x[pages].transpose(1, 2).flatten(2, 3) for x in (keys, values))  # [sequences, 8, tokens, 128]
        q = self.query[:SAMPLE].double().unflatten(1, (KV_HEADS, -1))
        score = q @ k.transpose(2, 3) * HEAD_SIZE**-0.5
        new = torch.zeros_like(score[..., :1])
        weight = torch.cat([score, new], dim=3).softmax(dim=3)[..., :-1]
        return (weight @ v).flatten(1, 2)


def _prepare(bits: int, shape: Attention, sets: int) -> tuple[list[Call], str]:
    operands = Operands(bits, shape, sets)
    calls = [operands.call(cache) for cache in operands.caches]
    calls[0]()
    return calls, operands.fault()


def contenders() -> dict[str, Contender]:
    """By name, 4 bits first."""
    return {f"kv{bits}": Contender(partial(_prepare, bits), partial(_cache_bytes, bits)) for bits in (4, 8, 16)}


def _cache_bytes(bits: int, shape: Attention) -> int:
    return shape.bytes_moved(bits)
