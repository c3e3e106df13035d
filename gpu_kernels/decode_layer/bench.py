"""One decode layer of Llama-3-8B, ours in W4A8KV4 against torch's in bfloat16: rows of `tilewright kernels bench`.

A layer's weights outgrow the L2 by themselves (109 and 436 MB); there are copies with caches of their own all the same.
Each contender is checked first, on two of its sequences, against float64: ours kernel by kernel, torch's as a whole.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import lru_cache, partial
from typing import Any

import numpy as np

from gpu_kernels.bench.contest import Contender, columns
from gpu_kernels.bench.shapes import Attention, Gemm
from gpu_kernels.bench.timing import Call
from gpu_kernels.decode_layer.check import relative_error, stage_fault
from gpu_kernels.decode_layer.config import LLAMA3_8B, Sizes
from gpu_kernels.decode_layer.operands import Weights, rotation, weights
from gpu_kernels.decode_layer.reference import Cache, step

BATCHES, CONTEXT, SEED = (1, 16, 64, 128, 256), 1024, 5
LEAST_SETS = 2
TORCH_BOUND = {"x": 2e-2, "residual": 5e-3}  # of the norm: bfloat16 all the way


def rows(limits: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row a batch; `limits` are the ceilings of the run."""
    from gpu_kernels.bench.parts import int8_ceiling

    rates = limits["read_bytes_per_s"], int8_ceiling(limits)
    for batch in BATCHES:
        shape = Attention(batch, CONTEXT)
        floor = floor_us(LLAMA3_8B, shape, *rates)
        found = columns(shape, contenders(), floor, limits["l2_bytes"])
        names = {"name": f"batch {batch}", "batch": batch, "context": CONTEXT}
        yield names | {"floor_us": {"layer": floor}, "columns": found}


def floor_us(sizes: Sizes, shape: Attention, bytes_per_s: float, operations_per_s: float) -> float:
    """The floors of the four products and of attention, one after another."""
    products = [Gemm(name, shape.batch, n, k) for name, (n, k) in sizes.matrices.items()]
    each = [one.floor_us(bytes_per_s, operations_per_s, grouped=True) for one in products]
    return sum(each) + shape.floor_us(bytes_per_s)


def contenders() -> dict[str, Contender]:
    """By column."""
    torch_bytes = partial(_bytes, 16)
    found = {"tilewright": Contender(_ours, partial(_bytes, 4))}
    for backend in ("cudnn", "flash"):
        found[f"torch_graph_{backend}"] = Contender(partial(_torch, backend, False), torch_bytes)
    return found | {"torch_compile_cudnn": Contender(partial(_torch, "cudnn", True), torch_bytes)}


@lru_cache(maxsize=1)
def _weights() -> Weights:
    return weights(LLAMA3_8B, SEED)


def _bytes(bits: int, shape: Attention) -> int:
    return LLAMA3_8B.weights * bits // 8 + shape.bytes_moved(bits)


def _ours(shape: Attention, sets: int) -> tuple[list[Call], str]:
    import torch

    from gpu_kernels.decode_layer.op import DecodeLayer

    layer = DecodeLayer(_weights(), shape.batch, shape.context)
    x, residual, cache = _state(shape, torch.float16)
    layer.fill(*cache)
    before = _samples(shape, x, residual, *cache)
    layer.step(x, residual)
    results = layer.results() | {"residual": residual}
    seen = dict(zip(results, _samples(shape, *results.values()), strict=True))
    fault = stage_fault(seen, _reference(shape, before, False, seen))
    layers = [layer, *(deepcopy(layer) for _ in range(max(sets, LEAST_SETS) - 1))]
    return [partial(one.step, x, residual) for one in layers], fault


def _torch(backend: str, compiled: bool, shape: Attention, sets: int) -> tuple[list[Call], str]:
    import torch

    from gpu_kernels.decode_layer import peer

    layer = peer.TorchLayer(_weights(), shape.batch, shape.context, backend)
    x, residual, cache = _state(shape, torch.bfloat16)
    layer.fill(*cache)
    wanted = _reference(shape, _samples(shape, x, residual, *cache), True)
    layers = [layer, *(deepcopy(layer) for _ in range(max(sets, LEAST_SETS) - 1))]
    if compiled:
        torch.compiler.reset()  # the layers of other batches
    steps = [peer.compiled(one) if compiled else one.step for one in layers]
    for one in steps[1:]:
        one(x, residual)  # compiles; a graph cannot
    fault = ""
    for name, found in zip(TORCH_BOUND, _samples(shape, *steps[0](x, residual)), strict=True):
        error = relative_error(found, wanted[name]).max()
        fault = fault or ("" if error <= TORCH_BOUND[name] else f"{name}: relative error {error:.2e}")
    return [partial(one, x, residual) for one in steps], fault


def _state(shape: Attention, form: Any) -> tuple[Any, Any, tuple[Any, Any]]:
    """x, residual [B, hidden], keys and values [B, kv heads, T, D], drawn on the GPU."""
    import torch

    draw = torch.Generator("cuda").manual_seed(SEED)

    def normal(*size: int) -> Any:
        return torch.empty(size, dtype=form, device="cuda").normal_(generator=draw)

    cache = shape.batch, LLAMA3_8B.kv_heads, shape.context, LLAMA3_8B.head_size
    sides = normal(shape.batch, LLAMA3_8B.hidden), normal(shape.batch, LLAMA3_8B.hidden)
    return *sides, (normal(*cache), normal(*cache))


def _samples(shape: Attention, *parts: Any) -> list[Any]:
    """The first and the last sequence of tensors [B, ...], as float32 of NumPy."""
    some = sorted({0, shape.batch - 1})
    return [part[some].float().cpu().numpy() for part in parts]


def _reference(shape: Attention, before: list[Any], exactly: bool, seen: Any = None) -> dict[str, Any]:
    """Of those samples of x, residual, keys and values."""
    angles = rotation(np.full(len(before[0]), shape.context), LLAMA3_8B)
    return step(_weights(), before[0], before[1], Cache(*before[2:]), angles, exactly, seen)
