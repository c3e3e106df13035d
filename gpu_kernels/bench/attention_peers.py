"""torch's attention of one decode step over a bfloat16 cache: the backends that read K and V once.

A peer is `(shape, sets) -> (calls, fault)` as in `gemm_peers`. Query heads share the K/V heads (`enable_gqa`).
"""

from functools import partial
from typing import Any

from gpu_kernels.bench.contest import Contender
from gpu_kernels.bench.shapes import HEAD_SIZE, HEADS, KV_HEADS, Attention
from gpu_kernels.bench.timing import Call

WORST = 1e-2  # of the norm, against float64
SAMPLE = 4  # sequences compared
SEED = 2028
BACKENDS = {"sdpa_cudnn": "CUDNN_ATTENTION", "sdpa_flash": "FLASH_ATTENTION"}


def operands(shape: Attention, sets: int) -> tuple[Any, list[tuple[Any, Any]]]:
    """(query [B, 32, 1, 128], sets of keys and values [B, 8, T, 128]), normal, bfloat16."""
    import torch

    draw = torch.Generator("cuda").manual_seed(SEED)

    def normal(*size: int) -> Any:
        return torch.empty(size, dtype=torch.bfloat16, device="cuda").normal_(generator=draw)

    cache = [shape.batch, KV_HEADS, shape.context, HEAD_SIZE]
    return normal(shape.batch, HEADS, 1, HEAD_SIZE), [(normal(*cache), normal(*cache)) for _ in range(sets)]


def contenders() -> dict[str, Contender]:
    """By backend."""
    return {name: Contender(partial(_prepare, name), _cache_bytes) for name in BACKENDS}


def _cache_bytes(shape: Attention) -> int:
    return shape.bytes_moved(16)


def _prepare(backend: str, shape: Attention, sets: int) -> tuple[list[Call], str]:
    return peer(backend, *operands(shape, sets))


def peer(backend: str, query: Any, caches: list[tuple[Any, Any]]) -> tuple[list[Call], str]:
    """Calls of one of BACKENDS, and the fault of the first."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    def call(key: Any, value: Any) -> Any:
        with sdpa_kernel(getattr(SDPBackend, BACKENDS[backend])):
            return scaled_dot_product_attention(query, key, value, enable_gqa=True)

    calls: list[Call] = [partial(call, *cache) for cache in caches]
    return calls, fault(calls[0](), query, *caches[0])


def fault(out: Any, query: Any, key: Any, value: Any) -> str:
    """What `out` has wrong against float64, on the first sequences; "" if nothing."""
    q, k, v = (x[:SAMPLE].double() for x in (query, key, value))
    score = q.unflatten(1, (KV_HEADS, -1))[:, :, :, 0] @ k.transpose(2, 3) * HEAD_SIZE**-0.5
    exact = (score.softmax(dim=3) @ v).reshape(q.shape)
    error = float((out[:SAMPLE].double() - exact).norm() / exact.norm())
    return "" if error <= WORST else f"relative error {error:.2e}, more than {WORST:.0e}"
