"""The SpAtten plan in toy worlds: every task of every unit, followed by hand.

The memory gives 8 bytes a cycle, 5 cycles later, through a fetcher of 1 cycle; a vector has 4 bytes. Q x K, softmax
and prob x V take a cycle per key and give their result 2, 3 and 1 cycles after they are free.
"""

from dataclasses import replace

import numpy as np
import pytest

from accel.machine import load_machine
from dataflow.spatten.draft import (
    ACCUMULATIONS,
    COMPARISONS,
    K_READ,
    K_WRITE,
    KEY,
    LSB_ROWS,
    MACS_PV,
    MACS_QK,
    QUERY,
    RECOMPUTED,
    SCORES,
    TOPK_PASSES,
    V_READ,
    V_WRITE,
)
from dataflow.spatten.plan import plan_attention
from dataflow.spatten.run import run_spatten
from dataflow.spatten.topk import filter_cycles
from tests.dataflow.spatten_worlds import machine, named_log, segments, simulate, starts, work
from workloads.dense import dense_attention
from workloads.trace import Trace

PROMPT = (0, 0, 0, 3, 2, 3, 3)  # 2 queries, 3 keys


def test_one_head_of_two_queries_and_three_keys() -> None:
    assert named_log(machine(), work([PROMPT])) == [
        ("fetcher", 0, 2, 8),  # K: 12 bytes in 2 cycles, 5 + 1 on the way
        ("fetcher", 2, 4, 10),  # V
        ("fetcher", 4, 5, 11),  # both Q: 8 bytes
        ("query_key", 11, 14, 16),  # query 0: K and Q are there at 11
        ("softmax", 16, 19, 22),
        ("prob_value", 22, 25, 26),
        ("query_key", 14, 17, 19),  # query 1 follows through the pipeline
        ("softmax", 19, 22, 25),
        ("prob_value", 25, 28, 29),
        ("accumulator", 25, 28, 28),  # the importance of the last query
        ("layer_barrier", 29, 29, 29),
    ]


def test_a_generated_token_fetches_v_after_its_local_topk() -> None:
    """3 of 5 keys at 0, 1, 3; 2 of their V: a pass of up to 4 candidates takes 1 + 2 cycles, the filter 1 + 2."""
    row = work([(0, 0, 0, 5, 1, 3, 2)])
    lowered, _ = simulate(machine(), row)
    passes = int(lowered.counters[TOPK_PASSES])
    chosen = 20 + 3 * passes + 3
    assert named_log(machine(), row) == [
        ("fetcher", 0, 2, 8),  # K
        ("fetcher", 2, 3, 9),  # Q
        ("query_key", 9, 12, 14),
        ("softmax", 14, 17, 20),
        ("value_topk", 20, chosen - 3, chosen - 3),
        ("value_filter", chosen - 3, chosen, chosen),
        ("fetcher", chosen, chosen + 1, chosen + 7),  # 2 of V: 8 bytes
        ("prob_value", chosen + 7, chosen + 9, chosen + 10),
        ("accumulator", 20, 23, 23),
        ("layer_barrier", chosen + 10, chosen + 10, chosen + 10),
    ]
    assert [segments(lowered, n) for n in range(3)] == [
        [(1024, 8, 1), (1024 + 3 * 4, 4, 1)],
        [(0, 4, 0)],
        [(2048 + 0, 8, 3)],
    ]


def test_lsbs_are_fetched_once_and_flagged_queries_run_again() -> None:
    """Query 0 is flagged: query 1 overtakes it while its LSBs (2 bytes a key) come."""
    row = work([PROMPT], key_lsb_bits=4, needs_lsb=np.array([1, 0], np.uint8))
    assert named_log(machine(), row) == [
        ("fetcher", 0, 2, 8),  # K
        ("fetcher", 2, 4, 10),  # V
        ("fetcher", 4, 5, 11),  # Q
        ("query_key", 11, 14, 16),  # query 0
        ("softmax", 16, 19, 22),
        ("fetcher", 22, 23, 29),  # LSBs: 6 bytes, when the probabilities of query 0 are known
        ("query_key", 29, 32, 34),  # query 0 again
        ("softmax", 34, 37, 40),
        ("prob_value", 40, 43, 44),
        ("query_key", 14, 17, 19),  # query 1
        ("softmax", 19, 22, 25),
        ("prob_value", 43, 46, 47),  # in the order of the queries
        ("accumulator", 40, 43, 43),  # the importance of query 0 is only now what it should be
        ("layer_barrier", 47, 47, 47),
    ]


def test_two_flagged_queries_share_the_lsbs() -> None:
    row = work([PROMPT], key_lsb_bits=4, needs_lsb=np.array([1, 1], np.uint8))
    lowered, _ = simulate(machine(), row)
    assert lowered.counters[[LSB_ROWS, RECOMPUTED]].tolist() == [1, 2]
    assert lowered.counters[[MACS_QK, SCORES, K_READ, K_WRITE]].tolist() == [4 * 3 * 4, 4 * 3, 4 * 3, 2 * 3]
    log = named_log(machine(), row)
    assert [entry for entry in log if entry[0] == "fetcher"][3:] == [("fetcher", 22, 23, 29)]
    assert [start for unit, start, *_ in log if unit == "query_key"] == [11, 29, 14, 32]


@pytest.mark.parametrize("changes", [{"key_lsb_bits": 0}, {"needs_lsb": np.zeros(2, np.uint8)}])
def test_nothing_is_fetched_again_without_lsbs_or_flags(changes: dict[str, object]) -> None:
    row = work([PROMPT], **{"key_lsb_bits": 4, "needs_lsb": np.ones(2, np.uint8)} | changes)
    assert named_log(machine(), row) == named_log(machine(), work([PROMPT]))


def test_local_topk_of_a_prompt_spares_prob_x_v_only() -> None:
    """V is fetched whole; each query goes through the top-k, then multiplies 2 of 3."""
    row = work([(0, 0, 0, 3, 2, 3, 2)])
    lowered, _ = simulate(machine(), row)
    assert [sum(size for _, size, _ in segments(lowered, n)) for n in range(3)] == [12, 12, 8]
    first, second = starts(machine(), row, "value_topk")
    assert (first[0], second[0]) == (22, max(25, first[1]))
    ends = [free for _, free, _ in starts(machine(), row, "value_filter")]
    assert [(start, free - start) for start, free, _ in starts(machine(), row, "prob_value")] == [(e, 2) for e in ends]


@pytest.mark.parametrize("lanes", [1, 64])
@pytest.mark.parametrize("topk", ["token", "head"])
def test_cascade_topk_holds_up_the_next_layer(topk: str, lanes: int) -> None:
    """K of layer 1 leaves when the zero eliminator of layer 0 has finished, whatever prob x V does."""
    first = {f"{topk}_topk": np.array([2, 0]), f"{topk}_candidates": np.array([20, 0])}
    rows = work([(0, 0, 0, 3, 2, 3, 3), (0, 1, 0, 3, 2, 2, 2)], **first)
    slow = machine(topk__comparators=lanes)
    log = named_log(slow, rows)
    selected = next(entry for entry in log if entry[0] == "topk")
    chosen = next(entry for entry in log if entry[0] == "topk_filter")
    assert selected[1] == (28 if topk == "token" else 29)  # after the accumulator, after prob x V
    assert chosen[1:] == (selected[3], selected[3] + filter_cycles(20, lanes), selected[3] + filter_cycles(20, lanes))
    assert [entry[1] for entry in log if entry[0] == "fetcher"][3] == max(29, chosen[3])


def test_one_engine_serves_local_and_cascade_topk() -> None:
    rows = [(0, 0, 0, 3, 2, 3, 2), (0, 1, 0, 3, 2, 2, 2)]
    pruned = work(rows, token_topk=np.array([2, 0]), token_candidates=np.array([3, 0]))
    units = [entry[0] for entry in named_log(machine(topk__engines=1), pruned)]
    assert units.count("value_topk") == 3
    assert "topk" not in units
    assert [entry[0] for entry in named_log(machine(), pruned)].count("topk") == 1


def test_recorded_scores_decide_the_passes() -> None:
    """All candidates equal: one pass of 64 / 4 + 2 cycles, whatever the seed."""
    rows = [(0, 0, 0, 64, 2, 64, 64), (0, 1, 0, 64, 2, 9, 9)]
    equal = {"score_ptr": np.array([0, 64, 64]), "score": np.ones(64)}
    pruned = work(rows, token_topk=np.array([9, 0]), token_candidates=np.array([64, 0]), **equal)
    for seed in (1, 2, 3):
        ((start, free, _),) = starts(machine(topk__seed=seed), pruned, "topk")
        assert free - start == 18


@pytest.mark.parametrize(("buffers", "waits_for"), [(1, [0, 3, 6]), (2, [0, None, 3]), (3, [0, None, None])])
def test_a_prefetch_waits_for_a_free_buffer(buffers: int, waits_for: list[int | None]) -> None:
    """Three heads: K of head i goes when Q x K of head i - buffers has left, not a cycle before or after.

    Without the wait K of heads 1 and 2 would leave at 5 and 10, behind the fetches of head 0 and 1.
    """
    rows = work([(0, 0, head, 3, 2, 3, 3) for head in range(3)])
    tiny = machine(key_sram__buffers=buffers, value_sram__buffers=3, fetcher__query_blocks=3)
    log = named_log(tiny, rows)
    keys = [entry for entry in log if entry[0] == "fetcher"][0::3]
    scored = [entry[2] for entry in log if entry[0] == "query_key"][1::2]
    expected = {1: [0, scored[0], scored[1]], 2: [0, None, scored[0]], 3: [0, None, None]}[buffers]
    for key, at in zip(keys, expected, strict=True):
        assert at is None or key[1] == at
    assert scored[0] == 17
    if buffers == 3:
        assert [key[1] for key in keys] == [0, 5, 10]


@pytest.mark.parametrize(("flags", "releases"), [((1, 0), 32), ((0, 1), 35), ((0, 0), 17)])
def test_k_and_q_stay_until_flagged_queries_have_run_again(flags: tuple[int, int], releases: int) -> None:
    """Query 0 runs again at 29 to 32, query 1 (whose probabilities come at 25) at 32 to 35.

    With one buffer the K and Q of the second head wait for that; the LSBs of the first go when they are asked for.
    """
    rows = work([(0, 0, head, 3, 2, 3, 3) for head in range(2)], key_lsb_bits=4)
    flagged = replace(rows, needs_lsb=np.array([*flags, 0, 0], np.uint8))
    lowered, times = simulate(machine(key_sram__buffers=1, fetcher__query_blocks=1), flagged)
    slices, fetches = lowered.plan.slices.operand, times.start[lowered.plan.unit == 0]
    assert fetches[slices == KEY][1] == releases
    assert fetches[slices == QUERY][1] in (releases, releases + 2)  # K of 2 cycles may go first


def test_v_and_q_wait_for_their_buffers_too() -> None:
    rows = work([(0, 0, head, 3, 2, 3, 3) for head in range(2)])
    log = named_log(machine(value_sram__buffers=1, fetcher__query_blocks=1), rows)
    fetches = [entry[1] for entry in log if entry[0] == "fetcher"]
    assert fetches[4] == [entry[2] for entry in log if entry[0] == "prob_value"][1] == 28
    assert fetches[5] == [entry[2] for entry in log if entry[0] == "query_key"][1] == 17


@pytest.mark.parametrize("buffers", [1, 2])
def test_v_of_a_generated_token_waits_for_its_buffer(buffers: int) -> None:
    """Prob x V of the first head takes 16 cycles; V of the second is wanted when its top-k has chosen."""
    rows = work([(0, 0, head, 5, 1, 5, 4) for head in range(2)])
    log = named_log(machine(value_sram__buffers=buffers, prob_value__multipliers=1, topk__comparators=64), rows)
    _, chosen = (entry[3] for entry in log if entry[0] == "value_filter")
    weighed = next(entry for entry in log if entry[0] == "prob_value")
    assert weighed[2] - weighed[1] == 16
    assert chosen < weighed[2]
    assert [entry[1] for entry in log if entry[0] == "fetcher"][5] == (weighed[2] if buffers == 1 else chosen)


def test_v_of_a_generated_token_is_prefetched_where_nothing_is_selected() -> None:
    log = named_log(machine(), work([(0, 0, 0, 3, 1, 3, 3)]))
    assert [entry for entry in log if entry[0] == "fetcher"] == [
        ("fetcher", 0, 2, 8),  # K
        ("fetcher", 2, 4, 10),  # V
        ("fetcher", 4, 5, 11),  # Q
    ]


def test_a_full_score_fifo_stops_the_stage_before() -> None:
    """A slow softmax (4 a score less) and a FIFO of 2 rows: query 3 waits until softmax of query 0 has left.

    The FIFO holds 2 rows of 6 scores and Q x K's own pipeline one: rows 0 to 2 may be behind Q x K.
    """
    rows = work([(0, 0, 0, 6, 6, 6, 6)])
    tiny = machine(query_key__multipliers=24, softmax__fifo_depth=12)  # Q x K: 1 cycle a row, softmax 6
    scored = starts(tiny, rows, "query_key")
    softmax = starts(tiny, rows, "softmax")
    room = 2 + 2  # two rows in the FIFO and the two cycles of latency hold a row each
    assert [start for start, *_ in scored[:room]] == [scored[0][0] + i for i in range(room)]
    assert [start for start, *_ in scored[room:]] == [free for _, free, _ in softmax[: 6 - room]]


def test_a_full_probability_fifo_stops_softmax() -> None:
    """Prob x V takes 32 cycles a row, the stages before it 1: two rows in the FIFO, three in softmax's own latency."""
    rows = work([(0, 0, 0, 8, 8, 8, 8)])
    tiny = machine(query_key__multipliers=32, softmax__lanes=8, softmax__fifo_depth=2, prob_value__multipliers=1)
    softmax, weighed = starts(tiny, rows, "softmax"), starts(tiny, rows, "prob_value")
    room = 2 + 3
    assert [start for start, *_ in softmax[:room]] == [softmax[0][0] + i for i in range(room)]
    assert [start for start, *_ in softmax[room:]] == [free for _, free, _ in weighed[: 8 - room]]


def test_queries_come_in_blocks() -> None:
    """Five queries in blocks of 2, two blocks of registers: the third block waits for the first."""
    rows = work([(0, 0, 0, 5, 5, 5, 5)])
    lowered, _ = simulate(machine(fetcher__query_block=2), rows)
    sizes = [sum(size for _, size, _ in segments(lowered, n)) for n in range(len(lowered.plan.slices))]
    assert sizes == [20, 20, 8, 8, 4]
    log = named_log(machine(fetcher__query_block=2), rows)
    left = [entry[2] for entry in log if entry[0] == "query_key"][1]
    assert [entry[1] for entry in log if entry[0] == "fetcher"][4] == left


def test_outputs_are_written_when_asked_for() -> None:
    """12 bits an element: 6 bytes a vector, after the last prob x V (29)."""
    writing = machine().model_copy(update={"write_output": True})
    log = named_log(writing, work([PROMPT]))
    assert [entry for entry in log if entry[0] == "fetcher"][3][1] == 29
    assert plan_attention(writing, work([PROMPT]), 1024).plan.slices.write.tolist() == [0, 0, 0, 1]


def test_outputs_of_a_prompt_have_the_size_of_its_queries() -> None:
    writing = machine().model_copy(update={"write_output": True})
    lowered, _ = simulate(writing, work([(0, 0, 0, 3, 3, 3, 3)]))
    assert sum(size for _, size, _ in segments(lowered, 3)) == 3 * 6


def test_arrays_smaller_than_a_vector_take_several_cycles_for_one() -> None:
    """4 elements on 3 multipliers: 2 cycles a key; on 11: 2 keys a cycle."""
    for multipliers, cycles in ((3, 6), (4, 3), (8, 2), (11, 2), (12, 1)):
        log = starts(machine(query_key__multipliers=multipliers), work([PROMPT]), "query_key")
        assert [free - start for start, free, _ in log] == [cycles, cycles]


def test_counters_of_a_row() -> None:
    lowered, _ = simulate(machine(), work([(0, 0, 0, 5, 2, 3, 2)]))
    names = (MACS_QK, MACS_PV, SCORES, ACCUMULATIONS, K_WRITE, K_READ, V_WRITE, V_READ)
    assert lowered.counters[list(names)].tolist() == [2 * 3 * 4, 2 * 2 * 4, 6, 2 * 3, 3, 6, 3, 4]
    assert lowered.counters[COMPARISONS] >= 2 * (3 + 3)


@pytest.mark.parametrize("sram", ["key_sram", "value_sram"])
def test_keys_must_fit_a_buffer(sram: str) -> None:
    """3 vectors of 4 elements of 12 bits: 18 bytes."""
    assert simulate(machine(**{f"{sram}__bytes": 36}), work([PROMPT]))
    with pytest.raises(ValueError, match=rf"spatten: units\.{sram}\.bytes: .* must hold the 18 bytes .* got 17"):
        simulate(machine(**{f"{sram}__bytes": 35}), work([PROMPT]))


def test_shipped_machine_holds_1024_tokens_of_64() -> None:
    """Table I: 196 608 bytes are two halves of 1024 x 64 x 12 bit."""
    rows = replace(work([(0, 0, 0, 1024, 1, 1024, 1024)]), head_size=64)
    plan_attention(load_machine("spatten"), rows, 1 << 15).plan.check()
    with pytest.raises(ValueError, match="1025 vectors"):
        plan_attention(load_machine("spatten"), replace(rows, length=rows.length + 1, keys=rows.keys + 1), 1 << 15)


def test_more_queries_than_keys_are_refused() -> None:
    with pytest.raises(ValueError, match=r"row 0: queries must be at most keys \(3\) on spatten, got 4"):
        simulate(machine(), work([(0, 0, 0, 3, 4, 3, 3)]))


def test_a_repeated_sequence_counts_as_often_as_it_stands_for() -> None:
    trace, spatten = Trace("alike", {}, {"kind": "dense"}, {}), load_machine("spatten")
    one = dense_attention(2, 2, 24, 64, 8)
    thrice = run_spatten(spatten, trace, None, {"work": [one] * 3})
    assert run_spatten(spatten, trace, None, {"work": [replace(one, repeat=3)]}) == thrice
