"""A SpAtten plan that is being written: its units and operands, the columns of its arrays, tasks and waits."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

FETCH, QUERY_KEY, SOFTMAX, VALUE_TOPK, VALUE_FILTER, PROB_VALUE, ACCUMULATE, TOPK, FILTER, LAYER = range(10)
UNITS = ("fetcher", "query_key", "softmax", "value_topk", "value_filter", "prob_value", "accumulator", "topk",
         "topk_filter", "layer_barrier")  # fmt: skip
QUERY, KEY, KEY_LSB, VALUE, OUTPUT = range(5)
OPERANDS = ("query", "key", "key_lsb", "value", "output")
# Two integer arrays hold the plan that is being written: `t` (int32, as long as the plan needs, see `_lay_out`)
# and `s` (int64). More arrays cost more than the work when jitted functions hand them to each other.
# Columns of s: fill levels, where the parts of t begin, the pipeline at hand (SOFTMAX_OF to UNIT_OFFSET: tables, how
# far they are filled, the tasks that its last row ended with), machine, the row at hand, counters.
(TASKS, DEPS, SEGMENTS, SLICES, UNIT_AT, AMOUNT_AT, PTR_AT, DEP_AT, SOFTMAX_OF, CONSUMER_OF, KEY_DONE, VALUE_DONE,
 BLOCK_DONE, KEY_FIRST, BLOCK_FIRST, BLOCK, FIRST_QUERY, KEY_TILE, VALUE_TILE, GATHERED, WEIGHED, CHOSEN, UNIT_OFFSET,
 QK_MULTIPLIERS, PV_MULTIPLIERS, LANES, FIFO_SCORES, COMPARATORS, OVERHEAD, SEED, QUERY_BLOCK, QUERY_BLOCKS,
 KEY_BUFFERS, VALUE_BUFFERS, WRITE_OUTPUT, SHARED_ENGINE, HEAD_SIZE, HAS_LSB, QK_LATENCY, SOFTMAX_LATENCY, GROUP,
 TILE_KEYS, TILE_VALUES, SCORE_ROOM, GATE, FETCHED_KEY, FETCHED_VALUE, FETCHED_QUERY, FETCHED_LSB, ROW, QUERIES, KEYS,
 VALUES, QK_CYCLES, SOFTMAX_CYCLES, PV_CYCLES, QK_ROOM, SOFTMAX_ROOM, COUNTERS) = range(59)  # fmt: skip
(MACS_QK, MACS_PV, SCORES, COMPARISONS, ACCUMULATIONS, K_WRITE, K_READ, V_WRITE, V_READ, LSB_ROWS, RECOMPUTED,
 TOPK_PASSES, SCORE_WRITE, SCORE_READ, COUNTER_COUNT) = range(15)  # fmt: skip
NONE = -1


class Requests(NamedTuple):
    """Memory slices that are being written: segments, and the slices that they make."""

    address: NDArray[np.int64]
    size: NDArray[np.int64]
    slice_ptr: NDArray[np.int64]
    write: NDArray[np.uint8]
    operand: NDArray[np.int64]


@njit(cache=True)
def add_task(t, s, u, amount):  # type: ignore[no-untyped-def]
    """Add a task; it waits for what was named since the task before. Returns its index."""
    i = s[TASKS]
    if FETCH < u < LAYER:  # the fetcher and the layer barrier are there once, the others in each pipeline
        u += s[UNIT_OFFSET]
    t[s[UNIT_AT] + i], t[s[AMOUNT_AT] + i] = u, amount
    s[TASKS] = i + 1
    t[s[PTR_AT] + i + 1] = s[DEPS]
    return i


@njit(cache=True)
def wait(t, s, task):  # type: ignore[no-untyped-def]
    """The next task waits for the result of `task`, if there is one."""
    if task >= 0:
        t[s[DEP_AT] + s[DEPS]] = task
        s[DEPS] += 1


@njit(cache=True)
def wait_left(t, s, task):  # type: ignore[no-untyped-def]
    """The next task waits until `task` has left its unit, if there is one."""
    if task >= 0:
        t[s[DEP_AT] + s[DEPS]] = ~task
        s[DEPS] += 1


@njit(cache=True)
def wait_room(t, s, table, i):  # type: ignore[no-untyped-def]
    """The next task waits until the i-th task of a table has left its unit, if there is one."""
    if i >= 0 and t[s[table] + i] >= 0:
        t[s[DEP_AT] + s[DEPS]] = ~t[s[table] + i]
        s[DEPS] += 1


@njit(cache=True)
def wait_read(t, s, first, done, i):  # type: ignore[no-untyped-def]
    """The next task waits until the i-th buffer of K or Q has been read: until its Q x K tasks have left their unit.

    first, done   tables: these tasks lie between the two by index; without LSBs the last one leaves last
    """
    if not s[HAS_LSB]:
        wait_room(t, s, done, i)
    elif i >= 0:
        for task in range(t[s[first] + i], t[s[done] + i] + 1):
            if t[s[UNIT_AT] + task] == QUERY_KEY + s[UNIT_OFFSET]:
                wait_left(t, s, task)


@njit(cache=True)
def transfer(t, s, requests, operand, base, vector_bytes, positions):  # type: ignore[no-untyped-def]
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
    return add_task(t, s, FETCH, number)
