"""Copies within the GPU, and between it and the host's pinned and pageable memory."""

from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter
from typing import Any

from gpu_kernels.bench.calibration.job import Row, expected, streamed
from gpu_kernels.bench.calibration.points import HELD_TRANSFERS, TRANSFERS, spread
from gpu_kernels.bench.contest import guarded
from gpu_kernels.bench.timing import Call, measure

RATES = {"d2d": 3e12, "h2d_pinned": 4e10, "d2h_pinned": 4e10, "h2d_pageable": 8e9, "d2h_pageable": 8e9}
LARGEST = 1 << 30  # within the GPU; others up to the largest of points.py


def rows(l2_bytes: int, quick: int = 0) -> Iterator[Row]:
    """A row a direction, kind of host memory and size."""
    import torch

    most = max(TRANSFERS + HELD_TRANSFERS)
    device = [torch.ones(LARGEST, dtype=torch.uint8, device="cuda") for _ in range(2)]
    host = {"pinned": torch.ones(most, dtype=torch.uint8, pin_memory=True)}
    host["pageable"] = torch.ones(most, dtype=torch.uint8)
    points = [(way, size) for way in RATES for size in sizes(way)]
    for way, size in spread(points, quick):
        row = {
            "part": "transfers",
            "name": f"{way} {size}",
            "way": way,
            "bytes": size,
            "held_out": bool(size & (size - 1)),
        }
        yield row | guarded(partial(_timed, way, size, device, host))


def sizes(way: str) -> tuple[int, ...]:
    """Bytes of one direction."""
    return tuple(sorted(TRANSFERS + HELD_TRANSFERS)) + ((LARGEST,) if way == "d2d" else ())


def _timed(way: str, size: int, device: list[Any], host: dict[str, Any]) -> Row:
    us = expected(2 * size if way == "d2d" else size, bytes_per_s=RATES[way]) + 2
    if way == "d2d":
        return measure([partial(device[0][:size].copy_, device[1][:size])], us).row()
    direction, _, memory = way.partition("_")
    near, far = device[0][:size], host[memory][:size]
    ends = (near, far) if direction == "h2d" else (far, near)
    call = partial(ends[0].copy_, ends[1], non_blocking=memory == "pinned")
    return streamed(call, us, 3) if memory == "pinned" else waited(call, 3 if size > 1 << 24 else 11)


def waited(call: Call, rounds: int, clock: Callable[[], float] = perf_counter) -> Row:
    """Microseconds of a call by the host's clock, everything waited for before and after each."""
    import torch

    times = []
    for _ in range(rounds + 1):
        torch.cuda.synchronize()
        begin = clock()
        call()
        torch.cuda.synchronize()
        times.append(1e6 * (clock() - begin))
    kept = sorted(times[1:])
    middle = kept[len(kept) // 2]
    return {"us": round(middle, 3), "least_us": round(kept[0], 3), "most_us": round(kept[-1], 3), "calls": 1}
