"""SpAtten as a Plan: the pipeline of Fig. 8 of arXiv 2012.09852, one task per stage and query.

Fetch K -> Q x K -> softmax -> largest-probability test -> (fetch LSBs, Q x K and softmax again) -> local value
top-k -> V -> prob x V; importance accumulators and the cascade top-k run beside it.

What overlaps, and why:
- A stage takes a query when the stage before has finished that query's row of scores: the released RTL holds
  the whole row in front of the decision (store and forward).  Stages work on different queries, of different
  heads too (section IV-A: the datapath is fully pipelined).
- The fetcher serves one request at a time, the one that has been ready longest (section IV-A; the RTL serves
  K and V in turn and prefers refetches); data of earlier requests may still be on their way back.
- K and V are prefetched into the other half of the double buffer (Table I): a fetch waits until the row
  `buffers` before has left its stage.
- Layers do not overlap: Q, K and V of a layer come from the output of the one before (the FC between them is
  not simulated), and its tokens from that layer's top-k.
- Rows of one query (generation) fetch only the V that local top-k has kept; longer rows (summarization) fetch
  all of V once and the top-k spares prob x V only.
- LSBs of a row are fetched once; each query below the threshold is computed again when they are there.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from accel.spatten import SpattenMachine
from dataflow.spatten.topk import filter_cycles, next_random, select_by_rank, select_by_value
from sim.plan import IN_ORDER, OLDEST_READY, Plan, Slices, Unit
from workloads.attention import AttentionWork

FETCH, QUERY_KEY, SOFTMAX, VALUE_TOPK, VALUE_FILTER, PROB_VALUE, ACCUMULATE, TOPK, FILTER, LAYER = range(10)
UNITS = ("fetcher", "query_key", "softmax", "value_topk", "value_filter", "prob_value", "accumulator", "topk",
         "topk_filter", "layer_barrier")  # fmt: skip
QUERY, KEY, KEY_LSB, VALUE, OUTPUT = range(5)
OPERANDS = ("query", "key", "key_lsb", "value", "output")
# Two integer arrays hold the plan that is being written: `t` (int32, as long as the plan needs, see `_lay_out`)
# and `s` (int64). More arrays cost more than the work when jitted functions hand them to each other.
# Columns of s: fill levels, where the parts of t begin, machine, progress, the row at hand, counters.
(TASKS, DEPS, SEGMENTS, SLICES, UNIT_AT, AMOUNT_AT, PTR_AT, DEP_AT, SOFTMAX_OF, CONSUMER_OF, KEY_DONE, VALUE_DONE,
 BLOCK_DONE, KEY_AGAIN, BLOCK_AGAIN, QK_MULTIPLIERS, PV_MULTIPLIERS, LANES, FIFO_SCORES, COMPARATORS, OVERHEAD, SEED,
 QUERY_BLOCK, QUERY_BLOCKS, KEY_BUFFERS, VALUE_BUFFERS, ACC_LANES, WRITE_OUTPUT, SHARED_ENGINE, HEAD_SIZE, HAS_LSB,
 QK_LATENCY, SOFTMAX_LATENCY, GATE, BLOCK, FIRST_QUERY, FETCHED_KEY, FETCHED_VALUE, FETCHED_QUERY, FETCHED_LSB,
 LAST_SOFTMAX, LAST_AGAIN, ROW, QUERIES, KEYS, VALUES, QK_CYCLES, SOFTMAX_CYCLES, PV_CYCLES, QK_ROOM, SOFTMAX_ROOM,
 COUNTERS) = range(52)  # fmt: skip
(MACS_QK, MACS_PV, SCORES, COMPARISONS, ACCUMULATIONS, K_WRITE, K_READ, V_WRITE, V_READ, LSB_ROWS, RECOMPUTED,
 TOPK_PASSES, COUNTER_COUNT) = range(13)  # fmt: skip
NONE = -1


@dataclass(frozen=True)
class Lowered:
    """The plan of one sequence and what it does, as integer counters indexed by the names above."""

    plan: Plan
    counters: NDArray[np.int64]


class Requests(NamedTuple):
    """Memory slices that are being written: segments, and the slices that they make."""

    address: NDArray[np.int64]
    size: NDArray[np.int64]
    slice_ptr: NDArray[np.int64]
    write: NDArray[np.uint8]
    operand: NDArray[np.int64]


@njit(cache=True)
def _task(t, s, u, amount):  # type: ignore[no-untyped-def]
    """Add a task; it waits for what was named since the task before. Returns its index."""
    i = s[TASKS]
    t[s[UNIT_AT] + i], t[s[AMOUNT_AT] + i] = u, amount
    s[TASKS] = i + 1
    t[s[PTR_AT] + i + 1] = s[DEPS]
    return i


@njit(cache=True)
def _wait(t, s, task):  # type: ignore[no-untyped-def]
    """The next task waits for the result of `task`, if there is one."""
    if task >= 0:
        t[s[DEP_AT] + s[DEPS]] = task
        s[DEPS] += 1


@njit(cache=True)
def _wait_room(t, s, table, i):  # type: ignore[no-untyped-def]
    """The next task waits until the i-th task of a table has left its unit, if there is one."""
    if i >= 0 and t[s[table] + i] >= 0:
        t[s[DEP_AT] + s[DEPS]] = ~t[s[table] + i]
        s[DEPS] += 1


@njit(cache=True)
def _transfer(t, s, requests, operand, base, vector_bytes, positions):  # type: ignore[no-untyped-def]
    """Add a memory task for the vectors at those positions (ascending); neighbours make one segment."""
    number, k, length = s[SLICES], s[SEGMENTS], vector_bytes[operand]
    first = k
    for position in positions:
        at = base[operand] + position * length
        if k > first and requests.address[k - 1] + requests.size[k - 1] == at:
            requests.size[k - 1] += length
        else:
            requests.address[k], requests.size[k] = at, length
            k += 1
    requests.operand[number], requests.write[number] = operand, operand == OUTPUT
    requests.slice_ptr[number + 1] = k
    s[SEGMENTS], s[SLICES] = k, number + 1
    return _task(t, s, FETCH, number)


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
    mixed = np.uint64(seed) ^ (np.uint64(row) << np.uint64(24)) ^ (np.uint64(query) << np.uint64(1))
    return next_random(mixed)[1]


@njit(cache=True)
def _begin_row(t, s, r, nq, nk, nv):  # type: ignore[no-untyped-def]
    """Note the sizes and stage times of a row.

    A stage stops when the rows behind it fill its FIFO; its own pipeline holds the rows of its latency.
    """
    s[ROW], s[QUERIES], s[KEYS], s[VALUES] = r, nq, nk, nv
    s[QK_CYCLES] = _array_cycles(nk, s[HEAD_SIZE], s[QK_MULTIPLIERS])
    s[PV_CYCLES] = _array_cycles(nv, s[HEAD_SIZE], s[PV_MULTIPLIERS])
    s[SOFTMAX_CYCLES] = -(-nk // s[LANES])
    fifo_rows = max(2, s[FIFO_SCORES] // nk)
    s[QK_ROOM] = fifo_rows - -s[QK_LATENCY] // s[QK_CYCLES]
    s[SOFTMAX_ROOM] = fifo_rows - -s[SOFTMAX_LATENCY] // s[SOFTMAX_CYCLES]
    s[FETCHED_LSB], s[LAST_SOFTMAX], s[LAST_AGAIN] = NONE, NONE, NONE


@njit(cache=True)
def _fetch_row(t, s, requests, kept, base, vector_bytes):  # type: ignore[no-untyped-def]
    """Fetch K of a row, and V where all its queries share it, into the next half of the double buffers."""
    _wait(t, s, s[GATE])
    _wait_room(t, s, KEY_DONE, s[ROW] - s[KEY_BUFFERS])
    _wait_room(t, s, KEY_AGAIN, s[ROW] - s[KEY_BUFFERS])
    s[FETCHED_KEY] = _transfer(t, s, requests, KEY, base, vector_bytes, kept)
    s[COUNTERS + K_WRITE] += s[KEYS]
    if s[QUERIES] > 1:
        _wait(t, s, s[GATE])
        _wait_room(t, s, VALUE_DONE, s[ROW] - s[VALUE_BUFFERS])
        s[FETCHED_VALUE] = _transfer(t, s, requests, VALUE, base, vector_bytes, kept)
        s[COUNTERS + V_WRITE] += s[KEYS]


@njit(cache=True)
def _fetch_queries(t, s, requests, q, kept, base, vector_bytes):  # type: ignore[no-untyped-def]
    """Fetch the block of Q vectors from query q on into the registers that the oldest block has left."""
    _wait(t, s, s[GATE])
    _wait_room(t, s, BLOCK_DONE, s[BLOCK] - s[QUERY_BLOCKS])
    _wait_room(t, s, BLOCK_AGAIN, s[BLOCK] - s[QUERY_BLOCKS])
    places = kept[q : min(q + s[QUERY_BLOCK], s[QUERIES])] if s[QUERIES] > 1 else np.zeros(1, np.int64)
    s[FETCHED_QUERY] = _transfer(t, s, requests, QUERY, base, vector_bytes, places)
    s[BLOCK] += 1


@njit(cache=True)
def _multiply(t, s, of_row, of_block):  # type: ignore[no-untyped-def]
    """Q x K of one query; returns its task, which is now the last of its pass that reads K and the block of Q.

    of_row, of_block   tables of those last tasks: the first pass and the one with all bits overtake each other
    """
    scored = _task(t, s, QUERY_KEY, s[QK_CYCLES])
    t[s[of_row] + s[ROW]] = scored
    t[s[of_block] + s[BLOCK] - 1] = scored
    return scored


@njit(cache=True)
def _score(t, s, q, first_of_block):  # type: ignore[no-untyped-def]
    """Q x K and softmax of query q; returns the softmax task. An in-order unit need not be told twice."""
    g = s[FIRST_QUERY] + q
    if s[HAS_LSB] or q == 0:
        _wait(t, s, s[FETCHED_KEY])
    if s[HAS_LSB] or first_of_block:
        _wait(t, s, s[FETCHED_QUERY])
    _wait_room(t, s, SOFTMAX_OF, g - s[QK_ROOM])
    scored = _multiply(t, s, KEY_DONE, BLOCK_DONE)
    _wait_room(t, s, CONSUMER_OF, g - s[SOFTMAX_ROOM])
    _wait(t, s, scored)
    probable = _task(t, s, SOFTMAX, s[SOFTMAX_CYCLES])
    t[s[SOFTMAX_OF] + g] = probable
    return probable


@njit(cache=True)
def _score_again(t, s, requests, probable, kept, base, vector_bytes):  # type: ignore[no-untyped-def]
    """The probabilities are discarded: fetch the LSBs if no query of the row has, compute with all bits."""
    if s[FETCHED_LSB] == NONE:
        _wait(t, s, probable)
        s[FETCHED_LSB] = _transfer(t, s, requests, KEY_LSB, base, vector_bytes, kept)
        s[COUNTERS + LSB_ROWS] += 1
        s[COUNTERS + K_WRITE] += s[KEYS]
    _wait(t, s, probable)
    _wait(t, s, s[FETCHED_LSB])
    scored = _multiply(t, s, KEY_AGAIN, BLOCK_AGAIN)
    _wait(t, s, scored)
    s[COUNTERS + RECOMPUTED] += 1
    s[COUNTERS + MACS_QK] += s[KEYS] * s[HEAD_SIZE]
    s[COUNTERS + SCORES] += s[KEYS]
    s[COUNTERS + K_READ] += s[KEYS]
    return _task(t, s, SOFTMAX, s[SOFTMAX_CYCLES])


@njit(cache=True)
def _select(t, s, engine, after, n, found):  # type: ignore[no-untyped-def]
    """A top-k of n candidates: quick-select, then the zero eliminator behind it; returns both tasks.

    found   (cycles, passes, comparisons) of the quick-select
    """
    _wait(t, s, after)
    selected = _task(t, s, engine, found[0])
    _wait(t, s, selected)
    s[COUNTERS + TOPK_PASSES] += found[1]
    s[COUNTERS + COMPARISONS] += found[2] + n
    return selected, _task(t, s, engine + 1, filter_cycles(n, s[COMPARATORS]))


@njit(cache=True)
def _local_topk(t, s, q, probable):  # type: ignore[no-untyped-def]
    """Local value pruning of one probability row (section III-C); values are not recorded, ranks are drawn."""
    n, seed = s[KEYS], _seed(s[SEED], s[ROW], q + 1)
    found = select_by_rank(n, s[VALUES], s[COMPARATORS], s[OVERHEAD], seed)
    selected, chosen = _select(t, s, VALUE_TOPK, probable, n, found)
    t[s[CONSUMER_OF] + s[FIRST_QUERY] + q] = selected
    return chosen


@njit(cache=True)
def _fetch_values(t, s, requests, chosen, kept, base, vector_bytes):  # type: ignore[no-untyped-def]
    """V of a generated token: only what its local top-k has kept."""
    _wait(t, s, chosen)
    _wait_room(t, s, VALUE_DONE, s[ROW] - s[VALUE_BUFFERS])
    places = kept[_spread(s[VALUES], s[KEYS])]
    s[FETCHED_VALUE] = _transfer(t, s, requests, VALUE, base, vector_bytes, places)
    s[COUNTERS + V_WRITE] += s[VALUES]


@njit(cache=True)
def _weigh(t, s, q, chosen):  # type: ignore[no-untyped-def]
    """Prob x V of query q."""
    _wait(t, s, chosen)
    if q == 0:
        _wait(t, s, s[FETCHED_VALUE])
    weighted = _task(t, s, PROB_VALUE, s[PV_CYCLES])
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
    s[COUNTERS + ACCUMULATIONS] += nq * (nk + s[HEAD_SIZE])


@njit(cache=True)
def _row(t, s, requests, kept, needs_lsb, base, vector_bytes):  # type: ignore[no-untyped-def]
    """One pass of one head: all its queries. Returns the task that has gathered its token importance."""
    _fetch_row(t, s, requests, kept, base, vector_bytes)
    for q in range(s[QUERIES]):
        first_of_block = q % s[QUERY_BLOCK] == 0
        if first_of_block:
            _fetch_queries(t, s, requests, q, kept, base, vector_bytes)
        chosen = _score(t, s, q, first_of_block)
        s[LAST_SOFTMAX] = chosen
        if s[HAS_LSB] and needs_lsb[s[FIRST_QUERY] + q]:
            chosen = _score_again(t, s, requests, chosen, kept, base, vector_bytes)
            s[LAST_AGAIN] = chosen
        if s[VALUES] < s[KEYS]:
            chosen = _local_topk(t, s, q, chosen)
        if s[QUERIES] == 1:
            _fetch_values(t, s, requests, chosen, kept, base, vector_bytes)
        _weigh(t, s, q, chosen)
    _count_row(s)
    s[FIRST_QUERY] += s[QUERIES]
    if s[WRITE_OUTPUT]:
        _wait(t, s, t[s[VALUE_DONE] + s[ROW]])
        places = kept if s[QUERIES] > 1 else np.zeros(1, np.int64)
        _transfer(t, s, requests, OUTPUT, base, vector_bytes, places)
    _wait(t, s, s[LAST_SOFTMAX])
    _wait(t, s, s[LAST_AGAIN])  # later queries overtake those that wait for their LSBs
    return _task(t, s, ACCUMULATE, -(-s[KEYS] // s[ACC_LANES]))


@njit(cache=True)
def _cascade(t, s, gathered, tokens, keep_tokens, scores, heads, keep_heads):  # type: ignore[no-untyped-def]
    """Token and head top-k after a row (Alg. 2), on the engine they share; returns their last tasks."""
    engine = VALUE_TOPK if s[SHARED_ENGINE] else TOPK
    last_tokens, last_heads = NONE, NONE
    if keep_tokens > 0:
        seed = _seed(s[SEED], s[ROW], 0)
        if len(scores) > 0:
            found = select_by_value(scores, keep_tokens, s[COMPARATORS], s[OVERHEAD], seed)[:3]
        else:
            found = select_by_rank(tokens, keep_tokens, s[COMPARATORS], s[OVERHEAD], seed)
        last_tokens = _select(t, s, engine, gathered, tokens, found)[1]
    if keep_heads > 0:
        found = select_by_rank(heads, keep_heads, s[COMPARATORS], s[OVERHEAD], _seed(~s[SEED], s[ROW], 0))
        last_heads = _select(t, s, engine, t[s[VALUE_DONE] + s[ROW]], heads, found)[1]
    return last_tokens, last_heads


@njit(cache=True)
def _build(  # type: ignore[no-untyped-def]
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
            _wait(t, s, gathered)
            _wait(t, s, t[s[VALUE_DONE] + r])
            _wait(t, s, tokens)
            _wait(t, s, heads)
            s[GATE] = _task(t, s, LAYER, 0)


def _lay_out(s: NDArray[np.int64], work: AttentionWork, blocks: int) -> NDArray[np.int32]:
    """Where the parts of t begin, with room for the largest plan that the work can make; returns t."""
    rows, queries = work.rows, int(work.queries.sum())
    tasks = 9 * rows + 7 * queries + blocks
    sizes = {UNIT_AT: tasks, AMOUNT_AT: tasks, PTR_AT: tasks + 1, DEP_AT: 4 * tasks}
    tables = {SOFTMAX_OF: queries, CONSUMER_OF: queries, KEY_DONE: rows, VALUE_DONE: rows, BLOCK_DONE: blocks,
              KEY_AGAIN: rows, BLOCK_AGAIN: blocks}  # fmt: skip
    at = 0
    for column, size in (sizes | tables).items():
        s[column] = at
        at += size
    t = np.empty(at, np.int32)
    t[s[SOFTMAX_OF] :] = NONE
    t[s[PTR_AT]] = 0
    return t


def _requests(work: AttentionWork, blocks: int) -> Requests:
    slices = 5 * work.rows + blocks
    segments = 4 * int(work.keys.sum()) + int(work.queries.sum()) + work.rows
    address, size = np.empty(segments, np.int64), np.empty(segments, np.int64)
    operand = np.empty(slices, np.int64)
    return Requests(address, size, np.zeros(slices + 1, np.int64), np.empty(slices, np.uint8), operand)


def _start(machine: SpattenMachine, work: AttentionWork, has_lsb: bool) -> NDArray[np.int64]:
    """The array s of a plan without tasks."""
    u = machine.units
    s = np.zeros(COUNTERS + COUNTER_COUNT, np.int64)
    s[QK_MULTIPLIERS : SOFTMAX_LATENCY + 1] = (
        u.query_key.multipliers, u.prob_value.multipliers, u.softmax.lanes, u.softmax.lanes * u.softmax.fifo_depth,
        u.topk.comparators, u.topk.pass_overhead_cycles, u.topk.seed, u.fetcher.query_block, u.fetcher.query_blocks,
        u.key_sram.buffers, u.value_sram.buffers, u.accumulator.lanes, machine.write_output, u.topk.engines == 1,
        work.head_size, has_lsb, u.query_key.latency_cycles, u.softmax.latency_cycles,
    )  # fmt: skip
    s[GATE] = NONE
    return s


def _vector_bytes(work: AttentionWork, element_bits: int) -> NDArray[np.int64]:
    """Bytes of one vector in DRAM, by operand."""
    bits = (work.query_bits, work.key_msb_bits, work.key_lsb_bits, work.value_bits, element_bits)
    return -(-np.array(bits, np.int64) * work.head_size // 8)


def _bases(work: AttentionWork, vector_bytes: NDArray[np.int64], align: int) -> NDArray[np.int64]:
    """Where each operand of each row begins: one contiguous plane per operand, layer and head [rows, operands].

    MSBs and LSBs of K lie in separate planes (section III-D).
    """
    tokens = int(work.length.max())
    plane = -(-vector_bytes * tokens // align) * align
    start = np.concatenate([[0], np.cumsum(plane)[:-1]])
    heads = int(work.head.max()) + 1
    number = work.layer * heads + work.head
    return number[:, None] * int(plane.sum()) + start


def _check_sram(machine: SpattenMachine, work: AttentionWork) -> None:
    """A head's K (V) must fit one buffer. Raises ValueError: longer contexts need tiling, which this machine lacks."""
    most = int(work.keys.max()) * -(-work.head_size * machine.element_bits // 8)
    for name, sram in (("key_sram", machine.units.key_sram), ("value_sram", machine.units.value_sram)):
        if most > sram.bytes // sram.buffers:
            raise ValueError(
                f"{machine.name}: units.{name}.bytes: one of {sram.buffers} buffers must hold the {most} bytes of "
                f"{int(work.keys.max())} vectors of {work.head_size} elements, got {sram.bytes // sram.buffers}"
            )


def _units(machine: SpattenMachine, has_lsb: bool) -> tuple[Unit, ...]:
    """Static quantization leaves nothing to reorder: Q x K and softmax then take the queries as they come."""
    u = machine.units
    latency = {FETCH: u.fetcher.latency_cycles, QUERY_KEY: u.query_key.latency_cycles}
    latency |= {SOFTMAX: u.softmax.latency_cycles, PROB_VALUE: u.prob_value.latency_cycles}
    arbitrated = {FETCH, TOPK, VALUE_TOPK, FILTER, VALUE_FILTER} if u.topk.engines == 1 else {FETCH}
    if has_lsb:
        arbitrated |= {QUERY_KEY, SOFTMAX}
    return tuple(
        Unit(name, 1, OLDEST_READY if i in arbitrated else IN_ORDER, latency.get(i, 0)) for i, name in enumerate(UNITS)
    )


def _plan(t: NDArray[np.int32], s: NDArray[np.int64], requests: Requests, units: tuple[Unit, ...]) -> Plan:
    """The arrays that have been filled, as a Plan."""
    tasks, deps, segments, slices = (int(n) for n in s[: SLICES + 1])

    def part(column: int, size: int) -> NDArray[np.int32]:
        return t[s[column] : s[column] + size]

    fetched = Slices(
        requests.slice_ptr[: slices + 1], requests.address[:segments], requests.size[:segments],
        requests.write[:slices], requests.operand[:slices], OPERANDS,
    )  # fmt: skip
    arrays = part(UNIT_AT, tasks), part(AMOUNT_AT, tasks), part(PTR_AT, tasks + 1), part(DEP_AT, deps)
    return Plan(units, *arrays, FETCH, fetched)


def plan_attention(machine: SpattenMachine, work: AttentionWork, align_bytes: int) -> Lowered:
    """The plan of one sequence. Planes in DRAM are aligned to `align_bytes` (one row of all channels).

    Raises ValueError where K or V of a head does not fit the on-chip buffer.
    """
    _check_sram(machine, work)
    has_lsb = bool(work.key_lsb_bits) and bool(work.needs_lsb.any())
    blocks = int((-(-work.queries // machine.units.fetcher.query_block)).sum())
    s = _start(machine, work, has_lsb)
    t, requests = _lay_out(s, work, blocks), _requests(work, blocks)
    vector_bytes = _vector_bytes(work, machine.element_bits)
    _build(
        t, s, requests, work.step, work.layer, work.length, work.queries, work.keys, work.values, work.key_set,
        work.set_ptr, work.set_index, work.needs_lsb, work.token_topk, work.token_candidates, work.head_topk,
        work.head_candidates, work.score_ptr, work.score, _bases(work, vector_bytes, align_bytes), vector_bytes,
    )  # fmt: skip
    return Lowered(_plan(t, s, requests, _units(machine, has_lsb)), s[COUNTERS:])
