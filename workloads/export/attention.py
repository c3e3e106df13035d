"""The attention of an exported trace as `AttentionWork`: dense, for there are no importances to prune by."""

import numpy as np

from workloads.attention import AttentionWork
from workloads.dense import dense_layers
from workloads.policy import Policy
from workloads.trace import Trace

_PRUNES = ("token_keep", "head_keep", "value_keep", "token_threshold", "token_recent")


def exported_work(trace: Trace, policy: Policy | None) -> list[AttentionWork]:
    """One entry for each size of head, image (or text) of the batch and number of repetitions.

    Bits are the policy's, and without row maxima every query fetches the low bits of K, if there are any.  Causal
    masks are not modelled: the full rectangle of queries and keys is work.
    Raises ValueError for a policy that prunes, for a trace without attention of its own operator, and for cross
    attention of more queries than keys.
    """
    policy = policy or Policy()
    pruning = [name for name in _PRUNES if getattr(policy, name) != getattr(Policy(), name)]
    if pruning:
        raise ValueError(f"{trace.name}: policy.{pruning[0]}: an exported trace has no importances to prune by")
    rows = np.flatnonzero(trace.operators["kind"] == "sdpa")
    if not len(rows):
        raise ValueError(f"{trace.name}: no scaled_dot_product_attention, so no attention for this machine")
    groups: dict[tuple[int, int, int], list[tuple[int, ...]]] = {}
    for layer, row in enumerate(map(int, rows)):
        images, heads, kv_heads, queries, keys, size = _shapes(trace, row)
        if queries > keys:
            raise ValueError(
                f"{_where(trace, row)}: queries must be <= keys, got {queries} and {keys} (cross attention)"
            )
        key = (size, heads // kv_heads, images * int(trace.operators["repeat"][row]))
        groups.setdefault(key, []).append((layer, kv_heads, queries, keys))
    works = []
    for (size, group, repeat), layers in groups.items():
        shape = np.array(layers, np.int64).T
        works.append(dense_layers(trace.name, policy, size, *shape, group=group, repeat=repeat))
    return works


def _where(trace: Trace, row: int) -> str:
    return f"{trace.name}: {trace.operators['module'][row] or 'the module'}"


def _shapes(trace: Trace, row: int) -> tuple[int, ...]:
    """(images, heads, K/V heads, queries, keys, head size) of an attention operator [..., heads, tokens, size]."""
    mine = trace.operands["operator"] == row
    query, key = ([int(n) for n in text.split("x")] for text in trace.operands["shape"][mine].tolist()[:2])
    return int(np.prod(query[:-3])), query[-3], key[-3], query[-2], key[-2], query[-1]
