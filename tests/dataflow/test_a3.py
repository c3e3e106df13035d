"""A3: toy worlds by hand, bounds, its candidate search against a slow twin, and what is undone of a policy."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.a3 import A3Machine
from accel.machine import load_machine, load_standard
from dataflow.a3 import plan_a3, sort_cycles
from dataflow.a3_search import candidates, post_scored
from dataflow.engines import run_plan
from dataflow.memory import peak_bytes_per_s
from dataflow.simulate import simulate
from dataflow.unpruned import dense_work, few_layers, run_sequences, unpruned
from sim.dram import IdealSpec
from workloads.attention import AttentionWork
from workloads.dense import dense_attention
from workloads.policy import Policy
from workloads.replay import attention_work
from workloads.trace import load_workload

FREE = IdealSpec(1 << 40, 1, 32)  # every fetch takes two cycles


def machine(name: str = "a3_base", **overrides: Any) -> A3Machine:
    loaded = load_machine(name, {key.replace("__", "."): value for key, value in overrides.items()})
    assert isinstance(loaded, A3Machine)
    return loaded


def prompt(tokens: int, heads: int = 1, layers: int = 1) -> AttentionWork:
    return dense_attention(layers, heads, tokens, 64, 12)


def tokens_of(work: AttentionWork, steps: int) -> AttentionWork:
    """So many generated tokens after a prompt, one query each; every step as long."""
    rows = work.rows
    one = np.tile(np.ones(rows, np.int64), steps)
    columns = {name: np.tile(getattr(work, name), steps) for name in ("layer", "head", "length", "keys", "values")}
    return replace(work, step=np.repeat(np.arange(steps), rows), queries=one, **columns)


def logged(a3: A3Machine, work: AttentionWork, memory: IdealSpec = FREE) -> list[tuple[str, int, int]]:
    plan, _ = plan_a3(a3, work, 4096)
    plan.check()
    times, _ = run_plan(plan, memory)
    names = [plan.units[unit].name for unit in plan.unit]
    return [(name, int(a), int(b)) for name, a, b in zip(names, times.start, times.free, strict=True)]


def makespan(a3: A3Machine, work: AttentionWork) -> int:
    return run_plan(plan_a3(a3, work, 4096)[0], FREE)[0].makespan


def start_of(log: list[tuple[str, int, int]]) -> int:
    """When the first module starts: everything has been fetched."""
    return min(start for name, start, _ in log if name in ("score", "search", "sort"))


def test_a_query_every_n_plus_9_cycles_and_3n_plus_27_through_the_pipeline() -> None:
    log = logged(machine(), prompt(20))
    first = start_of(log)
    assert [entry for entry in log if entry[0] != "fetcher"][:6] == [
        ("score", first, first + 29),
        ("exponent", first + 29, first + 58),
        ("output", first + 58, first + 87),
        ("score", first + 29, first + 58),
        ("exponent", first + 58, first + 87),
        ("output", first + 87, first + 116),
    ]
    assert makespan(machine(), prompt(20)) == first + 19 * 29 + 3 * 29


@pytest.mark.parametrize(
    ("iterations", "found", "interval"), [(0.5, 0.25, 50 + 9), (0.25, 0.5, 50 + 9), (0.1, 0.82, 82 + 9)]
)
def test_an_approximate_query_takes_the_longer_of_search_and_candidates(
    iterations: float, found: float, interval: int
) -> None:
    a3 = machine("a3", approximation__iterations_share=iterations, approximation__candidate_share=found)
    log = logged(a3, prompt(100))
    starts = [start for name, start, _ in log if name == "output"]
    assert set(np.diff(starts).tolist()) == {interval}


def test_nothing_starts_before_all_of_a_head_has_come() -> None:
    """2 x 72 B x n + q of Q at 1 byte a cycle; double buffered: the third head waits until the first has left."""
    slow = IdealSpec(10**9, 0, 1, 10**9)
    log = logged(machine(), prompt(4, heads=3), slow)
    fetches = [stop for name, _, stop in log if name == "fetcher"]
    assert start_of(log) >= fetches[2] == 3 * 4 * 72
    fast = logged(machine(), prompt(50, heads=3))
    third = [start for name, start, _ in fast if name == "fetcher"][6]
    first_head_leaves = [stop for name, _, stop in fast if name == "output"][49]
    assert third == first_head_leaves
    single = logged(machine(sram__buffers=1), prompt(50, heads=2))
    assert [start for name, start, _ in single if name == "fetcher"][3] == first_head_leaves


def test_a_layer_waits_for_the_one_before() -> None:
    two = logged(machine(), prompt(30, layers=2))
    done = [stop for name, _, stop in two if name == "output"][29]
    assert [start for name, start, _ in two if name == "fetcher"][3] == done


def test_sorting_is_reported_and_spent_only_where_it_is_asked() -> None:
    assert sort_cycles(np.array([320, 1, 1024]), 64, 64).tolist() == [320 * 9, 1, 1024 * 10]
    assert sort_cycles(np.array([8]), 64, 16).tolist() == [8 * 3 * 4]
    plain, sorting = machine("a3"), machine("a3", approximation__include_sort=True)
    work = prompt(40)
    assert makespan(sorting, work) - makespan(plain, work) == 40 * 6
    assert plan_a3(plain, work, 4096)[1]["sort_cycles"] == plan_a3(sorting, work, 4096)[1]["sort_cycles"] == 40 * 6


def test_a_head_larger_than_the_lanes_takes_more_cycles_a_row() -> None:
    wide = replace(prompt(30), head_size=128)
    assert makespan(machine(modules__lanes=64), wide) > 2 * 30 * 30
    assert makespan(machine(modules__lanes=128), wide) < 30 * 40 + 100


def test_keys_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a3_base: sram.bytes: one of 2 buffers must hold the 73800 bytes of 1025"):
        plan_a3(machine(), prompt(1025), 4096)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 3), st.integers(1, 3), st.sampled_from(["a3", "a3_base"]))
def test_cycles_lie_between_the_slowest_module_and_the_serial_sum(n: int, heads: int, layers: int, name: str) -> None:
    work = prompt(n, heads, layers)
    log = logged(machine(name), work)
    busy: dict[str, int] = {}
    for unit, start, stop in log:
        busy[unit] = busy.get(unit, 0) + stop - start
    cycles = makespan(machine(name), work)
    assert max(busy.values()) <= cycles <= sum(busy.values()) + 2 * len(log)


def test_base_mode_executes_the_dense_work_and_fetches_all_of_it() -> None:
    """And A3 gains nothing where the DRAM limits: generated tokens, in either mode."""
    trace = load_workload("minilm")
    result = simulate(machine(), trace, Policy(token_keep=0.3, head_keep=0.5, key_msb_bits=4))
    assert result.operations == {"int9": result.effective_operations}
    vectors = sum(int(work.keys.sum()) for work in attention_work(trace, Policy()))
    assert result.dram_requested_bytes == dict.fromkeys(("query", "key", "value"), vectors * 36)
    approximate = simulate(machine("a3"), trace, Policy())
    assert approximate.dram_read_bytes == result.dram_read_bytes
    assert approximate.effective_operations == result.effective_operations > sum(approximate.operations.values())
    assert 1.6 < result.cycles / approximate.cycles < 1.73
    assert "unverified: element_bits" in result.left_out[-1]


def test_generated_tokens_are_bound_by_bandwidth_in_both_modes() -> None:
    a3 = machine("a3")
    work = [tokens_of(prompt(512, heads=4, layers=2), 3)]
    peak = peak_bytes_per_s(a3.memory, load_standard(a3.memory.standard)) / a3.clock_hz
    for name in ("a3", "a3_base"):
        chosen = machine(name)
        tally = run_sequences(chosen.memory, chosen.clock_hz, work, lambda w, a, m=chosen: plan_a3(m, w, a), {})  # type: ignore[misc]
        assert 1 <= tally.cycles[0] * peak / sum(tally.moved.values()) < 1.6


def test_pruning_of_a_sequence_is_undone() -> None:
    """Tokens, heads, values and low bits; of a prompt and of generated tokens."""
    trace = load_workload("minilm")
    pruned = attention_work(trace, Policy(token_keep=0.4, head_keep=0.6, value_keep=0.5, key_lsb_bits=4))[:2]
    for sequence, dense in zip(dense_work(trace, pruned), attention_work(trace, Policy()), strict=False):
        for column in ("step", "layer", "head", "length", "queries", "keys", "values"):
            assert np.array_equal(getattr(sequence, column), getattr(dense, column))
    token = tokens_of(prompt(50, heads=2, layers=3), 2)
    cut = replace(token, keys=token.keys // 2, values=token.values // 4)
    again = unpruned(cut, 3, 2)
    assert np.array_equal(again.keys, token.keys)
    assert again.queries.tolist() == [1] * 12


def test_few_layers_stand_for_the_whole_within_half_a_percent() -> None:
    work = replace(tokens_of(prompt(700, heads=4, layers=4), 4), repeat=2)
    part, times = few_layers(work, 700 * 4 * 4 * 2)
    assert (times, part.rows, part.dense_operations) == (2, work.rows // 2, work.dense_operations // 2)
    assert few_layers(work, 700 * 4 * 4 * 4)[1] == 1
    a3 = machine()

    def run(long: int) -> tuple[list[int], dict[str, int]]:
        tally = run_sequences(a3.memory, a3.clock_hz, [work], lambda w, a: plan_a3(a3, w, a), {}, long)
        assert sum(tally.path.values()) == sum(tally.cycles)
        return tally.cycles, dict(tally.moved | tally.counters)

    (whole, totals), (sampled, same) = run(1 << 40), run(1)
    assert totals == same
    assert len(whole) == len(sampled) == 2
    assert sampled[0] == pytest.approx(whole[0], rel=0.005)


# --- the search


def slow_candidates(query: np.ndarray, key: np.ndarray, iterations: int, guard: bool) -> list[int]:
    """All products sorted at once: the i-th iteration takes the i-th largest, then the next smallest."""
    products = [(q * key[row, j], row) for row in range(len(key)) for j, q in enumerate(query)]
    down, up = sorted(products, reverse=True), sorted(products)
    score, total, taken = dict.fromkeys(range(len(key)), 0.0), 0.0, 0
    for i in range(min(iterations, len(products))):
        if down[i][0] > 0:
            score[down[i][1]] += down[i][0]
            total += down[i][0]
        if guard and total < 0:
            continue
        if up[taken][0] < 0:
            score[up[taken][1]] += up[taken][0]
            total += up[taken][0]
            taken += 1
    return [row for row in score if score[row] > 0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 6), st.integers(1, 90), st.booleans())
def test_candidates_equal_the_slow_twin(seed: int, n: int, d: int, iterations: int, guard: bool) -> None:
    rng = np.random.default_rng(seed)
    query, key = rng.normal(size=d), rng.normal(size=(n, d)) + rng.normal()
    query[rng.random(d) < 0.2] = 0
    found = candidates(query, key, iterations, guard=guard)
    assert found.tolist() == slow_candidates(query, key, iterations, guard)


def test_a_search_without_end_finds_the_rows_with_a_positive_product() -> None:
    rng = np.random.default_rng(1)
    query, key = rng.normal(size=16), rng.normal(size=(50, 16))
    assert candidates(query, key, 10**6, guard=False).tolist() == np.flatnonzero(key @ query > 0).tolist()


def test_a_planted_key_is_found_in_few_iterations() -> None:
    rng = np.random.default_rng(2)
    query, key = rng.normal(size=32), rng.normal(size=(200, 32))
    key[137] = 3 * query
    assert 137 in candidates(query, key, 40)
    assert len(candidates(query, key, 40)) < 40


def test_the_search_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"query must be \[d\], key \[n, d\]"):
        candidates(np.ones(3), np.ones((2, 4)), 1)


def test_post_scoring_keeps_weights_above_a_share_of_the_largest() -> None:
    scores = np.log([1.0, 0.5, 0.04, 0.06])
    assert post_scored(scores, 5).tolist() == [0, 1, 3]
    assert post_scored(scores, 100).tolist() == [0]
