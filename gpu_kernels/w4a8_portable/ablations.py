"""What overlaps and what adds up: timing twins of the kernel with a part left out, for the timing models.

A twin is the same source with the macro TWIN. Its outputs are wrong by construction: they are never compared, and no
operator reaches it.

    whole         the kernel
    no_scales     codes are unpacked; scales and zeros of groups are neither fetched nor applied (per group only)
    no_widening   packed words go to the products as they are, each twice; no scales either
    no_products   no mma; each register of an operand goes into a sum by one exclusive or, so that all else stays
    loads_only    fetching to shared memory, barriers, epilogue
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

from gpu_kernels.bench.shapes import Gemm
from gpu_kernels.w4a8_portable.config import TWINS, Schedule, choose

Row = dict[str, Any]
RATES = 4e12, 1e15  # bytes and operations a second, roughly: they decide how often a replay calls


def twins_of(kind: str) -> tuple[str, ...]:
    """Those that differ from the kernel in this kind."""
    absent = {"w4a8_channel": ("no_scales",), "w8a8": ("no_scales", "no_widening")}
    return tuple(twin for twin in TWINS if twin not in absent.get(kind, ()))


def ablations(shapes: Iterable[Gemm], kinds: Iterable[str] = ("w4a8_group", "w4a8_channel")) -> list[Row]:
    """A row a kind and shape: its schedule and the microseconds of every twin, all with that schedule."""
    from gpu_kernels.runtime import architecture, multiprocessors

    here = architecture()
    rows = []
    for shape in shapes:
        for kind in kinds:
            plan = choose(kind, shape.m, shape.n, shape.k, multiprocessors(), here)
            times = {twin: round(time_us(kind, shape, plan, twin), 3) for twin in twins_of(kind)}
            rows.append({"kind": kind, "layer": shape.layer, "shape": shape.name, **schedule_row(plan), "us": times})
    return rows


def schedule_row(plan: Schedule) -> Row:
    """A schedule as records hold it."""
    tile = plan.tile
    return {"tile": list(vars(tile).values()), "blocks": plan.blocks, "whole": plan.whole, "cut": plan.cut}


def time_us(kind: str, shape: Gemm, plan: Schedule, twin: str = "whole") -> float:
    """Microseconds of a schedule, or of its twin, over operand sets larger than the L2."""
    import torch

    from gpu_kernels.bench.gemm_ours import Operands
    from gpu_kernels.bench.timing import measure, sets_for
    from gpu_kernels.w4a8_gemm.config import packed_bytes
    from gpu_kernels.w4a8_portable import op

    l2 = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    given = Operands(kind, shape, sets_for(packed_bytes(kind, shape.n, shape.k), l2))
    zeros = (given.scaled_zero, given.token_sum) if kind == "w4a8_channel" else (None, None)
    vectors = given.scale, zeros[0], None, given.token_scale, zeros[1]
    space = op.new_workspace(given.x.device)
    calls = [partial(op.run, kind, plan, given.x, packed, *vectors, given.out, space, twin) for packed in given.packed]
    return measure(calls, shape.floor_us(*RATES)).us
