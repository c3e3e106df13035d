"""Attention with its facts: probability that keys receive, and the ranges of K and V that a KV cache sees."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.values.channels import from_top

Floats = NDArray[np.float64]
LEVELS = tuple(Fraction(n, 1000) for n in (0, 10, 100, 250, 500, 750, 900, 990, 999, 1000))
KINDS = ("key", "key_before", "value")
_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


def attend(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """(context [B, H, n, D], importance [B, H, m]) of the arguments of `scaled_dot_product_attention`.

    Written out as scores, softmax and sums in the format of the arguments. importance: sum over the queries of the
    probability that a key received. Left out: dropout (ValueError).
    """
    given = {**dict(zip(_NAMES, args, strict=False)), **kwargs}
    if given.get("dropout_p", 0.0):
        raise ValueError(f"attend: dropout_p must be 0: put the module into eval(), got {given['dropout_p']}")
    query, key, value = (_four(given[name]) for name in _NAMES[:3])
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = given.get("scale")
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    probability = _masked(scores, given.get("attn_mask"), given.get("is_causal", False)).softmax(-1)
    context = (probability @ value).reshape(*given["query"].shape[:-1], value.shape[-1])
    return context, probability.sum(2)


def _four(heads: Any) -> Any:
    """[batch, heads, tokens, size] of a tensor of three or four dimensions."""
    return heads if heads.dim() == 4 else heads[None]


def _masked(scores: Any, mask: Any, causal: bool) -> Any:
    import torch

    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill_(~mask, float("-inf"))
    return scores + mask


@dataclass
class HeadRanges:
    """Ranges of x [heads, tokens, size] of one layer, over many inputs; `blocks` holds what each came to."""

    blocks: list[tuple[Floats, ...]] = field(default_factory=list)

    def add(self, x: Floats) -> None:
        """Add x [heads, tokens, size]."""
        spans = x.max(axis=2) - x.min(axis=2)
        self.blocks.append((x.min(axis=1), x.max(axis=1), spans, (x * x).mean(axis=2)))

    def facts(self) -> dict[str, Floats]:
        """min, max [heads, size]: least and largest of each channel; span [heads, levels]: nearest-rank quantiles of
        max - min over the channels of a token, which KV4 cuts into 15 steps; span_rms, rms [heads]."""
        low, high, spans, squares = zip(*self.blocks, strict=True)
        span = np.sort(np.concatenate(spans, axis=1), axis=1)
        tokens = span.shape[1]
        ranks = [tokens - 1 - from_top(tokens, level) for level in LEVELS]
        return {
            "min": np.min(low, axis=0),
            "max": np.max(high, axis=0),
            "span": span[:, ranks],
            "span_rms": np.sqrt((span * span).mean(axis=1)),
            "rms": np.sqrt(np.concatenate(squares, axis=1).mean(axis=1)),
        }


@dataclass
class AttentionLayer:
    """What one attention of the module showed: query heads, and ranges by kind (`KINDS`)."""

    heads: int
    kv_heads: int
    size: int
    ranges: dict[str, HeadRanges] = field(default_factory=dict)

    def add(self, kind: str, heads: Any) -> None:
        """Add K or V [B, KV, n, D]."""
        for one in _four(heads).double().cpu().numpy():
            self.ranges.setdefault(kind, HeadRanges()).add(one)


@dataclass(frozen=True)
class Importance:
    """Probability that each key received in one call: values float64 [heads, keys]."""

    source: int
    layer: int
    queries: int
    values: Floats


def layer_facts(layers: Sequence[AttentionLayer]) -> dict[str, NDArray[Any]]:
    """Columns by attention layer, and the ranges of all layers flat, one after the other (float64)."""
    names = ("heads", "kv_heads", "size")
    facts: dict[str, NDArray[Any]] = {
        f"attention.{name}": np.array([getattr(layer, name) for layer in layers], np.int64) for name in names
    }
    for kind in KINDS:
        have = [kind in layer.ranges for layer in layers]
        if any(have):
            facts[f"attention.{kind}.recorded"] = np.array(have)
            facts |= {f"attention.{kind}.{name}": flat for name, flat in _flat(layers, kind).items()}
    return facts


def _flat(layers: Sequence[AttentionLayer], kind: str) -> Mapping[str, Floats]:
    parts = [layer.ranges[kind].facts() for layer in layers if kind in layer.ranges]
    return {name: np.concatenate([part[name].ravel() for part in parts]) for name in parts[0]}


def importance_facts(calls: Sequence[Importance]) -> dict[str, NDArray[Any]]:
    """Columns by call, and the values flat by call, head and key (float64)."""
    if not calls:
        return {}
    columns = {
        "input": [call.source for call in calls],
        "layer": [call.layer for call in calls],
        "queries": [call.queries for call in calls],
        "heads": [call.values.shape[0] for call in calls],
        "keys": [call.values.shape[1] for call in calls],
    }
    facts: dict[str, NDArray[Any]] = {f"importance.{name}": np.array(x, np.int64) for name, x in columns.items()}
    return facts | {"importance.values": np.concatenate([call.values.ravel() for call in calls])}
