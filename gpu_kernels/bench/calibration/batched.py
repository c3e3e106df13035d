"""Batched products, linear attention as Sana runs it in torch, convolutions: in bfloat16 unless they say float32."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from gpu_kernels.bench.calibration.job import Job, expected
from gpu_kernels.bench.calibration.points import (
    CHANNELS,
    HELD_CHANNELS,
    HELD_LENGTHS,
    LINEAR_LENGTHS,
    Convolution,
    convolutions,
    spread,
)
from gpu_kernels.bench.calibration.pools import SEED, Pool
from gpu_kernels.bench.timing import Call

HEADS, SIZE, BATCH = 70, 32, 2  # Sana-1.6B: 2240 channels; both halves of guidance
SHORT_HEADS = 36  # Sana-0.6B: 1152 channels
POOL_BYTES = 3 << 30
EPSILON = 1e-15
Shape = tuple[str, int, int, int, int]  # type, batch, M, N, K


def linear_attention(query: Any, key: Any, value: Any) -> Any:
    """[B, L, C] of [B, L, C]: ReLU features, sums over tokens and their divisor together, in float32, then division.

    Sana, section 2.2; the order of operations is that of its published PyTorch implementation.
    """
    from torch.nn import functional

    heads = [x.transpose(1, 2).unflatten(1, (-1, SIZE)) for x in (query, key, value)]  # [B, heads, 32, L]
    q, k, v = functional.relu(heads[0]), functional.relu(heads[1].transpose(2, 3)), heads[2]
    q, k, v = q.float(), k.float(), v.float()
    v = functional.pad(v, (0, 0, 0, 1), value=1.0)
    mixed = (v @ k) @ q  # [B, heads, 33, L]
    out = mixed[:, :, :-1] / (mixed[:, :, -1:] + EPSILON)
    return out.flatten(1, 2).transpose(1, 2).to(query.dtype)


def shapes() -> list[Shape]:
    """Of torch.bmm: both products of linear attention, and attention's as eager models run it."""
    sums = [("float32", BATCH * HEADS, SIZE + 1, SIZE, length) for length in LINEAR_LENGTHS]
    mixed = [("float32", BATCH * HEADS, SIZE + 1, length, SIZE) for length in LINEAR_LENGTHS]
    half = [("bfloat16", BATCH * HEADS, m, n, k) for _, _, m, n, k in (sums + mixed)[::2]]
    scores = [("bfloat16", 16, n, n, 64) for n in (128, 384, 512, 1024, 2048)]
    scores += [("bfloat16", 16, n, 64, n) for n in (128, 384, 512, 1024, 2048)]
    scores += [("bfloat16", 256, 1, n, 64) for n in (256, 1024, 2048, 4096)]
    return sums + mixed + half + scores


def held(shape: Shape) -> bool:
    """A held-out length on any side."""
    return any(extent in HELD_LENGTHS or extent == 384 for extent in shape[2:])


def product_jobs(l2_bytes: int, quick: int = 0) -> Iterator[Job]:
    """torch.bmm."""
    import torch

    pools = {name: [Pool(getattr(torch, name), POOL_BYTES // 2, SEED + i) for i in range(3)] for name in FORMS}
    for shape in spread(shapes(), quick):
        form, batch, m, n, k = shape
        row = {"part": "bmm", "name": f"{form} {batch}x{m}x{n}x{k}", "form": form, "batch": batch, "m": m, "n": n}
        row |= {"k": k, "held_out": held(shape)}
        moved = FORMS[form] * batch * (m * k + k * n + m * n)
        us = expected(moved, 2.0 * batch * m * n * k, 3e13 if form == "float32" else 3e14)
        yield Job(row, partial(_product, pools[form], batch, m, n, k), 0, us)


FORMS = {"float32": 4, "bfloat16": 2}


def _product(pools: Sequence[Pool], batch: int, m: int, n: int, k: int, sets: int) -> list[Call]:
    import torch

    a, b, out = pools[0].view(batch, m, k), pools[1].view(batch, n, k).transpose(1, 2), pools[2].view(batch, m, n)
    return [partial(torch.bmm, a, b, out=out)] * sets


def linear_jobs(l2_bytes: int, quick: int = 0) -> Iterator[Job]:
    """Linear attention whole, some nine kernels, at both widths of Sana."""
    import torch

    pools = [Pool(torch.bfloat16, 2 * BATCH * max(LINEAR_LENGTHS) * HEADS * SIZE, SEED + i) for i in range(3)]
    points = [(heads, length) for heads in (HEADS, SHORT_HEADS) for length in LINEAR_LENGTHS]
    for heads, length in spread(points, quick):
        elements = BATCH * length * heads * SIZE
        row = {"part": "linear_attention", "name": f"{BATCH}x{heads}x{SIZE}x{length}", "batch": BATCH, "heads": heads}
        row |= {"size": SIZE, "length": length, "held_out": length in HELD_LENGTHS or heads == SHORT_HEADS}
        shape = BATCH, length, heads * SIZE
        yield Job(row, partial(_linear, pools, shape), 0, 20 + expected(70 * elements, bytes_per_s=3e12))


def _linear(pools: Sequence[Pool], shape: tuple[int, int, int], sets: int) -> list[Call]:
    return [partial(linear_attention, *(pool.view(*shape) for pool in pools))] * sets


def convolution_jobs(l2_bytes: int, quick: int = 0) -> Iterator[Job]:
    """F.conv2d, channels first and last."""
    points = [(one, last) for one in convolutions() for last in (False, True)]
    for point, last in spread(points, quick):
        row = {"part": "convolution", "name": f"{point.name}{' channels last' if last else ''}"} | asdict(point)
        moved = 2 * point.batch * point.side**2 * (point.channels + point.out)
        work = 2.0 * point.batch * point.side**2 * point.out * point.channels // point.groups * point.kernel**2
        row |= {"channels_last": last, "held_out": point.held_out, "bytes": moved, "operations": work}
        yield Job(row, partial(_convolution, point, last), 0, 10 + expected(2 * moved, work, 3e14))


def _convolution(point: Convolution, last: bool, sets: int) -> Sequence[Call]:
    import torch

    if point.channels not in CHANNELS + HELD_CHANNELS:
        raise ValueError(f"convolution: {point.channels} channels are in neither list of points.py")
    form = torch.channels_last if last else torch.contiguous_format
    half = {"dtype": torch.bfloat16, "device": "cuda"}
    x = torch.randn(point.batch, point.channels, point.side, point.side, **half).to(memory_format=form)
    size = point.out, point.channels // point.groups, point.kernel, point.kernel
    weight = torch.randn(size, **half).to(memory_format=form)
    run: Callable[..., Any] = torch.nn.functional.conv2d
    return [partial(run, x, weight, padding=point.kernel // 2, groups=point.groups)] * sets
