"""What a run of the bench compiles, known beforehand, so that all cores do it at once instead of one in passing.

Leaving a variant out costs time, nothing else: it is compiled when it is launched.
"""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from gpu_kernels import runtime
from gpu_kernels.bench.shapes import HEAD_SIZE, HEADS, KV_HEADS, attentions, gemms

Variant = tuple[str, tuple[tuple[str, object], ...]]  # source, macros
FEW = 4  # are compiled where they are launched


def gemm_variants(architecture: str, multiprocessors: int) -> Iterator[Variant]:
    """Tiles that the operators take for the 66 shapes."""
    from gpu_kernels.w4a8_gemm import config as hopper
    from gpu_kernels.w4a8_portable import config as portable

    shapes = [(shape.m, shape.n, shape.k) for shape in gemms()]
    for kind in hopper.KINDS if architecture == "sm_90a" else ():
        for shape in shapes:
            yield variant("w4a8_gemm", hopper.macros(kind, hopper.choose(kind, *shape, multiprocessors), True))
    for kind in ("w4a8_channel", "w4a8_group"):
        for shape in shapes:
            tile = portable.choose(kind, *shape, multiprocessors, architecture).tile
            yield variant("w4a8_portable", portable.macros(kind, tile, True))


def ablation_variants(architecture: str, multiprocessors: int) -> Iterator[Variant]:
    """The twins."""
    from gpu_kernels.bench.ablation_rows import KINDS, SHAPES
    from gpu_kernels.w4a8_portable import config
    from gpu_kernels.w4a8_portable.ablations import twins_of

    for shape in SHAPES:
        for kind in KINDS:
            tile = config.choose(kind, shape.m, shape.n, shape.k, multiprocessors, architecture).tile
            yield from (variant("w4a8_portable", config.macros(kind, tile, True, twin)) for twin in twins_of(kind))


def attention_variants(architecture: str, multiprocessors: int) -> Iterator[Variant]:
    """Tiles of a decode step, for the 16 shapes and each width of the cache."""
    from gpu_kernels.kv4_attention import config

    group = HEADS // KV_HEADS
    heads, _ = config.block_heads(group, HEAD_SIZE)
    bulk = architecture.startswith("sm_9")
    for bits in (4, 8, 16):
        for shape in attentions():
            place = shape.batch, KV_HEADS, group, shape.context, HEAD_SIZE, bits
            tile, _ = config.choose(*place, multiprocessors)
            yield variant("kv4_attention", config.macros(tile, HEAD_SIZE, bits, heads, True, False, True, bulk))


PARTS = {"gemm": gemm_variants, "attention": attention_variants, "ablations": ablation_variants}


def variant(folder: str, macros: dict[str, object] | dict[str, int]) -> Variant:
    return f"{folder}/kernel.cu", tuple(sorted(macros.items()))


def wanted(parts: Sequence[str], architecture: str, multiprocessors: int) -> list[Variant]:
    """Of some parts, each once."""
    found = (one for part in parts if part in PARTS for one in PARTS[part](architecture, multiprocessors))
    return list(dict.fromkeys(found))


def compile_all(variants: Sequence[Variant], architecture: str) -> int:
    """Put the cubins into the cache, by as many processes as there are cores; how many are there then."""
    if len(variants) <= FEW:
        return 0
    spawn = multiprocessing.get_context("spawn")  # a fork would share torch's context of the GPU
    with ProcessPoolExecutor(min(len(variants), os.cpu_count() or 1), mp_context=spawn) as pool:
        return sum(pool.map(_compile, variants, [architecture] * len(variants)))


def _compile(variant: Variant, architecture: str) -> bool:
    """Whether it compiled; the launch will say why not."""
    source, macros = variant
    try:
        runtime.compile_cubin(source, architecture, dict(macros))
    except Exception:
        return False
    return True
