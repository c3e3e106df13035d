"""torch's attention of whole sequences, by flash and by cuDNN, causal or not; operands in bfloat16, warm."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial

from gpu_kernels.bench.attention_peers import BACKENDS
from gpu_kernels.bench.calibration.decode import sdpa
from gpu_kernels.bench.calibration.job import Job, expected
from gpu_kernels.bench.calibration.points import Prefill, prefills, spread
from gpu_kernels.bench.calibration.pools import SEED, Pool
from gpu_kernels.bench.timing import Call

PEAK = 5e14  # operations a second, about


def calls(backend: str, pools: Sequence[Pool], point: Prefill, sets: int) -> list[Call]:
    """One: all of it is read several times, what the caches keep is warm."""
    lengths = point.queries, point.keys, point.keys
    shapes = [(point.batch, point.heads, length, point.size) for length in lengths]
    query, key, value = (pool.view(*shape) for pool, shape in zip(pools, shapes, strict=True))
    return [sdpa(backend, query, key, value, point.causal)] * sets


def jobs(backend: str, l2_bytes: int, quick: int = 0) -> Iterator[Job]:
    """Of one of BACKENDS."""
    import torch

    if backend not in BACKENDS:
        raise ValueError(f"prefill: backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    points = list(spread(prefills(), quick))
    most = max(2 * one.batch * one.heads * one.size * max(one.queries, one.keys) for one in points)
    pools = [Pool(torch.bfloat16, most, SEED + i) for i in range(3)]
    for point in points:
        row = {"part": f"prefill_{backend}", "name": point.name} | asdict(point)
        moved = 4 * point.batch * point.heads * point.size * (point.queries + point.keys)
        us = 4 + expected(moved, point.operations, PEAK)
        yield Job(row | {"operations": point.operations}, partial(calls, backend, pools, point), 0, us)
