"""`AttentionWork`: the attention of one sequence, after pruning, as an accelerator must run it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class AttentionWork:
    """Rows in execution order; row r is one pass of one head: K and V are read once for `queries[r]` queries.

    A prompt (summarization) has one row per layer and head with as many queries as kept tokens; a generated
    token has one row per layer and head with one query.

    step, layer, head   int64 [R]   step 0 is the prompt or first token; layer, head: the model's own numbers
    length              int64 [R]   tokens in the cache before pruning: rows of the K and V arrays in DRAM
    queries             int64 [R]   queries that are computed: 1, or the first of the kept tokens (<= keys)
    keys                int64 [R]   K vectors fetched, 1..length
    values              int64 [R]   V vectors used by each query, 1..keys (local value pruning)
    key_set             int64 [R]   which entry of `set_*` lists the kept positions; -1: evenly spread
    set_ptr, set_index  int64 [S+1], [.]   kept positions, ascending; one entry serves the heads of a layer
    needs_lsb           uint8 [sum(queries) * group]   1: the largest probability of that query is below the threshold
    token_topk          int64 [R]   > 0: after this row the token top-k keeps that many of the candidates
    token_candidates    int64 [R]   how many tokens compete there (0 where token_topk is 0)
    head_topk, head_candidates      the same for heads
    score_ptr, score    int64 [R+1], float64 [.]   importance of the candidates of the token top-k of row r;
                        an empty range: not recorded, the top-k model draws ranks with its seed
    head_size           elements of a Q, K or V vector (D)
    *_bits              bits of an element in DRAM; key_lsb_bits 0 = nothing to refetch
    dense_operations    multiply-accumulates x 2 of Q x K and prob x V with nothing pruned, of the whole work
    repeat              the sequence stands for so many alike, one after another: every sum counts it so often
    group               query heads that share a K/V head; `head` then numbers K/V heads, each query token has `group`
                        query vectors, and `needs_lsb` has an entry for each of them. Local value pruning keeps, for
                        each query token, one set of V: by probability summed over the group
    scale_bits          bits beside the elements of each K and V vector in DRAM (its scale and zero point)
    """

    name: str
    head_size: int
    query_bits: int
    key_msb_bits: int
    key_lsb_bits: int
    value_bits: int
    step: Ints
    layer: Ints
    head: Ints
    length: Ints
    queries: Ints
    keys: Ints
    values: Ints
    key_set: Ints
    set_ptr: Ints
    set_index: Ints
    needs_lsb: NDArray[np.uint8]
    token_topk: Ints
    token_candidates: Ints
    head_topk: Ints
    head_candidates: Ints
    score_ptr: Ints
    score: NDArray[np.float64]
    dense_operations: int
    repeat: int = 1
    group: int = 1
    scale_bits: int = 0

    @property
    def rows(self) -> int:
        """Number of head passes."""
        return len(self.layer)
