"""The portable GEMM with a part left out, beside the whole: what overlaps and what adds up."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from gpu_kernels.bench.contest import guarded
from gpu_kernels.bench.shapes import Gemm

SHAPES = (
    Gemm("l3-8b gateup", 16, 28672, 4096),
    Gemm("l3-8b gateup", 128, 28672, 4096),
    Gemm("l3-8b gateup", 1024, 28672, 4096),
    Gemm("l3-8b down", 256, 4096, 14336),
)
KINDS = ("w4a8_group", "w4a8_channel")


def rows(limits: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One a kind and shape, all twins with the schedule of the whole kernel."""
    from gpu_kernels.bench.parts import int8_ceiling
    from gpu_kernels.runtime import architecture, multiprocessors
    from gpu_kernels.w4a8_portable import ablations as twins
    from gpu_kernels.w4a8_portable.config import choose

    for shape in SHAPES:
        for kind in KINDS:
            plan = choose(kind, shape.m, shape.n, shape.k, multiprocessors(), architecture())
            rate = limits.get("mma_per_s", int8_ceiling(limits))
            floor = shape.floor_us(limits["read_bytes_per_s"], rate, kind == "w4a8_group")
            found = {twin: guarded(partial(_timed, kind, shape, plan, twin)) for twin in twins.twins_of(kind)}
            row = {"name": f"{kind} {shape.name}", "floor_us": floor, "schedule": twins.schedule_row(plan)}
            yield row | {"columns": found}


def _timed(kind: str, shape: Gemm, plan: Any, twin: str) -> dict[str, Any]:
    from gpu_kernels.w4a8_portable import ablations

    return {"us": ablations.time_us(kind, shape, plan, twin)}
