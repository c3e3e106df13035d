"""Attention of a decode step: ours over a paged cache of 4, 8 and 16 bits, torch's over a bfloat16 cache.

Pages are drawn from a bank of packed heads' pages, as in `attention_ours`. The new token is zero and not rotated.
"""

from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache, partial
from typing import Any

from gpu_kernels import runtime
from gpu_kernels.bench.attention_ours import BANK, PAGE, SEED, packed_part
from gpu_kernels.bench.attention_peers import BACKENDS
from gpu_kernels.bench.calibration.job import Job, Row, expected
from gpu_kernels.bench.calibration.points import Decode, decodes, spread
from gpu_kernels.bench.calibration.pools import Pool, room
from gpu_kernels.bench.timing import ROTATION, Call
from gpu_kernels.bench.variants import Variant, variant

BITS = {"kv4": 4, "kv8": 8, "kv16": 16}


def plan_of(point: Decode, bits: int, multiprocessors: int, clusters: bool) -> tuple[Any, int]:
    """(tile, splits) that the operator takes where the cache may be read early."""
    from gpu_kernels.kv4_attention import config

    group = point.heads // point.kv_heads
    place = point.batch, point.kv_heads, group, point.context, point.size, bits
    tile, splits = config.choose(*place, multiprocessors, True)
    if not clusters:
        tile = config.portable(tile, point.size, bits, config.block_heads(group, point.size)[0])
    return tile, splits


def variants_of(points: list[Decode], architecture: str, multiprocessors: int) -> Iterator[Variant]:
    """What they compile."""
    from gpu_kernels.kv4_attention import config

    bulk = architecture.startswith("sm_9")
    for bits in BITS.values():
        for point in points:
            heads, _ = config.block_heads(point.heads // point.kv_heads, point.size)
            tile, _ = plan_of(point, bits, multiprocessors, bulk)
            macros = config.macros(tile, point.size, bits, heads, True, False, True, bulk)
            yield variant("kv4_attention", macros)


@lru_cache(maxsize=2)
def _pages(bits: int, size: int, count: int) -> Any:
    """uint8 [count, page bytes]: pages of single heads, drawn from a bank of BANK x 8."""
    import numpy as np
    import torch

    from gpu_kernels.kv4_attention import packing

    draw = np.random.default_rng(SEED)
    (key, _), (value, _) = (packed_part(draw, (BANK, 8, PAGE, size), bits) for _ in range(2))
    bank = torch.from_numpy(packing.pack(key, value, bits)).cuda().flatten(0, 1)
    order = torch.Generator("cuda").manual_seed(SEED)
    return bank[torch.randint(0, len(bank), (count,), generator=order, device="cuda")]


def page_count(bits: int, size: int, points: list[Decode], l2_bytes: int) -> int:
    """Pages of the largest cache, and of as many sets as outgrow the L2."""
    from gpu_kernels.kv4_attention.config import page_bytes

    most = max(one.kv_heads * one.batch * (one.context // PAGE + 1) for one in points if one.size == size)
    return most + 2 * ROTATION * l2_bytes // page_bytes(size, bits) + 1


def our_calls(point: Decode, bits: int, pages: int, sets: int) -> list[Call]:
    """One for each of several caches; all of them have one table, in an order drawn at random."""
    import torch

    draw = torch.Generator("cuda").manual_seed(SEED)
    each = point.batch * (point.context // PAGE + 1)
    units, step = _pages(bits, point.size, pages), each * point.kv_heads
    caches = [units[i * step : (i + 1) * step].view(each, point.kv_heads, -1) for i in range(sets)]
    table = torch.randperm(each, generator=draw, device="cuda").int().view(point.batch, -1)
    half = {"dtype": torch.float16, "device": "cuda"}
    query = torch.randn(point.batch, point.heads, point.size, generator=draw, **half)
    new = torch.zeros(point.batch, point.kv_heads, point.size, **half)
    angle = torch.ones(point.batch, point.size // 2, device="cuda")
    step_of = new, new, angle, torch.zeros_like(angle)
    lengths = torch.full((point.batch,), point.context, dtype=torch.int32, device="cuda")
    return _launches(point, bits, query, step_of, caches, table, lengths)


def _launches(
    point: Decode, bits: int, query: Any, new: Any, caches: list[Any], table: Any, lengths: Any
) -> list[Call]:
    import torch

    from gpu_kernels.kv4_attention import op

    tile, splits = plan_of(point, bits, runtime.multiprocessors(), op.clusters())
    space = op.workspace(point.batch, point.heads, point.kv_heads, point.size, bits, point.context, query.device)
    out = torch.empty_like(query)

    def call(cache: Any) -> Any:
        op.run(tile, splits, query, new, cache, table, lengths, None, bits, True, out, space)
        return out

    return [partial(call, cache) for cache in caches]


def our_jobs(name: str, l2_bytes: int, quick: int = 0) -> Iterator[Job]:
    """Of one width of the cache."""
    from gpu_kernels.kv4_attention import config, op

    bits, points = BITS[name], list(spread(decodes(), quick))
    for point in points:
        tile, splits = plan_of(point, bits, runtime.multiprocessors(), op.clusters())
        row: Row = {"part": f"decode_{name}", "name": point.name, "bits": bits} | asdict(point)
        row |= {"tile": asdict(tile), "splits": splits}
        row |= {"block_heads": config.block_heads(point.heads // point.kv_heads, point.size)[0]}
        pages = page_count(bits, point.size, points, l2_bytes)
        size = point.cache_bytes(bits)
        yield Job(row, partial(our_calls, point, bits, pages), size, 2 + expected(size))


def torch_calls(backend: str, pool: Pool, queries: Pool, point: Decode, sets: int) -> list[Call]:
    """One for each of several caches, by one backend."""
    query = queries.view(point.batch, point.heads, 1, point.size)
    shape = point.batch, point.kv_heads, point.context, point.size
    parts, grouped = pool.views(2 * sets, *shape), point.heads != point.kv_heads
    return [sdpa(backend, query, parts[i], parts[i + 1], False, grouped) for i in range(0, 2 * sets, 2)]


def sdpa(backend: str, query: Any, key: Any, value: Any, causal: bool = False, grouped: bool = False) -> Call:
    """torch's attention by one of BACKENDS."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    def call() -> Any:
        with sdpa_kernel(getattr(SDPBackend, BACKENDS[backend])):
            return scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=grouped)

    return call


def torch_jobs(backend: str, l2_bytes: int, quick: int = 0) -> Iterator[Job]:
    """Of one backend."""
    import torch

    points = list(spread(decodes(), quick))
    largest = max(one.cache_bytes(16) for one in points)
    pool = Pool(torch.bfloat16, room(max(largest, ROTATION * l2_bytes) + ROTATION * l2_bytes + (64 << 20)))
    queries = Pool(torch.bfloat16, 8 << 20)
    for point in points:
        row = {"part": f"decode_{backend}", "name": point.name, "bits": 16} | asdict(point)
        size = point.cache_bytes(16)
        yield Job(row, partial(torch_calls, backend, pool, queries, point), size, 6 + expected(size))
