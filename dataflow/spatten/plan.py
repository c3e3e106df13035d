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
- Query heads that share a K/V head make one row: K is fetched once for all of them, V for the ones that their summed
  probability keeps. Rows that do not fit the buffers are cut (`dataflow/spatten/tiles.py`).
- Several pipelines share the fetcher and the memory; they take the rows of a layer in turn and wait for each other in
  front of the cascade top-k and at the end of the layer.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accel.spatten import SpattenMachine
from dataflow.spatten.draft import (
    AMOUNT_AT,
    BLOCK_DONE,
    BLOCK_FIRST,
    CHOSEN,
    CONSUMER_OF,
    COUNTER_COUNT,
    COUNTERS,
    DEP_AT,
    FETCH,
    FILTER,
    GATE,
    GATHERED,
    HAS_LSB,
    KEY_DONE,
    KEY_FIRST,
    LAYER,
    NONE,
    OPERANDS,
    OUTPUT,
    PROB_VALUE,
    PTR_AT,
    QK_MULTIPLIERS,
    QUERY,
    QUERY_KEY,
    SCORE_ROOM,
    SLICES,
    SOFTMAX,
    SOFTMAX_OF,
    TOPK,
    UNIT_AT,
    UNIT_OFFSET,
    UNITS,
    VALUE_DONE,
    VALUE_FILTER,
    VALUE_TOPK,
    WEIGHED,
    Requests,
)
from dataflow.spatten.rows import write_rows
from dataflow.spatten.tiles import Tiling, scores_of_the_buffer, tiling, vectors_of_a_buffer
from sim.plan import IN_ORDER, OLDEST_READY, Plan, Slices, Unit
from workloads.attention import AttentionWork


@dataclass(frozen=True)
class Lowered:
    """The plan of one sequence and what it does, as integer counters indexed by the names above."""

    plan: Plan
    counters: NDArray[np.int64]


def _lay_out(
    s: NDArray[np.int64], pipes: NDArray[np.int64], work: AttentionWork, tiles: Tiling, blocks: int
) -> NDArray[np.int32]:
    """Where the parts of t begin, with room for the largest plan that the work can make; returns t.

    Each pipeline has tables of its own: their places go to s, or to `pipes` where there are several.
    """
    rows, vectors = work.rows, work.queries * work.group
    per_fetch = tiles.key_tiles + tiles.value_tiles
    tiled = int(((vectors + tiles.blocks) * per_fetch)[tiles.block > 0].sum())
    tasks = 9 * rows + 9 * int(vectors.sum()) + blocks + tiled
    at = 0
    sizes = {UNIT_AT: tasks, AMOUNT_AT: tasks, PTR_AT: tasks + 1, DEP_AT: 4 * tasks + 4 * len(pipes) * rows}
    if s[HAS_LSB]:
        sizes[DEP_AT] += _deps_of_overtaking(work)
    for column, size in sizes.items():
        s[column] = at
        at += size
    queries = int(vectors.sum())
    key_fetches, value_fetches = (int((tiles.blocks * n).sum()) for n in (tiles.key_tiles, tiles.value_tiles))
    tables = {SOFTMAX_OF: queries, CONSUMER_OF: queries, KEY_DONE: key_fetches, VALUE_DONE: value_fetches,
              BLOCK_DONE: blocks, KEY_FIRST: key_fetches, BLOCK_FIRST: blocks}  # fmt: skip
    first = at
    for pipe in pipes:
        for column, size in tables.items():
            pipe[column - SOFTMAX_OF] = at
            at += size
    s[SOFTMAX_OF:QK_MULTIPLIERS] = pipes[0]
    t = np.empty(at, np.int32)
    t[first:] = NONE
    t[s[PTR_AT]] = 0
    return t


def _deps_of_overtaking(work: AttentionWork) -> int:
    """What more is waited for where queries overtake each other: all Q x K tasks of a K buffer and of a block of Q,
    the softmax of each query, the local top-k before."""
    vectors, again = int((work.queries * work.group).sum()), int(np.count_nonzero(work.needs_lsb))
    return 2 * (vectors + again) + 2 * vectors


def _pipes(count: int) -> NDArray[np.int64]:
    """State of the pipelines before the first row."""
    pipes = np.zeros((count, QK_MULTIPLIERS - SOFTMAX_OF), np.int64)
    pipes[:, np.array([GATHERED, WEIGHED, CHOSEN]) - SOFTMAX_OF] = NONE
    pipes[1:, UNIT_OFFSET - SOFTMAX_OF] = [_offset(p) for p in range(1, count)]
    return pipes


def _offset(pipeline: int) -> int:
    """Behind the units of the first pipeline, the fetcher's and the barrier's among them, come those of the others."""
    return len(UNITS) - QUERY_KEY + (pipeline - 1) * (LAYER - QUERY_KEY)


def _requests(work: AttentionWork, tiles: Tiling, blocks: int) -> Requests:
    fetches = tiles.blocks * (tiles.key_tiles + tiles.value_tiles)
    slices = 5 * work.rows + blocks + int(fetches.sum())
    pieces = np.where(work.keys == work.length, fetches, tiles.blocks * 2 * work.keys)[tiles.block > 0]
    segments = 4 * int(work.keys.sum()) + 2 * int((work.queries * work.group).sum()) + work.rows + int(pieces.sum())
    address, size = np.empty(segments, np.int64), np.empty(segments, np.int64)
    operand = np.empty(slices, np.int64)
    return Requests(address, size, np.zeros(slices + 1, np.int64), np.empty(slices, np.uint8), operand)


def _mix(seed: int, name: str) -> int:
    """Another seed for each sequence, so that their draws are independent."""
    return (seed << 32) + zlib.crc32(name.encode())


def _start(machine: SpattenMachine, work: AttentionWork, has_lsb: bool) -> NDArray[np.int64]:
    """The array s of a plan without tasks."""
    u = machine.units
    s = np.zeros(COUNTERS + COUNTER_COUNT, np.int64)
    s[QK_MULTIPLIERS : SCORE_ROOM + 1] = (
        u.query_key.multipliers, u.prob_value.multipliers, u.softmax.lanes, u.softmax.lanes * u.softmax.fifo_depth,
        u.topk.comparators, u.topk.pass_overhead_cycles, _mix(u.topk.seed, work.name), u.fetcher.query_block,
        u.fetcher.query_blocks, u.key_sram.buffers, u.value_sram.buffers, machine.write_output,
        u.topk.engines == 1, work.head_size, has_lsb, u.query_key.latency_cycles, u.softmax.latency_cycles,
        work.group, *vectors_of_a_buffer(machine, work.head_size), scores_of_the_buffer(machine),
    )  # fmt: skip
    s[GATE] = NONE
    return s


def _vector_bytes(work: AttentionWork, element_bits: int) -> NDArray[np.int64]:
    """Bytes of one vector in DRAM, by operand."""
    bits = (work.query_bits, work.key_msb_bits, work.key_lsb_bits, work.value_bits, element_bits)
    beside = (0, work.scale_bits, 0, work.scale_bits, 0)
    return -(-(np.array(bits, np.int64) * work.head_size + beside) // 8)


def _bases(work: AttentionWork, vector_bytes: NDArray[np.int64], align: int) -> NDArray[np.int64]:
    """Where each operand of each row begins: one contiguous plane per operand, layer and head [rows, operands].

    MSBs and LSBs of K lie in separate planes (section III-D).
    """
    vectors = np.full(len(OPERANDS), int(work.length.max()))
    vectors[[QUERY, OUTPUT]] *= work.group
    plane = -(-vector_bytes * vectors // align) * align
    start = np.concatenate([[0], np.cumsum(plane)[:-1]])
    heads = int(work.head.max()) + 1
    number = work.layer * heads + work.head
    return number[:, None] * int(plane.sum()) + start


def _check_rows(machine: SpattenMachine, work: AttentionWork) -> None:
    """The queries of a row are the first of its kept tokens, or one generated token."""
    wrong = np.flatnonzero((work.queries != 1) & (work.queries > work.keys))
    if len(wrong):
        r = int(wrong[0])
        raise ValueError(
            f"{work.name}: row {r}: queries must be at most keys ({int(work.keys[r])}) on {machine.name}, "
            f"got {int(work.queries[r])}"
        )


def _check_selection(machine: SpattenMachine, work: AttentionWork) -> None:
    """Without top-k engines nothing can be selected."""
    wanted = {
        "token top-k": work.token_topk,
        "head top-k": work.head_topk,
        "local value top-k": work.keys - work.values,
    }
    for name, amount in wanted.items():
        rows = np.flatnonzero(amount > 0)
        if len(rows) and not machine.units.topk.engines:
            raise ValueError(
                f"{machine.name}: units.topk.engines: must be at least 1 for the {name} of {work.name} "
                f"(row {int(rows[0])}), got 0"
            )


def _units(machine: SpattenMachine, has_lsb: bool) -> tuple[Unit, ...]:
    """Static quantization leaves nothing to reorder: Q x K and softmax then take the queries as they come."""
    u = machine.units
    latency = {FETCH: u.fetcher.latency_cycles, QUERY_KEY: u.query_key.latency_cycles}
    latency |= {SOFTMAX: u.softmax.latency_cycles, PROB_VALUE: u.prob_value.latency_cycles}
    arbitrated = {FETCH, TOPK, VALUE_TOPK, FILTER, VALUE_FILTER} if u.topk.engines == 1 else {FETCH}
    if has_lsb:
        arbitrated |= {QUERY_KEY, SOFTMAX}

    def unit(number: int, suffix: str = "") -> Unit:
        order = OLDEST_READY if number in arbitrated else IN_ORDER
        return Unit(UNITS[number] + suffix, 1, order, latency.get(number, 0))

    others = [unit(n, f".{p}") for p in range(1, machine.pipelines) for n in range(QUERY_KEY, LAYER)]
    return (*map(unit, range(len(UNITS))), *others)


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
    """The plan of one sequence. Planes in DRAM are aligned to `align_bytes`.

    The seeds of the top-k depend on the name of the sequence.

    Raises ValueError where K or V of a head does not fit the on-chip buffer and cannot be cut, where a row has more
    queries than keys, or where something is selected and the machine has no top-k engine.
    """
    _check_rows(machine, work)
    _check_selection(machine, work)
    tiles = tiling(machine, work)
    has_lsb = bool(work.key_lsb_bits) and bool(work.needs_lsb.any())
    vectors = work.queries * work.group
    blocks = int(np.where(tiles.block > 0, tiles.blocks, -(-vectors // machine.units.fetcher.query_block)).sum())
    s, pipes = _start(machine, work, has_lsb), _pipes(machine.pipelines)
    t, requests = _lay_out(s, pipes, work, tiles, blocks), _requests(work, tiles, blocks)
    vector_bytes = _vector_bytes(work, machine.element_bits)
    write_rows(
        t, s, pipes, requests, work.step, work.layer, work.length, work.queries, work.keys, work.values, work.key_set,
        work.set_ptr, work.set_index, work.needs_lsb, work.token_topk, work.token_candidates, work.head_topk,
        work.head_candidates, work.score_ptr, work.score, tiles.block, _bases(work, vector_bytes, align_bytes),
        vector_bytes,
    )  # fmt: skip
    return Lowered(_plan(t, s, requests, _units(machine, has_lsb)), s[COUNTERS:])
