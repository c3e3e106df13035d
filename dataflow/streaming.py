"""Dense attention through a chain of modules as a Plan: what A3 and MNNFast have in common.

K and V of a head arrive in chunks of consecutive vectors, its queries run in blocks. Every block of queries passes
each chunk through all modules ("stages"), one after another; stages work on different blocks at the same time.

- Layers do not overlap: Q, K and V of a layer come from the output of the one before.
- A chunk is fetched as soon as the chunk `buffers` before has left the last stage.
- The first stage of a block starts when its chunk of K and its queries are there (`all_first`: V too), the last when
  its chunk of V is there too.
Left out: finite buffers between stages.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sim.plan import IN_ORDER, OLDEST_READY, Plan, Slices, Unit
from workloads.attention import AttentionWork

Ints = NDArray[np.int64]
OPERANDS = ("query", "key", "value")
_QUERY, _KEY, _VALUE = range(3)


@dataclass(frozen=True)
class Stream:
    """How a machine cuts its work.

    chunk_keys, query_block   K vectors of a chunk, queries of a block
    buffers                   chunks that fit on the chip
    vector_bytes              bytes of a Q, K or V vector in DRAM
    align_bytes               planes in DRAM begin at multiples of it
    all_first                 nothing starts before all of a chunk's operands are there
    """

    chunk_keys: int
    query_block: int
    buffers: int
    vector_bytes: int
    align_bytes: int
    all_first: bool


@dataclass(frozen=True)
class Blocks:
    """Rows cut into chunks of K, chunks into blocks of queries, in the order of execution.

    row, number, keys    int64 [C]  row of each chunk, its number in the row, its K vectors
    chunk, place         int64 [B]  chunk of each block, its place in the chunk
    queries              int64 [B]  queries of each block
    """

    row: Ints
    number: Ints
    keys: Ints
    chunk: Ints
    place: Ints
    queries: Ints


Cycles = Callable[[Blocks], Ints]


def cut(work: AttentionWork, stream: Stream) -> Blocks:
    """The blocks of a sequence."""
    row, number = _spread(-(-work.keys // stream.chunk_keys))
    keys = np.minimum(stream.chunk_keys, work.keys[row] - number * stream.chunk_keys)
    chunk, place = _spread(-(-work.queries[row] // stream.query_block))
    queries = np.minimum(stream.query_block, work.queries[row[chunk]] - place * stream.query_block)
    return Blocks(row, number, keys, chunk, place, queries)


def _spread(counts: Ints) -> tuple[Ints, Ints]:
    """(parent, number within the parent) of `counts` children each."""
    parent = np.repeat(np.arange(len(counts)), counts)
    return parent, np.arange(len(parent)) - np.repeat(np.cumsum(counts) - counts, counts)


@dataclass(frozen=True)
class _Tasks:
    """Indices of tasks: a chunk's fetches (Q with the first of a row), then its blocks, all stages of each."""

    query: Ints  # [rows]
    key: Ints  # [chunks]
    value: Ints  # [chunks]
    block: Ints  # [blocks] first stage
    last: Ints  # [chunks] last stage of the last block
    count: int


def _number_tasks(blocks: Blocks, stages: int) -> _Tasks:
    opens = (blocks.number == 0).astype(np.int64)
    sizes = 2 + opens + stages * np.bincount(blocks.chunk, minlength=len(blocks.row))
    ends = np.cumsum(sizes)
    first = ends - sizes
    block = (first + opens + 2)[blocks.chunk] + stages * blocks.place
    return _Tasks(first[blocks.number == 0], first + opens, first + opens + 1, block, ends - 1, int(ends[-1]))


def stream_plan(
    work: AttentionWork, stream: Stream, stages: Mapping[str, Cycles], latency: Mapping[str, int]
) -> tuple[Plan, Blocks]:
    """The plan of one sequence, and its blocks.

    stages    cycles [B] that each block holds a stage, by name, in the order of the chain
    latency   cycles from leaving a unit to a usable result, by name; "fetcher" is the memory unit, 0 if absent
    """
    blocks = cut(work, stream)
    tasks = _number_tasks(blocks, len(stages))
    unit, amount = np.zeros((2, tasks.count), np.int32)
    for place, cycles in enumerate(stages.values()):
        unit[tasks.block + place] = place + 1
        amount[tasks.block + place] = cycles(blocks)
    fetches = np.flatnonzero(unit == 0)
    amount[fetches] = np.arange(len(fetches))
    dep_ptr, dep = _sorted_waits(_waits(work, blocks, tasks, stream, len(stages)), tasks.count)
    units = Unit("fetcher", 1, OLDEST_READY, latency.get("fetcher", 0))
    chain = (Unit(name, 1, IN_ORDER, latency.get(name, 0)) for name in stages)
    slices = _slices(work, blocks, tasks, stream)
    return Plan((units, *chain), unit, amount, dep_ptr, dep, memory_unit=0, slices=slices), blocks


def _waits(work: AttentionWork, blocks: Blocks, tasks: _Tasks, stream: Stream, stages: int) -> list[tuple[Ints, Ints]]:
    """Pairs (task, what it waits for); -1 in the place of a task stands for nothing."""
    opens = blocks.number == 0
    before = _layer_before(work, tasks.last[_last_chunk(opens)])
    room = np.full(len(blocks.row), -1)
    room[stream.buffers :] = ~tasks.last[: -stream.buffers]
    pairs = []
    for fetch, rows, chunks in (
        (tasks.query, np.arange(work.rows), np.flatnonzero(opens)),
        (tasks.key, blocks.row, np.arange(len(blocks.row))),
        (tasks.value, blocks.row, np.arange(len(blocks.row))),
    ):
        pairs += [(fetch, before[rows]), (fetch[chunks >= stream.buffers], room[chunks[chunks >= stream.buffers]])]
    first, last = tasks.block, tasks.block + stages - 1
    pairs += [(first, tasks.query[blocks.row[blocks.chunk]]), (first, tasks.key[blocks.chunk])]
    pairs += [(first + place, first + place - 1) for place in range(1, stages)]
    return [*pairs, (first if stream.all_first else last, tasks.value[blocks.chunk])]


def _last_chunk(opens: NDArray[np.bool_]) -> Ints:
    """Index of the last chunk of each row."""
    return np.append(np.flatnonzero(opens)[1:], len(opens)) - 1


def _layer_before(work: AttentionWork, last: Ints) -> Ints:
    """For each row the task that ends the layer (and step) before; NOTHING in the first."""
    starts = np.flatnonzero((np.diff(work.layer) != 0) | (np.diff(work.step) != 0)) + 1
    before = np.full(work.rows, NOTHING)
    for start, stop in pairwise([*starts.tolist(), work.rows]):
        before[start:stop] = last[start - 1]
    return before


NOTHING = np.iinfo(np.int64).max


def _sorted_waits(pairs: list[tuple[Ints, Ints]], count: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    task, on = (np.concatenate(column) for column in zip(*pairs, strict=True))
    task, on = task[on != NOTHING], on[on != NOTHING]
    ptr = np.append(0, np.cumsum(np.bincount(task, minlength=count)))
    return ptr.astype(np.int32), on[np.argsort(task, kind="stable")].astype(np.int32)


def _slices(work: AttentionWork, blocks: Blocks, tasks: _Tasks, stream: Stream) -> Slices:
    """One contiguous slice a fetch; each operand of each head has a plane of its own."""
    plane = -(-int(work.length.max()) * stream.vector_bytes // stream.align_bytes) * stream.align_bytes
    head = (work.layer * (int(work.head.max()) + 1) + work.head) * len(OPERANDS)
    offset = blocks.number * stream.chunk_keys * stream.vector_bytes
    parts = (
        (tasks.query, head, np.zeros(work.rows, np.int64), work.queries, _QUERY),
        (tasks.key, head[blocks.row], offset, blocks.keys, _KEY),
        (tasks.value, head[blocks.row], offset, blocks.keys, _VALUE),
    )
    order = np.argsort(np.concatenate([task for task, *_ in parts]))
    address = np.concatenate([(heads + operand) * plane + at for _, heads, at, _, operand in parts])[order]
    size = np.concatenate([vectors for *_, vectors, _ in parts])[order] * stream.vector_bytes
    kind = np.repeat([_QUERY, _KEY, _VALUE], [len(task) for task, *_ in parts])[order]
    ptr = np.arange(len(order) + 1)
    return Slices(ptr, address, size, np.zeros(len(order), np.uint8), kind, OPERANDS)
