"""What a query, or a block of them, asks of each unit of a SpAtten machine: the timing rules of its stages."""

import numpy as np
from numba import njit

import dataflow.spatten.draft as D
from dataflow.spatten.draft import add_task, transfer, wait, wait_left, wait_read, wait_room
from dataflow.spatten.topk import filter_cycles, next_random, select_by_rank, select_by_value


@njit(cache=True)
def spread(count, among):  # type: ignore[no-untyped-def]
    """`count` of the positions 0..among-1, evenly spread: where a trace does not say which."""
    return np.arange(count) * among // count


@njit(cache=True)
def array_cycles(vectors, head_size, multipliers):  # type: ignore[no-untyped-def]
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
def begin_row(t, s, r, nq, nk, nv):  # type: ignore[no-untyped-def]
    """Note the sizes and stage times of a row.

    A stage stops when the rows behind it fill its FIFO; its own pipeline holds the rows of its latency.
    """
    s[D.ROW], s[D.QUERIES], s[D.KEYS], s[D.VALUES] = r, nq, nk, nv
    s[D.QK_CYCLES] = array_cycles(nk, s[D.HEAD_SIZE], s[D.QK_MULTIPLIERS])
    s[D.PV_CYCLES] = array_cycles(nv, s[D.HEAD_SIZE], s[D.PV_MULTIPLIERS])
    s[D.SOFTMAX_CYCLES] = -(-nk // s[D.LANES])
    fifo_rows = max(1, s[D.FIFO_SCORES] // nk)
    s[D.QK_ROOM] = fifo_rows - -s[D.QK_LATENCY] // s[D.QK_CYCLES]
    s[D.SOFTMAX_ROOM] = fifo_rows - -s[D.SOFTMAX_LATENCY] // s[D.SOFTMAX_CYCLES]
    s[D.FETCHED_LSB] = D.NONE


@njit(cache=True)
def fetch_keys(t, s, requests, places, base, vector_bytes):  # type: ignore[no-untyped-def]
    """Fetch K of a row, or a tile of it, into the next part of its multiple buffer."""
    wait(t, s, s[D.GATE])
    wait_read(t, s, D.KEY_FIRST, D.KEY_DONE, s[D.KEY_TILE] - s[D.KEY_BUFFERS])
    s[D.FETCHED_KEY] = transfer(t, s, requests, D.KEY, base, vector_bytes, places)
    t[s[D.KEY_FIRST] + s[D.KEY_TILE]] = s[D.FETCHED_KEY]
    s[D.COUNTERS + D.K_WRITE] += len(places)


@njit(cache=True)
def fetch_values(t, s, requests, after, places, base, vector_bytes):  # type: ignore[no-untyped-def]
    """Fetch V of a row, or a tile of it; `after`: the top-k that has chosen it, or the barrier of the layer."""
    wait(t, s, after)
    wait_room(t, s, D.VALUE_DONE, s[D.VALUE_TILE] - s[D.VALUE_BUFFERS])
    s[D.FETCHED_VALUE] = transfer(t, s, requests, D.VALUE, base, vector_bytes, places)
    s[D.COUNTERS + D.V_WRITE] += len(places)


@njit(cache=True)
def _query_places(s, kept, q, count):  # type: ignore[no-untyped-def]
    """Where `count` query vectors from the q-th on lie in their plane: those of a token's group side by side."""
    places = np.empty(count, np.int64)
    for i in range(count):
        token, member = (q + i) // s[D.GROUP], (q + i) % s[D.GROUP]
        places[i] = (kept[token] if s[D.QUERIES] > 1 else 0) * s[D.GROUP] + member
    return places


@njit(cache=True)
def fetch_queries(t, s, requests, q, count, kept, base, vector_bytes):  # type: ignore[no-untyped-def]
    """Fetch a block of Q vectors from the q-th on into the registers that the oldest block has left."""
    wait(t, s, s[D.GATE])
    wait_read(t, s, D.BLOCK_FIRST, D.BLOCK_DONE, s[D.BLOCK] - s[D.QUERY_BLOCKS])
    places = _query_places(s, kept, q, count)
    s[D.FETCHED_QUERY] = transfer(t, s, requests, D.QUERY, base, vector_bytes, places)
    t[s[D.BLOCK_FIRST] + s[D.BLOCK]] = s[D.FETCHED_QUERY]
    s[D.BLOCK] += 1


@njit(cache=True)
def multiply(t, s, cycles):  # type: ignore[no-untyped-def]
    """Q x K of one query; returns its task, which is now the last by index that reads K and the block of Q."""
    scored = add_task(t, s, D.QUERY_KEY, cycles)
    t[s[D.KEY_DONE] + s[D.KEY_TILE]] = scored
    t[s[D.BLOCK_DONE] + s[D.BLOCK] - 1] = scored
    return scored


@njit(cache=True)
def score(t, s, q, first_of_block):  # type: ignore[no-untyped-def]
    """Q x K and softmax of query q; returns the softmax task. An in-order unit need not be told twice."""
    g = s[D.FIRST_QUERY] + q
    if s[D.HAS_LSB] or q == 0:
        wait(t, s, s[D.FETCHED_KEY])
    if s[D.HAS_LSB] or first_of_block:
        wait(t, s, s[D.FETCHED_QUERY])
    wait_room(t, s, D.SOFTMAX_OF, g - s[D.QK_ROOM])
    scored = multiply(t, s, s[D.QK_CYCLES])
    return softmax(t, s, q, scored)


@njit(cache=True)
def softmax(t, s, q, scored):  # type: ignore[no-untyped-def]
    """Softmax of query q, whose last scores come from the task `scored`."""
    g = s[D.FIRST_QUERY] + q
    wait_room(t, s, D.CONSUMER_OF, g - s[D.SOFTMAX_ROOM])
    wait(t, s, scored)
    probable = add_task(t, s, D.SOFTMAX, s[D.SOFTMAX_CYCLES])
    t[s[D.SOFTMAX_OF] + g] = probable
    return probable


@njit(cache=True)
def score_again(t, s, requests, probable, kept, base, vector_bytes):  # type: ignore[no-untyped-def]
    """The probabilities are discarded: fetch the LSBs if no query of the row has, compute with all bits."""
    if s[D.FETCHED_LSB] == D.NONE:
        wait(t, s, probable)
        s[D.FETCHED_LSB] = transfer(t, s, requests, D.KEY_LSB, base, vector_bytes, kept)
        s[D.COUNTERS + D.LSB_ROWS] += 1
        s[D.COUNTERS + D.K_WRITE] += s[D.KEYS]
    wait(t, s, probable)
    wait(t, s, s[D.FETCHED_LSB])
    scored = multiply(t, s, s[D.QK_CYCLES])
    wait(t, s, scored)
    s[D.COUNTERS + D.RECOMPUTED] += 1
    s[D.COUNTERS + D.MACS_QK] += s[D.KEYS] * s[D.HEAD_SIZE]
    s[D.COUNTERS + D.SCORES] += s[D.KEYS]
    s[D.COUNTERS + D.K_READ] += s[D.KEYS]
    return add_task(t, s, D.SOFTMAX, s[D.SOFTMAX_CYCLES])


@njit(cache=True)
def _select(t, s, engine, after, n, found):  # type: ignore[no-untyped-def]
    """A top-k of n candidates: quick-select, then the zero eliminator behind it; returns both tasks.

    found   (cycles, passes, comparisons) of the quick-select
    """
    wait(t, s, after)
    selected = add_task(t, s, engine, found[0])
    wait(t, s, selected)
    s[D.COUNTERS + D.TOPK_PASSES] += found[1]
    s[D.COUNTERS + D.COMPARISONS] += found[2] + n
    return selected, add_task(t, s, engine + 1, filter_cycles(n, s[D.COMPARATORS]))


@njit(cache=True)
def local_topk(t, s, token, probable):  # type: ignore[no-untyped-def]
    """Local value pruning for one query token (section III-C); values are not recorded, ranks are drawn.

    probable   softmax tasks of the token's group [group]: the probabilities are summed over it as they come

    Behind a refetch queries keep their order (the released RTL): the two engines do, an arbitrated one is told.
    """
    n, group = s[D.KEYS], s[D.GROUP]
    found = select_by_rank(n, s[D.VALUES], s[D.COMPARATORS], s[D.OVERHEAD], _seed(s[D.SEED], s[D.ROW], token))
    for i in range(group - 1):
        wait(t, s, probable[i])
    if s[D.HAS_LSB] and s[D.SHARED_ENGINE]:
        wait_left(t, s, s[D.CHOSEN])
    selected, chosen = _select(t, s, D.VALUE_TOPK, probable[group - 1], n, found)
    for i in range(group):
        t[s[D.CONSUMER_OF] + s[D.FIRST_QUERY] + token * group + i] = selected
    s[D.CHOSEN] = selected
    return chosen


@njit(cache=True)
def weigh(t, s, q, chosen, first_of_values, cycles):  # type: ignore[no-untyped-def]
    """Prob x V of query q with the V that is there; returns its task."""
    wait(t, s, chosen)
    if first_of_values:
        wait(t, s, s[D.FETCHED_VALUE])
    weighted = add_task(t, s, D.PROB_VALUE, cycles)
    t[s[D.VALUE_DONE] + s[D.VALUE_TILE]] = weighted
    return weighted


@njit(cache=True)
def write_output(t, s, requests, after, kept, base, vector_bytes):  # type: ignore[no-untyped-def]
    """The attention outputs of a row go back to DRAM."""
    wait(t, s, after)
    places = _query_places(s, kept, 0, s[D.QUERIES] * s[D.GROUP])
    transfer(t, s, requests, D.OUTPUT, base, vector_bytes, places)


@njit(cache=True)
def gather(t, s, probable):  # type: ignore[no-untyped-def]
    """The importance of a row's tokens, complete; returns the task.

    probable   the softmax tasks that may be the last: of all queries where they overtake each other [.]

    Each softmax lane has its accumulator: only the last row of probabilities adds time.
    """
    for task in probable:
        wait(t, s, task)
    return add_task(t, s, D.ACCUMULATE, s[D.SOFTMAX_CYCLES])


@njit(cache=True)
def token_topk(t, s, gathered, candidates, keep, scores):  # type: ignore[no-untyped-def]
    """Cascade token top-k after a row (Alg. 2), by the scores where they are recorded; returns its last task."""
    seed = _seed(s[D.SEED], s[D.ROW], -1)
    if len(scores) > 0:
        found = select_by_value(scores, keep, s[D.COMPARATORS], s[D.OVERHEAD], seed)[:3]
    else:
        found = select_by_rank(candidates, keep, s[D.COMPARATORS], s[D.OVERHEAD], seed)
    return _select(t, s, _shared_engine(s), gathered, candidates, found)[1]


@njit(cache=True)
def head_topk(t, s, weighed, candidates, keep):  # type: ignore[no-untyped-def]
    """Cascade head top-k after the last prob x V of a layer; returns its last task."""
    seed = _seed(s[D.SEED], s[D.ROW], -2)
    found = select_by_rank(candidates, keep, s[D.COMPARATORS], s[D.OVERHEAD], seed)
    return _select(t, s, _shared_engine(s), weighed, candidates, found)[1]


@njit(cache=True)
def _shared_engine(s):  # type: ignore[no-untyped-def]
    """Token and head top-k share an engine, with the local one where the machine has only that."""
    return D.VALUE_TOPK if s[D.SHARED_ENGINE] else D.TOPK
