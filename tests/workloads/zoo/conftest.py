"""What the tests of the zoo share: a stage by name, and what PyTorch dispatches when it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from workloads.zoo.registry import Place, Stage, find_model, options_of


@dataclass(frozen=True)
class Attention:
    """One scaled_dot_product_attention: shapes [batch, heads, length, head size], and how it masks."""

    query: tuple[int, ...]
    key: tuple[int, ...]
    value: tuple[int, ...]
    masked: bool
    causal: bool


def _only_stage(name: str, place: Place | None = None, /, **options: Any) -> Stage:
    model = find_model(name)
    [stage] = model.build(place or Place(), options_of(model, options))
    return stage


@pytest.fixture
def only_stage() -> Callable[..., Stage]:
    """`only_stage(name, place=meta, **options)`: the stage of a model that has one."""
    return _only_stage


@pytest.fixture
def attention_calls() -> Callable[[Stage], list[Attention]]:
    """`attention_calls(stage)`: the attention operators of one run, as PyTorch dispatches them."""
    return _attention_calls


@pytest.fixture
def flops() -> Callable[[Stage], int]:
    """`flops(stage)`: PyTorch's own count of one run, 2 x MAC (on meta; on a CPU it leaves attention out)."""
    return _flops


def _flops(stage: Stage) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        stage.module(*stage.args, **stage.kwargs)
    return counter.get_total_flops()


def _attention_calls(stage: Stage) -> list[Attention]:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    calls = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.scaled_dot_product_attention.default:
                calls.append(_attention(args, kwargs or {}))
            return func(*args, **(kwargs or {}))

    with torch.inference_mode(), Watch():
        stage.module(*stage.args, **stage.kwargs)
    return calls


def _attention(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Attention:
    query, key, value = (tuple(tensor.shape) for tensor in args[:3])
    given = dict(zip(("attn_mask", "dropout_p", "is_causal"), args[3:], strict=False)) | kwargs
    return Attention(query, key, value, given.get("attn_mask") is not None, given.get("is_causal", False))
