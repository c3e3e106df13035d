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
from typing import Any, NamedTuple

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
# counters of a plan
(MACS_QK, MACS_PV, SCORES, COMPARISONS, ACCUMULATIONS, K_WRITE, K_READ, V_WRITE, V_READ, LSB_ROWS, RECOMPUTED,
 TOPK_PASSES) = range(12)  # fmt: skip
# columns of the integer arrays that the jitted functions share: fill levels, machine, progress
TASKS, DEPS, SEGMENTS, SLICES = range(4)
(QK_MULTIPLIERS, PV_MULTIPLIERS, LANES, FIFO_SCORES, COMPARATORS, OVERHEAD, SEED, QUERY_BLOCK, QUERY_BLOCKS,
 KEY_BUFFERS, VALUE_BUFFERS, ACC_LANES, WRITE_OUTPUT, SHARED_ENGINE, HEAD_SIZE, HAS_LSB, QK_LATENCY,
 SOFTMAX_LATENCY) = range(18)  # fmt: skip
GATE, BLOCK, FIRST_QUERY, FETCHED_KEY, FETCHED_VALUE, FETCHED_QUERY, FETCHED_LSB, LAST_SOFTMAX = range(8)
NONE = -1


@dataclass(frozen=True)
class Lowered:
    """The plan of one sequence and what it does, as integer counters indexed by the names above."""

    plan: Plan
    counters: NDArray[np.int64]


class Draft(NamedTuple):
    """A plan that is being written, and the tasks that later ones must wait for."""

    unit: NDArray[np.int32]
    amount: NDArray[np.int32]
    ptr: NDArray[np.int32]
    dep: NDArray[np.int32]
    address: NDArray[np.int64]
    size: NDArray[np.int64]
    slice_ptr: NDArray[np.int64]
    write: NDArray[np.uint8]
    operand: NDArray[np.int64]
    n: NDArray[np.int64]  # fill levels
    counters: NDArray[np.int64]
    at: NDArray[np.int64]  # progress
    softmax_of: NDArray[np.int32]  # [queries] task that reads the score row of a query
    consumer_of: NDArray[np.int32]  # [queries] task that reads its probability row
    key_done: NDArray[np.int32]  # [rows] last task that reads K
    value_done: NDArray[np.int32]  # [rows] last task that reads V
    block_done: NDArray[np.int32]  # [blocks] last task that reads a block of Q


@njit(cache=True)
def _task(d, u, amount):  # type: ignore[no-untyped-def]
    """Add a task; it waits for what was named since the task before. Returns its index."""
    t = d.n[TASKS]
    d.unit[t], d.amount[t] = u, amount
    d.n[TASKS] = t + 1
    d.ptr[t + 1] = d.n[DEPS]
    return t


@njit(cache=True)
def _wait(d, task):  # type: ignore[no-untyped-def]
    """The next task waits for the result of `task`, if there is one."""
    if task >= 0:
        d.dep[d.n[DEPS]] = task
        d.n[DEPS] += 1


@njit(cache=True)
def _wait_room(d, done, i):  # type: ignore[no-untyped-def]
    """The next task waits until task done[i] has left its unit, if there is one."""
    if i >= 0 and done[i] >= 0:
        d.dep[d.n[DEPS]] = ~done[i]
        d.n[DEPS] += 1


@njit(cache=True)
def _transfer(d, operand, base, vector_bytes, positions):  # type: ignore[no-untyped-def]
    """Add a memory task for the vectors at those positions (ascending); neighbours make one segment."""
    number = d.n[SLICES]
    k = d.n[SEGMENTS]
    first = k
    for position in positions:
        at = base[operand] + position * vector_bytes[operand]
        if k > first and d.address[k - 1] + d.size[k - 1] == at:
            d.size[k - 1] += vector_bytes[operand]
        else:
            d.address[k], d.size[k] = at, vector_bytes[operand]
            k += 1
    d.n[SEGMENTS] = k
    d.operand[number], d.write[number] = operand, operand == OUTPUT
    d.slice_ptr[number + 1] = k
    d.n[SLICES] = number + 1
    return _task(d, FETCH, number)


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
def _fetch_row(d, k, r, prompt, kept, base, vector_bytes):  # type: ignore[no-untyped-def]
    """Fetch K of a row, and V where all its queries share it, into the next half of the double buffers."""
    _wait(d, d.at[GATE])
    _wait_room(d, d.key_done, r - k[KEY_BUFFERS])
    d.at[FETCHED_KEY] = _transfer(d, KEY, base, vector_bytes, kept)
    d.counters[K_WRITE] += len(kept)
    d.at[FETCHED_LSB], d.at[LAST_SOFTMAX] = NONE, NONE
    if prompt:
        _wait(d, d.at[GATE])
        _wait_room(d, d.value_done, r - k[VALUE_BUFFERS])
        d.at[FETCHED_VALUE] = _transfer(d, VALUE, base, vector_bytes, kept)
        d.counters[V_WRITE] += len(kept)


@njit(cache=True)
def _fetch_queries(d, k, places, base, vector_bytes):  # type: ignore[no-untyped-def]
    """Fetch the next block of Q vectors into the registers that the oldest block has left."""
    _wait(d, d.at[GATE])
    _wait_room(d, d.block_done, d.at[BLOCK] - k[QUERY_BLOCKS])
    d.at[FETCHED_QUERY] = _transfer(d, QUERY, base, vector_bytes, places)
    d.at[BLOCK] += 1


@njit(cache=True)
def _score(d, k, r, g, nk, first_of_row, first_of_block):  # type: ignore[no-untyped-def]
    """Q x K and softmax of query g; returns the softmax task. An in-order unit need not be told twice.

    A stage stops when the rows behind it fill its FIFO; its own pipeline holds the rows of its latency.
    """
    scores_cycles = _array_cycles(nk, k[HEAD_SIZE], k[QK_MULTIPLIERS])
    softmax_cycles = -(-nk // k[LANES])
    fifo_rows = max(2, k[FIFO_SCORES] // nk)
    if k[HAS_LSB] or first_of_row:
        _wait(d, d.at[FETCHED_KEY])
    if k[HAS_LSB] or first_of_block:
        _wait(d, d.at[FETCHED_QUERY])
    _wait_room(d, d.softmax_of, g - fifo_rows - -(-k[QK_LATENCY] // scores_cycles))
    scored = _task(d, QUERY_KEY, scores_cycles)
    _wait_room(d, d.consumer_of, g - fifo_rows - -(-k[SOFTMAX_LATENCY] // softmax_cycles))
    _wait(d, scored)
    d.softmax_of[g] = _task(d, SOFTMAX, softmax_cycles)
    d.key_done[r] = max(d.key_done[r], scored)
    d.block_done[d.at[BLOCK] - 1] = scored
    return d.softmax_of[g]


@njit(cache=True)
def _score_again(d, k, r, probable, kept, base, vector_bytes):  # type: ignore[no-untyped-def]
    """The probabilities are discarded: fetch the LSBs if no query of the row has, compute with all bits."""
    nk = len(kept)
    if d.at[FETCHED_LSB] == NONE:
        _wait(d, probable)
        d.at[FETCHED_LSB] = _transfer(d, KEY_LSB, base, vector_bytes, kept)
        d.counters[LSB_ROWS] += 1
        d.counters[K_WRITE] += nk
    _wait(d, probable)
    _wait(d, d.at[FETCHED_LSB])
    scored = _task(d, QUERY_KEY, _array_cycles(nk, k[HEAD_SIZE], k[QK_MULTIPLIERS]))
    d.key_done[r] = max(d.key_done[r], scored)
    d.block_done[d.at[BLOCK] - 1] = scored
    _wait(d, scored)
    d.counters[RECOMPUTED] += 1
    d.counters[MACS_QK] += nk * k[HEAD_SIZE]
    d.counters[SCORES] += nk
    d.counters[K_READ] += nk
    return _task(d, SOFTMAX, -(-nk // k[LANES]))


@njit(cache=True)
def _select(d, k, engine, filter_unit, after, n, cycles, passes, compared):  # type: ignore[no-untyped-def]
    """A top-k: quick-select on the engine, then its zero eliminator; returns (select task, filter task)."""
    _wait(d, after)
    selected = _task(d, engine, cycles)
    _wait(d, selected)
    d.counters[COMPARISONS] += compared + n
    d.counters[TOPK_PASSES] += passes
    return selected, _task(d, filter_unit, filter_cycles(n, k[COMPARATORS]))


@njit(cache=True)
def _local_topk(d, k, r, q, probable, nk, nv):  # type: ignore[no-untyped-def]
    """Local value pruning of one probability row (section III-C); values are not recorded, ranks are drawn."""
    cycles, passes, compared = select_by_rank(nk, nv, k[COMPARATORS], k[OVERHEAD], _seed(k[SEED], r, q + 1))
    selected, chosen = _select(d, k, VALUE_TOPK, VALUE_FILTER, probable, nk, cycles, passes, compared)
    d.consumer_of[d.at[FIRST_QUERY] + q] = selected
    return chosen


@njit(cache=True)
def _weigh(d, k, r, q, chosen, prompt, nv, kept, base, vector_bytes):  # type: ignore[no-untyped-def]
    """V of a generated token's row, and prob x V."""
    if not prompt:
        _wait(d, chosen)
        _wait_room(d, d.value_done, r - k[VALUE_BUFFERS])
        d.at[FETCHED_VALUE] = _transfer(d, VALUE, base, vector_bytes, kept[_spread(nv, len(kept))])
        d.counters[V_WRITE] += nv
    _wait(d, chosen)
    if q == 0:
        _wait(d, d.at[FETCHED_VALUE])
    weighted = _task(d, PROB_VALUE, _array_cycles(nv, k[HEAD_SIZE], k[PV_MULTIPLIERS]))
    g = d.at[FIRST_QUERY] + q
    if d.consumer_of[g] == NONE:
        d.consumer_of[g] = weighted
    d.value_done[r] = weighted


@njit(cache=True)
def _row(d, k, r, nq, nv, kept, needs_lsb, base, vector_bytes):  # type: ignore[no-untyped-def]
    """One pass of one head: all its queries."""
    nk, prompt = len(kept), nq > 1
    _fetch_row(d, k, r, prompt, kept, base, vector_bytes)
    for q in range(nq):
        first_of_block = q % k[QUERY_BLOCK] == 0
        if first_of_block:
            places = kept[q : min(q + k[QUERY_BLOCK], nq)] if prompt else np.zeros(1, np.int64)
            _fetch_queries(d, k, places, base, vector_bytes)
        g = d.at[FIRST_QUERY] + q
        probable = _score(d, k, r, g, nk, q == 0, first_of_block)
        if k[HAS_LSB] and needs_lsb[g]:
            probable = _score_again(d, k, r, probable, kept, base, vector_bytes)
        d.at[LAST_SOFTMAX] = max(d.at[LAST_SOFTMAX], probable)
        chosen = _local_topk(d, k, r, q, probable, nk, nv) if nv < nk else probable
        _weigh(d, k, r, q, chosen, prompt, nv, kept, base, vector_bytes)
    d.at[FIRST_QUERY] += nq
    d.counters[MACS_QK] += nq * nk * k[HEAD_SIZE]
    d.counters[MACS_PV] += nq * nv * k[HEAD_SIZE]
    d.counters[SCORES] += nq * nk
    d.counters[K_READ] += nq * nk
    d.counters[V_READ] += nq * nv
    d.counters[ACCUMULATIONS] += nq * (nk + k[HEAD_SIZE])
    if k[WRITE_OUTPUT]:
        _wait(d, d.value_done[r])
        _transfer(d, OUTPUT, base, vector_bytes, kept if prompt else np.zeros(1, np.int64))


@njit(cache=True)
def _cascade(d, k, r, gathered, n_tokens, keep_tokens, scores, n_heads, keep_heads):  # type: ignore[no-untyped-def]
    """Token and head top-k after a row (Alg. 2), on the engine they share; returns their last tasks."""
    engine, filter_unit = (VALUE_TOPK, VALUE_FILTER) if k[SHARED_ENGINE] else (TOPK, FILTER)
    tokens, heads = NONE, NONE
    if keep_tokens > 0:
        seed = _seed(k[SEED], r, 0)
        if len(scores) > 0:
            found = select_by_value(scores, keep_tokens, k[COMPARATORS], k[OVERHEAD], seed)[:3]
        else:
            found = select_by_rank(n_tokens, keep_tokens, k[COMPARATORS], k[OVERHEAD], seed)
        tokens = _select(d, k, engine, filter_unit, gathered, n_tokens, found[0], found[1], found[2])[1]
    if keep_heads > 0:
        found = select_by_rank(n_heads, keep_heads, k[COMPARATORS], k[OVERHEAD], _seed(~k[SEED], r, 0))
        heads = _select(d, k, engine, filter_unit, d.value_done[r], n_heads, found[0], found[1], found[2])[1]
    return tokens, heads


@njit(cache=True)
def _build(  # type: ignore[no-untyped-def]
    d, k, step, layer, length, queries, keys, values, key_set, set_ptr, set_index, needs_lsb, token_topk,
    token_candidates, head_topk, head_candidates, score_ptr, score, base, vector_bytes,
):  # fmt: skip
    """All rows, with a barrier after each layer."""
    for r in range(len(layer)):
        if key_set[r] >= 0:
            kept = set_index[set_ptr[key_set[r]] : set_ptr[key_set[r] + 1]]
        else:
            kept = _spread(keys[r], length[r])
        _row(d, k, r, queries[r], values[r], kept, needs_lsb, base[r], vector_bytes)
        _wait(d, d.at[LAST_SOFTMAX])
        gathered = _task(d, ACCUMULATE, -(-len(kept) // k[ACC_LANES]))
        tokens, heads = _cascade(
            d, k, r, gathered, token_candidates[r], token_topk[r], score[score_ptr[r] : score_ptr[r + 1]],
            head_candidates[r], head_topk[r],
        )  # fmt: skip
        if r + 1 == len(layer) or layer[r + 1] != layer[r] or step[r + 1] != step[r]:
            _wait(d, gathered)
            _wait(d, d.value_done[r])
            _wait(d, tokens)
            _wait(d, heads)
            d.at[GATE] = _task(d, LAYER, 0)


def _machine_numbers(machine: SpattenMachine, work: AttentionWork, has_lsb: bool) -> NDArray[np.int64]:
    u = machine.units
    return np.array(
        [u.query_key.multipliers, u.prob_value.multipliers, u.softmax.lanes, u.softmax.lanes * u.softmax.fifo_depth,
         u.topk.comparators, u.topk.pass_overhead_cycles, u.topk.seed, u.fetcher.query_block, u.fetcher.query_blocks,
         u.key_sram.buffers, u.value_sram.buffers, u.accumulator.lanes, machine.write_output, u.topk.engines == 1,
         work.head_size, has_lsb, u.query_key.latency_cycles, u.softmax.latency_cycles],
        np.int64,
    )  # fmt: skip


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


def _draft(work: AttentionWork, query_block: int) -> Draft:
    """Room for the largest plan that the work can make; what is not written costs no memory."""
    rows, queries, vectors = work.rows, int(work.queries.sum()), int(work.keys.sum())
    blocks = int((-(-work.queries // query_block)).sum())
    tasks, slices = 9 * rows + 7 * queries + blocks, 5 * rows + blocks
    segments = 4 * vectors + queries + rows

    def empty(size: int, kind: Any) -> NDArray[Any]:
        return np.empty(size, kind)

    def none(size: int) -> NDArray[np.int32]:
        return np.full(size, NONE, np.int32)

    draft = Draft(
        empty(tasks, np.int32), empty(tasks, np.int32), empty(tasks + 1, np.int32), empty(4 * tasks, np.int32),
        empty(segments, np.int64), empty(segments, np.int64), empty(slices + 1, np.int64), empty(slices, np.uint8),
        empty(slices, np.int64), np.zeros(4, np.int64), np.zeros(TOPK_PASSES + 1, np.int64), np.zeros(8, np.int64),
        none(queries), none(queries), none(rows), none(rows), none(blocks),
    )  # fmt: skip
    draft.ptr[0], draft.slice_ptr[0], draft.at[GATE] = 0, 0, NONE
    return draft


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


def plan_attention(machine: SpattenMachine, work: AttentionWork, align_bytes: int) -> Lowered:
    """The plan of one sequence. Planes in DRAM are aligned to `align_bytes` (one row of all channels).

    Raises ValueError where K or V of a head does not fit the on-chip buffer.
    """
    _check_sram(machine, work)
    has_lsb = bool(work.key_lsb_bits) and bool(work.needs_lsb.any())
    d = _draft(work, machine.units.fetcher.query_block)
    vector_bytes = _vector_bytes(work, machine.element_bits)
    _build(
        d, _machine_numbers(machine, work, has_lsb), work.step, work.layer, work.length, work.queries, work.keys,
        work.values, work.key_set, work.set_ptr, work.set_index, work.needs_lsb, work.token_topk,
        work.token_candidates, work.head_topk, work.head_candidates, work.score_ptr, work.score,
        _bases(work, vector_bytes, align_bytes), vector_bytes,
    )  # fmt: skip
    tasks, deps, segments, slices = (int(x) for x in d.n)
    fetched = Slices(
        d.slice_ptr[: slices + 1], d.address[:segments], d.size[:segments], d.write[:slices], d.operand[:slices], OPERANDS
    )
    plan = Plan(_units(machine, has_lsb), d.unit[:tasks], d.amount[:tasks], d.ptr[: tasks + 1], d.dep[:deps], FETCH, fetched)
    return Lowered(plan, d.counters)
