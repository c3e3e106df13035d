"""Dense attention of a given shape as `AttentionWork`: for benchmarks and tests of timing, without a trace."""

import numpy as np

from workloads.attention import AttentionWork


def dense_attention(layers: int, heads: int, tokens: int, head_size: int, bits: int) -> AttentionWork:
    """One prompt through every layer and head, nothing pruned, Q, K and V of `bits` each."""
    rows = layers * heads
    zeros, full = np.zeros(rows, np.int64), np.full(rows, tokens, np.int64)
    return AttentionWork(
        name=f"dense-{layers}x{heads}x{tokens}",
        head_size=head_size,
        query_bits=bits,
        key_msb_bits=bits,
        key_lsb_bits=0,
        value_bits=bits,
        step=zeros,
        layer=np.repeat(np.arange(layers), heads),
        head=np.tile(np.arange(heads), layers),
        length=full,
        queries=full,
        keys=full,
        values=full,
        key_set=np.full(rows, -1, np.int64),
        set_ptr=np.zeros(1, np.int64),
        set_index=np.zeros(0, np.int64),
        needs_lsb=np.zeros(rows * tokens, np.uint8),
        token_topk=zeros,
        token_candidates=zeros,
        head_topk=zeros,
        head_candidates=zeros,
        score_ptr=np.zeros(rows + 1, np.int64),
        score=np.zeros(0),
        dense_operations=4 * rows * tokens * tokens * head_size,
    )
