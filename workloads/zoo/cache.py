"""A filled key-value cache that a run reads but does not change, so that each run of a stage sees the same past.

transformers' own DynamicLayer keeps what it is given: a second run (a warm-up, a FLOP count) would attend to more.
torch and transformers are imported inside functions. Left out: sliding windows, static, paged and quantized caches.
"""

from typing import Any

from workloads.zoo.placing import tensor
from workloads.zoo.registry import Place


def filled_cache(layers: int, batch: int, heads: int, past: int, head_size: int, place: Place) -> Any:
    """A transformers Cache with random keys and values [batch, heads (K/V), past, head_size] in each layer, on `place`.

    A layer answers with the past and the new tokens joined in fresh tensors, which eager PyTorch does in every step.
    """
    from transformers.cache_utils import Cache

    pairs = kv_tensors(layers, (batch, heads, past, head_size), place)
    return Cache(layers=[_layer(keys, values) for keys, values in pairs])


def kv_tensors(layers: int, shape: tuple[int, int, int, int], place: Place) -> list[tuple[Any, Any]]:
    """(keys, values) of each layer, all different."""
    return [(tensor(shape, place, seed=2 * i), tensor(shape, place, seed=2 * i + 1)) for i in range(layers)]


def _layer(keys: Any, values: Any) -> Any:
    import torch
    from transformers.cache_utils import DynamicLayer

    class FilledLayer(DynamicLayer):
        def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

    layer = FilledLayer()
    layer.keys, layer.values = keys, values
    layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
    return layer
