"""The attention of an exported trace as `AttentionWork`: dense, for there are no importances to prune by."""

import numpy as np

from workloads.attention import AttentionWork
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
    pruning = [name for name in _PRUNES if getattr(policy, name, None) != getattr(Policy(), name, None)]
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
    return [_work(trace.name, policy, *key, layers) for key, layers in groups.items()]


def _where(trace: Trace, row: int) -> str:
    return f"{trace.name}: {trace.operators['module'][row] or 'the module'}"


def _shapes(trace: Trace, row: int) -> tuple[int, ...]:
    """(images, heads, K/V heads, queries, keys, head size) of an attention operator [..., heads, tokens, size]."""
    mine = trace.operands["operator"] == row
    query, key = ([int(n) for n in text.split("x")] for text in trace.operands["shape"][mine].tolist()[:2])
    return int(np.prod(query[:-3])), query[-3], key[-3], query[-2], key[-2], query[-1]


def _work(
    name: str, policy: Policy, size: int, group: int, repeat: int, layers: list[tuple[int, ...]]
) -> AttentionWork:
    counts = [heads for _, heads, _, _ in layers]
    layer, queries, keys = (np.repeat([one[index] for one in layers], counts) for index in (0, 2, 3))
    zeros = np.zeros(len(layer), np.int64)
    return AttentionWork(
        name=name,
        head_size=size,
        query_bits=policy.query_bits,
        key_msb_bits=policy.key_msb_bits,
        key_lsb_bits=policy.key_lsb_bits,
        value_bits=policy.value_bits,
        step=zeros,
        layer=layer,
        head=np.concatenate([np.arange(count) for count in counts]),
        length=keys,
        queries=queries,
        keys=keys,
        values=keys,
        key_set=zeros - 1,
        set_ptr=np.zeros(1, np.int64),
        set_index=np.zeros(0, np.int64),
        needs_lsb=np.full(int(queries.sum()) * group, int(policy.key_lsb_bits > 0), np.uint8),
        token_topk=zeros,
        token_candidates=zeros,
        head_topk=zeros,
        head_candidates=zeros,
        score_ptr=np.zeros(len(layer) + 1, np.int64),
        score=np.zeros(0),
        dense_operations=int(4 * size * group * (queries * keys).sum()),
        repeat=repeat,
        group=group,
    )
