"""What every query of every head asks of the units of a SpAtten machine: all its timing rules."""

import numpy as np
from numba import njit

from dataflow.spatten.draft import (
    ACCUMULATE,
    ACCUMULATIONS,
    BLOCK,
    BLOCK_AGAIN,
    BLOCK_DONE,
    COMPARATORS,
    COMPARISONS,
    CONSUMER_OF,
    COUNTERS,
    FETCHED_KEY,
    FETCHED_LSB,
    FETCHED_QUERY,
    FETCHED_VALUE,
    FIFO_SCORES,
    FIRST_QUERY,
    GATE,
    HAS_LSB,
    HEAD_SIZE,
    K_READ,
    K_WRITE,
    KEY,
    KEY_AGAIN,
    KEY_BUFFERS,
    KEY_DONE,
    KEY_LSB,
    KEYS,
    LANES,
    LAYER,
    LSB_ROWS,
    MACS_PV,
    MACS_QK,
    NONE,
    OUTPUT,
    OVERHEAD,
    PROB_VALUE,
    PV_CYCLES,
    PV_MULTIPLIERS,
    QK_CYCLES,
    QK_LATENCY,
    QK_MULTIPLIERS,
    QK_ROOM,
    QUERIES,
    QUERY,
    QUERY_BLOCK,
    QUERY_BLOCKS,
    QUERY_KEY,
    RECOMPUTED,
    ROW,
    SCORES,
    SEED,
    SHARED_ENGINE,
    SOFTMAX,
    SOFTMAX_CYCLES,
    SOFTMAX_LATENCY,
    SOFTMAX_OF,
    SOFTMAX_ROOM,
    TOPK,
    TOPK_PASSES,
    V_READ,
    V_WRITE,
    VALUE,
    VALUE_BUFFERS,
    VALUE_DONE,
    VALUE_TOPK,
    VALUES,
    WRITE_OUTPUT,
    add_task,
    transfer,
    wait,
    wait_room,
)
from dataflow.spatten.topk import filter_cycles, next_random, select_by_rank, select_by_value


@njit(cache=True)
def _spread(count, among):  # type: ignore[no-untyped-def]
    """`count` of the positions 0..among-1, evenly spread: where a trace does not say which."""
    return np.arange(count) * among // count


@njit(cache=True)
def _array_cycles(vectors, head_size, multipliers):  # type: ignore[no-untyped-def]
    """Cycles of a multiplier array: multipliers // D vectors a cycle (section IV-D), or several cycles for one."""
    if multipliers >= head_size:
        return -(-vectors // (multipliers // head_size))
    return vectors * -(-head_size // multipliers)


@njit(cache=True)
def _seed(seed, row, query):  # type: ignore[no-untyped-def]
    """A seed of its own for each top-k; query -1 and -2 are the token and the head top-k of the row."""
    mixed = next_random(np.uint64(seed))[1]
    mixed = next_random(mixed ^ np.uint64(row))[1]
    return next_random(mixed ^ np.uint64(query + 2))[1]


@njit(cache=True)
def _begin_row(t, s, r, nq, nk, nv):  # type: ignore[no-untyped-def]
    """Note the sizes and stage times of a row.

    A stage stops when the rows behind it fill its FIFO; its own pipeline holds the rows of its latency.
    """
    s[ROW], s[QUERIES], s[KEYS], s[VALUES] = r, nq, nk, nv
    s[QK_CYCLES] = _array_cycles(nk, s[HEAD_SIZE], s[QK_MULTIPLIERS])
    s[PV_CYCLES] = _array_cycles(nv, s[HEAD_SIZE], s[PV_MULTIPLIERS])
    s[SOFTMAX_CYCLES] = -(-nk // s[LANES])
    fifo_rows = max(1, s[FIFO_SCORES] // nk)
    s[QK_ROOM] = fifo_rows - -s[QK_LATENCY] // s[QK_CYCLES]
    s[SOFTMAX_ROOM] = fifo_rows - -s[SOFTMAX_LATENCY] // s[SOFTMAX_CYCLES]
    s[FETCHED_LSB] = NONE


@njit(cache=True)
def _fetch_row(t, s, requests, kept, base, vector_bytes):  # type: ignore[no-untyped-def]
    """Fetch K of a row, and V where all its queries share it, into the next half of the double buffers."""
    wait(t, s, s[GATE])
    wait_room(t, s, KEY_DONE, s[ROW] - s[KEY_BUFFERS])
    wait_room(t, s, KEY_AGAIN, s[ROW] - s[KEY_BUFFERS])
    s[FETCHED_KEY] = transfer(t, s, requests, KEY, base, vector_bytes, kept)
    s[COUNTERS + K_WRITE] += s[KEYS]
    if s[QUERIES] > 1 or s[VALUES] == s[KEYS]:  # nothing to select: no need to wait for a top-k
        wait(t, s, s[GATE])
        wait_room(t, s, VALUE_DONE, s[ROW] - s[VALUE_BUFFERS])
        s[FETCHED_VALUE] = transfer(t, s, requests, VALUE, base, vector_bytes, kept)
        s[COUNTERS + V_WRITE] += s[KEYS]


@njit(cache=True)
def _fetch_queries(t, s, requests, q, kept, base, vector_bytes):  # type: ignore[no-untyped-def]
    """Fetch the block of Q vectors from query q on into the registers that the oldest block has left."""
    wait(t, s, s[GATE])
    wait_room(t, s, BLOCK_DONE, s[BLOCK] - s[QUERY_BLOCKS])
    wait_room(t, s, BLOCK_AGAIN, s[BLOCK] - s[QUERY_BLOCKS])
    places = kept[q : min(q + s[QUERY_BLOCK], s[QUERIES])] if s[QUERIES] > 1 else np.zeros(1, np.int64)
    s[FETCHED_QUERY] = transfer(t, s, requests, QUERY, base, vector_bytes, places)
    s[BLOCK] += 1


@njit(cache=True)
def _multiply(t, s, of_row, of_block):  # type: ignore[no-untyped-def]
    """Q x K of one query; returns its task, which is now the last of its pass that reads K and the block of Q.

    of_row, of_block   tables of those last tasks: the first pass and the one with all bits overtake each other
    """
    scored = add_task(t, s, QUERY_KEY, s[QK_CYCLES])
    t[s[of_row] + s[ROW]] = scored
    t[s[of_block] + s[BLOCK] - 1] = scored
    return scored


@njit(cache=True)
def _score(t, s, q, first_of_block):  # type: ignore[no-untyped-def]
    """Q x K and softmax of query q; returns the softmax task. An in-order unit need not be told twice."""
    g = s[FIRST_QUERY] + q
    if s[HAS_LSB] or q == 0:
        wait(t, s, s[FETCHED_KEY])
    if s[HAS_LSB] or first_of_block:
        wait(t, s, s[FETCHED_QUERY])
    wait_room(t, s, SOFTMAX_OF, g - s[QK_ROOM])
    scored = _multiply(t, s, KEY_DONE, BLOCK_DONE)
    wait_room(t, s, CONSUMER_OF, g - s[SOFTMAX_ROOM])
    wait(t, s, scored)
    probable = add_task(t, s, SOFTMAX, s[SOFTMAX_CYCLES])
    t[s[SOFTMAX_OF] + g] = probable
    return probable


@njit(cache=True)
def _score_again(t, s, requests, probable, kept, base, vector_bytes):  # type: ignore[no-untyped-def]
    """The probabilities are discarded: fetch the LSBs if no query of the row has, compute with all bits."""
    if s[FETCHED_LSB] == NONE:
        wait(t, s, probable)
        s[FETCHED_LSB] = transfer(t, s, requests, KEY_LSB, base, vector_bytes, kept)
        s[COUNTERS + LSB_ROWS] += 1
        s[COUNTERS + K_WRITE] += s[KEYS]
    wait(t, s, probable)
    wait(t, s, s[FETCHED_LSB])
    scored = _multiply(t, s, KEY_AGAIN, BLOCK_AGAIN)
    wait(t, s, scored)
    s[COUNTERS + RECOMPUTED] += 1
    s[COUNTERS + MACS_QK] += s[KEYS] * s[HEAD_SIZE]
    s[COUNTERS + SCORES] += s[KEYS]
    s[COUNTERS + K_READ] += s[KEYS]
    return add_task(t, s, SOFTMAX, s[SOFTMAX_CYCLES])


@njit(cache=True)
def _select(t, s, engine, after, n, found):  # type: ignore[no-untyped-def]
    """A top-k of n candidates: quick-select, then the zero eliminator behind it; returns both tasks.

    found   (cycles, passes, comparisons) of the quick-select
    """
    wait(t, s, after)
    selected = add_task(t, s, engine, found[0])
    wait(t, s, selected)
    s[COUNTERS + TOPK_PASSES] += found[1]
    s[COUNTERS + COMPARISONS] += found[2] + n
    return selected, add_task(t, s, engine + 1, filter_cycles(n, s[COMPARATORS]))


@njit(cache=True)
def _local_topk(t, s, q, probable):  # type: ignore[no-untyped-def]
    """Local value pruning of one probability row (section III-C); values are not recorded, ranks are drawn."""
    n, seed = s[KEYS], _seed(s[SEED], s[ROW], q)
    found = select_by_rank(n, s[VALUES], s[COMPARATORS], s[OVERHEAD], seed)
    selected, chosen = _select(t, s, VALUE_TOPK, probable, n, found)
    t[s[CONSUMER_OF] + s[FIRST_QUERY] + q] = selected
    return chosen


@njit(cache=True)
def _fetch_values(t, s, requests, chosen, kept, base, vector_bytes):  # type: ignore[no-untyped-def]
    """V of a generated token: only what its local top-k has kept."""
    wait(t, s, chosen)
    wait_room(t, s, VALUE_DONE, s[ROW] - s[VALUE_BUFFERS])
    places = kept[_spread(s[VALUES], s[KEYS])]
    s[FETCHED_VALUE] = transfer(t, s, requests, VALUE, base, vector_bytes, places)
    s[COUNTERS + V_WRITE] += s[VALUES]


@njit(cache=True)
def _weigh(t, s, q, chosen):  # type: ignore[no-untyped-def]
    """Prob x V of query q."""
    wait(t, s, chosen)
    if q == 0:
        wait(t, s, s[FETCHED_VALUE])
    weighted = add_task(t, s, PROB_VALUE, s[PV_CYCLES])
    consumer = s[CONSUMER_OF] + s[FIRST_QUERY] + q
    if t[consumer] == NONE:
        t[consumer] = weighted
    t[s[VALUE_DONE] + s[ROW]] = weighted


@njit(cache=True)
def _count_row(s):  # type: ignore[no-untyped-def]
    """What the row does apart from recomputation and top-k."""
    nq, nk, nv = s[QUERIES], s[KEYS], s[VALUES]
    s[COUNTERS + MACS_QK] += nq * nk * s[HEAD_SIZE]
    s[COUNTERS + MACS_PV] += nq * nv * s[HEAD_SIZE]
    s[COUNTERS + SCORES] += nq * nk
    s[COUNTERS + K_READ] += nq * nk
    s[COUNTERS + V_READ] += nq * nv
    s[COUNTERS + ACCUMULATIONS] += nq * nk


@njit(cache=True)
def _row(t, s, requests, kept, needs_lsb, base, vector_bytes):  # type: ignore[no-untyped-def]
    """One pass of one head: all its queries. Returns the task that has gathered its token importance."""
    _fetch_row(t, s, requests, kept, base, vector_bytes)
    last = again = NONE
    for q in range(s[QUERIES]):
        first_of_block = q % s[QUERY_BLOCK] == 0
        if first_of_block:
            _fetch_queries(t, s, requests, q, kept, base, vector_bytes)
        chosen = last = _score(t, s, q, first_of_block)
        if s[HAS_LSB] and needs_lsb[s[FIRST_QUERY] + q]:
            chosen = again = _score_again(t, s, requests, chosen, kept, base, vector_bytes)
        if s[VALUES] < s[KEYS]:
            chosen = _local_topk(t, s, q, chosen)
            if s[QUERIES] == 1:
                _fetch_values(t, s, requests, chosen, kept, base, vector_bytes)
        _weigh(t, s, q, chosen)
    _count_row(s)
    s[FIRST_QUERY] += s[QUERIES]
    if s[WRITE_OUTPUT]:
        wait(t, s, t[s[VALUE_DONE] + s[ROW]])
        places = kept[: s[QUERIES]] if s[QUERIES] > 1 else np.zeros(1, np.int64)
        transfer(t, s, requests, OUTPUT, base, vector_bytes, places)
    # each softmax lane has its accumulator: only the last row of probabilities adds time
    wait(t, s, last)
    wait(t, s, again)  # later queries overtake those that wait for their LSBs
    return add_task(t, s, ACCUMULATE, s[SOFTMAX_CYCLES])


@njit(cache=True)
def _cascade(t, s, gathered, tokens, keep_tokens, scores, heads, keep_heads):  # type: ignore[no-untyped-def]
    """Token and head top-k after a row (Alg. 2), on the engine they share; returns their last tasks."""
    engine = VALUE_TOPK if s[SHARED_ENGINE] else TOPK
    last_tokens, last_heads = NONE, NONE
    if keep_tokens > 0:
        seed = _seed(s[SEED], s[ROW], -1)
        if len(scores) > 0:
            found = select_by_value(scores, keep_tokens, s[COMPARATORS], s[OVERHEAD], seed)[:3]
        else:
            found = select_by_rank(tokens, keep_tokens, s[COMPARATORS], s[OVERHEAD], seed)
        last_tokens = _select(t, s, engine, gathered, tokens, found)[1]
    if keep_heads > 0:
        found = select_by_rank(heads, keep_heads, s[COMPARATORS], s[OVERHEAD], _seed(s[SEED], s[ROW], -2))
        last_heads = _select(t, s, engine, t[s[VALUE_DONE] + s[ROW]], heads, found)[1]
    return last_tokens, last_heads


@njit(cache=True)
def write_rows(  # type: ignore[no-untyped-def]
    t, s, requests, step, layer, length, queries, keys, values, key_set, set_ptr, set_index, needs_lsb, token_topk,
    token_candidates, head_topk, head_candidates, score_ptr, score, base, vector_bytes,
):  # fmt: skip
    """All rows, with a barrier after each layer."""
    for r in range(len(layer)):
        if key_set[r] >= 0:
            kept = set_index[set_ptr[key_set[r]] : set_ptr[key_set[r] + 1]]
        else:
            kept = _spread(keys[r], length[r])
        _begin_row(t, s, r, queries[r], keys[r], values[r])
        gathered = _row(t, s, requests, kept, needs_lsb, base[r], vector_bytes)
        tokens, heads = _cascade(
            t, s, gathered, token_candidates[r], token_topk[r], score[score_ptr[r] : score_ptr[r + 1]],
            head_candidates[r], head_topk[r],
        )  # fmt: skip
        if r + 1 == len(layer) or layer[r + 1] != layer[r] or step[r + 1] != step[r]:
            wait(t, s, gathered)
            wait(t, s, t[s[VALUE_DONE] + r])
            wait(t, s, tokens)
            wait(t, s, heads)
            s[GATE] = add_task(t, s, LAYER, 0)
