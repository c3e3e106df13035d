"""torch.compile of repeated blocks, in place: each class of block is compiled once and serves all its instances.

Much quicker than the whole model, and what is left out between blocks (embeddings, the last norm and projection) runs
eagerly.  A decoder's block is handed its layer of the key-value cache as an object of one class in the place of the
whole cache, since PyTorch would compile a block anew for every layer number that it looks up there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

from workloads.zoo.registry import Stage

LABEL = "compiled: repeated blocks"
RECOMPILATIONS = 64  # shapes of one class; DC-AE has six widths of the same block


def repeated_blocks(module: Any) -> list[Any]:
    """The outermost modules that a list or sequence holds two or more of, by class; leaves left out."""
    from torch import nn

    listed = (nn.ModuleList, nn.Sequential)
    members = [*module.children()]
    classes = [type(one) for one in members if isinstance(module, listed) and not isinstance(one, listed)]
    found: list[Any] = []
    for one in members:
        repeats = classes.count(type(one)) > 1 and next(one.children(), None) is not None
        found += [one] if repeats else repeated_blocks(one)
    return found


@dataclass
class _LayerCache:
    """Keys and values of one layer in the place of the whole cache. `update` joins past and new, as eager does."""

    keys: Any
    values: Any

    def update(self, keys: Any, values: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        import torch

        return torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)


@contextmanager
def compiled_blocks(stages: Sequence[Stage], **options: Any) -> Iterator[dict[str, int]]:
    """Blocks run compiled inside the context; yields {class name: blocks}. Raises ValueError where none repeat.

    options   of torch.compile; shapes are static
    """
    undo: list[Callable[[], Any]] = []
    counts: dict[str, int] = {}
    functions: dict[type, Any] = {}
    try:
        for stage in stages:
            blocks = repeated_blocks(stage.module)
            undo += _share_cache(blocks, stage.kwargs)
            for block in blocks:
                counts[type(block).__name__] = counts.get(type(block).__name__, 0) + 1
                undo.append(_replace_forward(block, functions, options))
        if not counts:
            names = ", ".join(type(stage.module).__name__ for stage in stages)
            raise ValueError(f"compile: a module with repeated blocks is needed, got {names}")
        with _many_shapes():
            yield counts
    finally:
        for call in reversed(undo):
            call()


def _replace_forward(block: Any, functions: dict[type, Any], options: Mapping[str, Any]) -> Callable[[], Any]:
    import torch

    kind = type(block)
    if kind not in functions:
        functions[kind] = torch.compile(kind.forward, dynamic=False, **options)
    block.forward = MethodType(functions[kind], block)
    return lambda: block.__dict__.pop("forward")


def _share_cache(blocks: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Callable[[], Any]]:
    """What undoes it. Only where a filled cache of as many layers as blocks is among the inputs."""
    cache = kwargs.get("past_key_values")
    layers = getattr(cache, "layers", [])
    if cache is None or len(layers) != len(blocks):
        return []
    pairs = zip(blocks, layers, strict=True)
    return [_give_layer(block, cache, _LayerCache(layer.keys, layer.values)) for block, layer in pairs]


def _give_layer(block: Any, cache: Any, layer: _LayerCache) -> Callable[[], Any]:
    def swap(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args = tuple(layer if one is cache else one for one in args)
        return args, {name: layer if one is cache else one for name, one in kwargs.items()}

    return block.register_forward_pre_hook(swap, with_kwargs=True).remove


@contextmanager
def _many_shapes() -> Iterator[None]:
    """Nothing compiled before counts, and more shapes of one function are compiled than PyTorch would by default."""
    import torch._dynamo

    config = torch._dynamo.config
    names = [name for name in ("recompile_limit", "cache_size_limit") if hasattr(config, name)][:1]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with config.patch(dict.fromkeys(names, RECOMPILATIONS)):
        yield


def compile_counts() -> dict[str, int]:
    """Graphs that were compiled since `compiled_blocks` began, and breaks between them."""
    import torch._dynamo

    counters = torch._dynamo.utils.counters
    return {
        "graphs": int(counters["stats"]["unique_graphs"]),
        "graph_breaks": int(sum(counters["graph_break"].values())),
    }
