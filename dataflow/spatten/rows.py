"""The rows of a work as tasks: which stage follows which, for rows that fit the buffers and for rows in tiles."""

import numpy as np
from numba import njit

import dataflow.spatten.draft as D
from dataflow.spatten.draft import add_task, wait, wait_room
from dataflow.spatten.stages import (
    array_cycles,
    begin_row,
    fetch_keys,
    fetch_queries,
    fetch_values,
    gather,
    head_topk,
    local_topk,
    multiply,
    score,
    score_again,
    softmax,
    spread,
    token_topk,
    weigh,
    write_output,
)


@njit(cache=True)
def _count_row(s):  # type: ignore[no-untyped-def]
    """What the row does apart from recomputation and top-k."""
    nq, nk, nv = s[D.QUERIES] * s[D.GROUP], s[D.KEYS], s[D.VALUES]
    s[D.COUNTERS + D.MACS_QK] += nq * nk * s[D.HEAD_SIZE]
    s[D.COUNTERS + D.MACS_PV] += nq * nv * s[D.HEAD_SIZE]
    s[D.COUNTERS + D.SCORES] += nq * nk
    s[D.COUNTERS + D.K_READ] += nq * nk
    s[D.COUNTERS + D.V_READ] += nq * nv
    s[D.COUNTERS + D.ACCUMULATIONS] += nq * nk


@njit(cache=True)
def _row(t, s, requests, kept, needs_lsb, base, vector_bytes):  # type: ignore[no-untyped-def]
    """One pass of one head: all its queries, token by token. Returns the softmax tasks that may be the last.

    V is fetched ahead where all queries share it or nothing is selected, else after the local top-k.
    """
    group, selects = s[D.GROUP], s[D.VALUES] < s[D.KEYS]
    vectors = s[D.QUERIES] * group
    probable = np.empty(vectors, np.int64)
    fetch_keys(t, s, requests, kept, base, vector_bytes)
    if s[D.QUERIES] > 1 or not selects:
        fetch_values(t, s, requests, s[D.GATE], kept, base, vector_bytes)
    for q in range(vectors):
        first_of_block = q % s[D.QUERY_BLOCK] == 0
        if first_of_block:
            count = min(s[D.QUERY_BLOCK], vectors - q)
            fetch_queries(t, s, requests, q, count, kept, base, vector_bytes)
        probable[q] = score(t, s, q, first_of_block)
        if s[D.HAS_LSB] and needs_lsb[q]:
            probable[q] = score_again(t, s, requests, probable[q], kept, base, vector_bytes)
        if not selects:
            weighted = weigh(t, s, q, probable[q], q == 0, s[D.PV_CYCLES])
            t[s[D.CONSUMER_OF] + s[D.FIRST_QUERY] + q] = weighted
        elif (q + 1) % group == 0:
            chosen = local_topk(t, s, q // group, probable[q + 1 - group : q + 1])
            if s[D.QUERIES] == 1:
                places = kept[spread(s[D.VALUES], s[D.KEYS])]
                fetch_values(t, s, requests, chosen, places, base, vector_bytes)
            for i in range(q + 1 - group, q + 1):
                weigh(t, s, i, chosen, i == 0, s[D.PV_CYCLES])
    s[D.KEY_TILE] += 1
    s[D.VALUE_TILE] += 1
    return probable if s[D.HAS_LSB] else probable[vectors - 1 :]


@njit(cache=True)
def _tile_keys(t, s, requests, q, count, kept, base, vector_bytes):  # type: ignore[no-untyped-def]
    """Q x K of a block of queries, tile by tile; returns the first task of the last tile, the others follow it."""
    first = D.NONE
    for low in range(0, s[D.KEYS], s[D.TILE_KEYS]):
        places = kept[low : low + s[D.TILE_KEYS]]
        fetch_keys(t, s, requests, places, base, vector_bytes)
        cycles = array_cycles(len(places), s[D.HEAD_SIZE], s[D.QK_MULTIPLIERS])
        first = s[D.TASKS]
        for i in range(q, q + count):
            if i == q:
                wait(t, s, s[D.FETCHED_KEY])
            if i == q and low == 0:
                wait(t, s, s[D.FETCHED_QUERY])
            if low == 0:
                wait_room(t, s, D.CONSUMER_OF, s[D.FIRST_QUERY] + i - s[D.SCORE_ROOM] // s[D.KEYS])
            multiply(t, s, cycles)
        s[D.KEY_TILE] += 1
    return first


@njit(cache=True)
def _tile_values(t, s, requests, q, chosen, after, places, base, vector_bytes):  # type: ignore[no-untyped-def]
    """Prob x V of a block of queries, tile by tile. A score row is free when its last tile is through.

    chosen   task that each query's probabilities wait for [count]
    after    what the fetch waits for
    """
    used = 0
    for low in range(0, len(places), s[D.TILE_VALUES]):
        part = places[low : low + s[D.TILE_VALUES]]
        fetch_values(t, s, requests, after, part, base, vector_bytes)
        through = (low + len(part)) * s[D.VALUES] // len(places)  # a prompt's V is whole: its share of the chosen ones
        cycles = array_cycles(through - used, s[D.HEAD_SIZE], s[D.PV_MULTIPLIERS])
        used = through
        for i in range(len(chosen)):
            task = weigh(t, s, q + i, chosen[i] if low == 0 else D.NONE, i == 0, cycles)
            t[s[D.CONSUMER_OF] + s[D.FIRST_QUERY] + q + i] = task
        s[D.VALUE_TILE] += 1


@njit(cache=True)
def _tiled_row(t, s, requests, block, kept, base, vector_bytes):  # type: ignore[no-untyped-def]
    """One pass of one head whose K or V does not fit a buffer, block by block; returns its last softmax [1]."""
    group, selects, last = s[D.GROUP], s[D.VALUES] < s[D.KEYS], np.empty(1, np.int64)
    vectors, probable = s[D.QUERIES] * group, np.empty(block, np.int64)
    places, after = kept, s[D.GATE]
    for q in range(0, vectors, block):
        count = min(block, vectors - q)
        fetch_queries(t, s, requests, q, count, kept, base, vector_bytes)
        scored = _tile_keys(t, s, requests, q, count, kept, base, vector_bytes)
        for i in range(count):
            last[0] = probable[i] = softmax(t, s, q + i, scored + i)
        for i in range(0, count if selects else 0, group):
            probable[i : i + group] = local_topk(t, s, (q + i) // group, probable[i : i + group])
        if selects and s[D.QUERIES] == 1:
            places, after = kept[spread(s[D.VALUES], s[D.KEYS])], probable[0]
        _tile_values(t, s, requests, q, probable[:count], after, places, base, vector_bytes)
    s[D.COUNTERS + D.SCORE_WRITE] += 2 * vectors * s[D.KEYS]  # scores, then probabilities
    s[D.COUNTERS + D.SCORE_READ] += vectors * (s[D.KEYS] + s[D.VALUES])
    return last


@njit(cache=True)
def _wait_others(t, s, pipes, mine, column):  # type: ignore[no-untyped-def]
    """The next task waits for what the last rows of the other pipelines ended with."""
    for p in range(len(pipes)):
        if p != mine:
            wait(t, s, pipes[p, column - D.SOFTMAX_OF])


@njit(cache=True)
def _finish_row(t, s, requests, pipes, mine, probable, kept, base, vector_bytes):  # type: ignore[no-untyped-def]
    """Count the row, write its output, gather its importance."""
    _count_row(s)
    s[D.FIRST_QUERY] += s[D.QUERIES] * s[D.GROUP]
    s[D.WEIGHED] = t[s[D.VALUE_DONE] + s[D.VALUE_TILE] - 1]
    if s[D.WRITE_OUTPUT]:
        write_output(t, s, requests, s[D.WEIGHED], kept, base, vector_bytes)
    s[D.GATHERED] = gather(t, s, probable)
    if len(pipes) > 1:
        pipes[mine] = s[D.SOFTMAX_OF : D.QK_MULTIPLIERS]


@njit(cache=True)
def _cascade(t, s, pipes, mine, tokens, keep_tokens, scores, heads, keep_heads):  # type: ignore[no-untyped-def]
    """Token and head top-k after a row, when all pipelines have finished theirs; returns their last tasks."""
    last_tokens = last_heads = D.NONE
    if keep_tokens > 0:
        _wait_others(t, s, pipes, mine, D.GATHERED)
        last_tokens = token_topk(t, s, s[D.GATHERED], tokens, keep_tokens, scores)
    if keep_heads > 0:
        _wait_others(t, s, pipes, mine, D.WEIGHED)
        last_heads = head_topk(t, s, s[D.WEIGHED], heads, keep_heads)
    return last_tokens, last_heads


@njit(cache=True)
def write_rows(  # type: ignore[no-untyped-def]
    t, s, pipes, requests, step, layer, length, queries, keys, values, key_set, set_ptr, set_index, needs_lsb,
    token_topk_of, token_candidates, head_topk_of, head_candidates, score_ptr, scores, block, base, vector_bytes,
):  # fmt: skip
    """All rows, with a barrier after each layer; the heads of a layer go to the pipelines in turn.

    pipes   int64 [pipelines, .]: the columns SOFTMAX_OF to UNIT_OFFSET of s for each of them
    block   int64 [rows]: see `dataflow.spatten.tiles.Tiling`
    """
    first = flags = mine = 0
    for r in range(len(layer)):
        if key_set[r] >= 0:  # noqa: SIM108
            kept = set_index[set_ptr[key_set[r]] : set_ptr[key_set[r] + 1]]
        else:
            kept = spread(keys[r], length[r])
        if len(pipes) > 1:
            mine = (r - first) % len(pipes)
            s[D.SOFTMAX_OF : D.QK_MULTIPLIERS] = pipes[mine]
        begin_row(t, s, r, queries[r], keys[r], values[r])
        if block[r] > 0:
            probable = _tiled_row(t, s, requests, block[r], kept, base[r], vector_bytes)
        else:
            probable = _row(t, s, requests, kept, needs_lsb[flags:], base[r], vector_bytes)
        flags += queries[r] * s[D.GROUP]
        _finish_row(t, s, requests, pipes, mine, probable, kept, base[r], vector_bytes)
        tokens, heads = _cascade(
            t, s, pipes, mine, token_candidates[r], token_topk_of[r], scores[score_ptr[r] : score_ptr[r + 1]],
            head_candidates[r], head_topk_of[r],
        )  # fmt: skip
        if r + 1 == len(layer) or layer[r + 1] != layer[r] or step[r + 1] != step[r]:
            first = r + 1
            _wait_others(t, s, pipes, mine, D.GATHERED)
            _wait_others(t, s, pipes, mine, D.WEIGHED)
            wait(t, s, s[D.GATHERED])
            wait(t, s, s[D.WEIGHED])
            wait(t, s, tokens)
            wait(t, s, heads)
            s[D.GATE] = add_task(t, s, D.LAYER, 0)
