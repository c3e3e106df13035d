"""Dense attention as `AttentionWork`, without a trace: nothing pruned, every layer whole."""

import numpy as np
from numpy.typing import NDArray

from workloads.attention import AttentionWork
from workloads.policy import Policy

Ints = NDArray[np.int64]


def dense_attention(layers: int, heads: int, tokens: int, head_size: int, bits: int) -> AttentionWork:
    """One prompt through every layer and head, Q, K and V of `bits` each: for benchmarks and tests of timing."""
    formats = Policy(query_bits=bits, key_msb_bits=bits, key_lsb_bits=0, value_bits=bits)
    every = np.full(layers, tokens, np.int64)
    return dense_layers(
        f"dense-{layers}x{heads}x{tokens}", formats, head_size, np.arange(layers), np.full(layers, heads), every, every
    )


def dense_layers(
    name: str,
    formats: Policy,
    head_size: int,
    layers: Ints,
    heads: Ints,
    queries: Ints,
    keys: Ints,
    *,
    group: int = 1,
    repeat: int = 1,
) -> AttentionWork:
    """Layers of any number of K/V heads, queries and keys, one entry a layer in `layers`, `heads`, `queries`, `keys`.

    Bits are those of `formats`.  Without row maxima every query fetches the low bits of K, if there are any.
    """
    layer, rows_queries, rows_keys = (np.repeat(one, heads) for one in (layers, queries, keys))
    zeros = np.zeros(len(layer), np.int64)
    return AttentionWork(
        name=name,
        head_size=head_size,
        query_bits=formats.query_bits,
        key_msb_bits=formats.key_msb_bits,
        key_lsb_bits=formats.key_lsb_bits,
        value_bits=formats.value_bits,
        step=zeros,
        layer=layer,
        head=np.concatenate([np.arange(count) for count in heads.tolist()]),
        length=rows_keys,
        queries=rows_queries,
        keys=rows_keys,
        values=rows_keys,
        key_set=zeros - 1,
        set_ptr=np.zeros(1, np.int64),
        set_index=np.zeros(0, np.int64),
        needs_lsb=np.full(int(rows_queries.sum()) * group, int(formats.key_lsb_bits > 0), np.uint8),
        token_topk=zeros,
        token_candidates=zeros,
        head_topk=zeros,
        head_candidates=zeros,
        score_ptr=np.zeros(len(layer) + 1, np.int64),
        score=np.zeros(0),
        dense_operations=int(4 * head_size * group * (rows_queries * rows_keys).sum()),
        repeat=repeat,
        group=group,
    )
