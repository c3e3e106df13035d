"""Kernels that move bytes: elementwise, reductions, normalizations, softmax in torch, and our quantizers.

Operands are the same at every call: up to the L2's size they are warm. `bytes` counts what each kernel of the operation
reads and writes, unfused ones with what lies between them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gpu_kernels.bench.calibration.job import Job, expected
from gpu_kernels.bench.calibration.points import counts, matrices, spread
from gpu_kernels.bench.calibration.pools import SEED, Pool, room
from gpu_kernels.bench.timing import Call
from gpu_kernels.bench.variants import Variant, variant

OURS = {"plain": (4096, 8192, 5120), "norm": (4096, 8192, 5120), "gate": (14336, 11008)}  # channels
OUR_TOKENS = (1, 4, 16, 64, 256, 640, 1024, 4096, 16384)
OURS_HELD = (5120, 11008), (640,)  # channels, tokens


@dataclass(frozen=True)
class Family:
    """One operation: what it is made of, its bytes an element, its kernels, and its call on tensors of a shape."""

    reads: tuple[str, ...]
    writes: str
    bytes: float
    kernels: int
    call: Callable[..., Any]


def elementwise() -> dict[str, Family]:
    """By name; `call(inputs..., out)`."""
    import torch

    aten = torch.ops.aten

    def silu_mul(a: Any, b: Any, out: Any) -> Any:
        aten.silu.out(a, out=out)
        return torch.mul(out, b, out=out)

    def modulate(a: Any, b: Any, out: Any) -> Any:
        torch.add(b, 1.0, out=out)
        torch.mul(a, out, out=out)
        return torch.add(out, b, out=out)

    half, full = "bfloat16", "float32"
    return {
        "add": Family((half, half), half, 6, 1, lambda a, b, out: torch.add(a, b, out=out)),
        "mul": Family((half, half), half, 6, 1, lambda a, b, out: torch.mul(a, b, out=out)),
        "copy": Family((half,), half, 4, 1, lambda a, out: out.copy_(a)),
        "to_float32": Family((half,), full, 6, 1, lambda a, out: out.copy_(a)),
        "to_bfloat16": Family((full,), half, 6, 1, lambda a, out: out.copy_(a)),
        "silu": Family((half,), half, 4, 1, lambda a, out: aten.silu.out(a, out=out)),
        "gelu": Family((half,), half, 4, 1, lambda a, out: aten.gelu.out(a, out=out)),
        "gelu_tanh": Family((half,), half, 4, 1, lambda a, out: aten.gelu.out(a, approximate="tanh", out=out)),
        "relu": Family((half,), half, 4, 1, lambda a, out: torch.clamp_min(a, 0, out=out)),
        "silu_mul": Family((half, half), half, 10, 2, silu_mul),
        "modulate": Family((half, half), half, 16, 3, modulate),
        "add_float32": Family((full, full), full, 12, 1, lambda a, b, out: torch.add(a, b, out=out)),
        "fill": Family((), half, 2, 1, lambda out: out.fill_(1.0)),
    }


def moves() -> dict[str, Callable[[Any, Any], Any]]:
    """Of x [rows, width] into out: copies that change the order, and reductions of everything."""
    import torch

    return {
        "cat": lambda x, out: torch.cat([x, x], dim=1, out=out),
        "transpose": lambda x, out: out.view(-1)[: x.numel()].view(x.shape[::-1]).copy_(x.t()),
        "sum": lambda x, out: torch.sum(x, dim=(0, 1)),
        "mean_rows": lambda x, out: torch.mean(x, dim=1),
    }


def by_rows() -> dict[str, Callable[[Any, Any, Any], Any]]:
    """Of x [rows, width], weight [width], out: as models call them; all but softmax allocate their output."""
    import torch
    from torch.nn import functional

    def width(x: Any) -> tuple[int]:
        return (x.shape[1],)

    def eager_rms(x: Any, weight: Any, out: Any) -> Any:
        wide = x.float()
        return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype)

    return {
        "layer_norm": lambda x, weight, out: functional.layer_norm(x, width(x), weight, weight, 1e-5),
        "rms_norm": lambda x, weight, out: functional.rms_norm(x, width(x), weight, 1e-5),
        "rms_norm_eager": eager_rms,
        "softmax": lambda x, weight, out: torch.softmax(x, -1, out=out),
    }


MOVED = {"cat": 6, "transpose": 4, "sum": 2, "mean_rows": 2}  # bytes an element of x
MOVED |= {"layer_norm": 4, "rms_norm": 4, "softmax": 4}


def elementwise_jobs(l2_bytes: int, quick: int = 0) -> Iterator[Job]:
    """Every family at every count of elements."""
    import torch

    points = list(spread(counts(), quick))
    most = max(count for count, _ in points)
    sizes = {"bfloat16": 2 * most, "float32": 4 * most}
    pools = {name: [Pool(getattr(torch, name), room(size), SEED + i) for i in range(3)] for name, size in sizes.items()}
    for name, family in elementwise().items():
        for count, held in points:
            row = {"part": "elementwise", "name": f"{name} {count}", "family": name, "elements": count}
            row |= {"held_out": held, "bytes": family.bytes * count, "kernels": family.kernels}
            prepare = partial(_elementwise, family, pools, count)
            us = family.kernels * expected(family.bytes * count / family.kernels, bytes_per_s=_rate(count, l2_bytes))
            yield Job(row, prepare, 0, us)


def _elementwise(family: Family, pools: dict[str, list[Pool]], count: int, sets: int) -> list[Call]:
    inputs = [pools[kind][place].view(count) for place, kind in enumerate(family.reads)]
    return [partial(family.call, *inputs, pools[family.writes][2].view(count))] * sets


def _rate(count: int, l2_bytes: int) -> float:
    return 6e12 if 4 * count < l2_bytes else 3.5e12


def row_jobs(l2_bytes: int, quick: int = 0) -> Iterator[Job]:
    """Normalizations, softmax, moves and reductions at every matrix."""
    import torch

    points = list(spread(matrices(), quick))
    most = max(one.rows * one.width for one in points)
    x, out = Pool(torch.bfloat16, room(2 * most)), Pool(torch.bfloat16, room(4 * most))
    weight = Pool(torch.bfloat16, 2 * max(one.width for one in points) + 512, SEED + 1)
    for point in points:
        for name in (*by_rows(), *moves()):
            row = {"part": "rows", "name": f"{name} {point.name}", "family": name, "elements": point.rows * point.width}
            row |= {"rows": point.rows, "width": point.width, "held_out": point.held_out}
            size = MOVED.get(name, 4) * point.rows * point.width
            row |= {"bytes": size} if name in MOVED else {}
            us = expected(size, bytes_per_s=_rate(point.rows * point.width, l2_bytes))
            yield Job(row, partial(_by_rows, name, x, weight, out, point.rows, point.width), 0, us)


def _by_rows(name: str, x: Pool, weight: Pool, out: Pool, rows: int, width: int, sets: int) -> list[Call]:
    matrix = x.view(rows, width)
    if name in moves():
        return [partial(moves()[name], matrix, out.view(rows, 2 * width))] * sets
    return [partial(by_rows()[name], matrix, weight.view(width), out.view(rows, width))] * sets


def our_points() -> list[tuple[str, int, int]]:
    """(mode, channels, tokens) of our quantizers."""
    return [(mode, channels, tokens) for mode, some in OURS.items() for channels in some for tokens in OUR_TOKENS]


def variants_of(architecture: str, multiprocessors: int) -> Iterator[Variant]:
    """What they compile."""
    from gpu_kernels.activations import config

    for mode, channels, tokens in our_points():
        shape = config.choose(mode, tokens, channels, multiprocessors, architecture >= "sm_90")
        yield variant("activations", config.macros(mode, shape, True, mode == "norm", True))


def our_jobs(l2_bytes: int, quick: int = 0) -> Iterator[Job]:
    """Our quantizers of activations, alone and fused with a norm or a gate."""
    for mode, channels, tokens in spread(our_points(), quick):
        moved = tokens * (channels * ({"plain": 2, "norm": 6, "gate": 4}[mode] + 1) + 4)
        row = {"part": "activations", "name": f"{mode} {tokens}x{channels}", "family": mode, "rows": tokens}
        row |= {"width": channels, "held_out": channels in OURS_HELD[0] or tokens in OURS_HELD[1], "bytes": moved}
        us = expected(moved, bytes_per_s=_rate(2 * tokens * channels, l2_bytes))
        yield Job(row, partial(_quantizer, mode, tokens, channels), 0, us)


def _quantizer(mode: str, tokens: int, channels: int, sets: int) -> Sequence[Call]:
    import torch

    from gpu_kernels.activations import config, op
    from gpu_kernels.runtime import architecture, multiprocessors

    half = {"dtype": torch.float16, "device": "cuda"}
    x = torch.randn(tokens, channels * (2 if mode == "gate" else 1), **half)
    weight = torch.rand(channels, **half) + 0.5 if mode == "norm" else None
    residual = torch.zeros(tokens, channels, **half) if mode == "norm" else None
    codes = torch.empty(tokens, channels, dtype=torch.int8, device="cuda")
    out = op.Quantized(codes, *(torch.empty(tokens, **half) for _ in range(2)))
    shape = config.choose(mode, tokens, channels, multiprocessors(), architecture() >= "sm_90")
    if residual is not None:  # it grows by x at every call
        x *= 1e-3

    def call() -> Any:
        op.run(mode, shape, x, residual, weight, 1e-5, out)
        return out.scale

    return [call] * sets
