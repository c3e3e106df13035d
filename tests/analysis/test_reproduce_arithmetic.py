"""Rows by hand: outcomes with a different number in every field, so that a wrong field or machine shows."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, fields, replace

import pytest

from accel.machine import load_machine
from analysis.reproduce.assumptions import _at, machine_variants
from analysis.reproduce.points import Outcome, Point, _key, _outcome
from analysis.reproduce.published import read_published
from analysis.reproduce.spatten import GPT2, MEDIUM, Configuration, averages, figure_20, hardware_rows, table_3, table_4
from analysis.reproduce.workload import changed_policy, dense_bytes, released_memory, resolve
from workloads.dense import dense_attention
from workloads.policy import Policy

LATENCY = {"spatten": 2.0, "spatten_eighth": 3.0, "a3": 5.0, "mnnfast": 7.0, "titan_xp": 11.0, "spatten_datapath": 13.0,
           "spatten_e2e": 17.0}  # fmt: skip
PUBLISHED = {one.id: one.value for one in read_published("spatten")}


def primes(point: Point) -> Outcome:
    counts: Mapping[str, float] = defaultdict(lambda: 64.0, fc_cycles=23e6, fc_multiply_adds=29e9, k_vectors=31.0)
    read: Mapping[str, float] = defaultdict(float, key=37.0, key_lsb=41.0)
    return Outcome(
        latency_s=LATENCY.get(point.machine, 19.0),
        energy_j=43.0 * LATENCY.get(point.machine, 19.0),
        dram_energy_j=47.0,
        dram_bytes=53.0,
        executed=59e12,
        effective=61e12,
        area_mm2=67.0,
        dense_bytes=71.0,
        counts=counts,
        read=read,
    )


def test_averages_by_hand() -> None:
    rows = averages(Configuration(primes))
    expected = {
        "all.dram_cut": 71 / 53,
        "gpt2.dram_cut": 71 / 53,
        "all.computation_cut": 61 / 59,
        "quantization.dram_cut": 32 * 31 * 64 / (8 * (37 + 41)),
        "roofline.bert_tflops": 59 / 2,
        "roofline.bert_ops_per_byte": 59e12 / 53,
        "power.total": 43,
        "power.dram": 47 / 2,
        "power.dram_share": 100 * 47 / 86,
    }
    assert {name: rows[name] for name in expected} == pytest.approx(expected)


def test_the_computation_cut_is_a_geometric_mean() -> None:
    def runs(point: Point) -> Outcome:
        return Outcome(effective=4.0 if point.workload in GPT2 else 1.0)

    assert averages(Configuration(runs))["all.computation_cut"] == pytest.approx(4 ** (8 / 30))


def test_table_3_by_hand() -> None:
    rows = table_3(Configuration(primes))
    assert rows["table3.over_a3"] == pytest.approx(5 / 3)
    assert rows["table3.over_mnnfast"] == pytest.approx(7 / 3)
    assert rows["table3.eighth_gops"] == pytest.approx(61e3 / 3)
    assert rows["table3.eighth_gops_per_j"] == pytest.approx(61e3 / (3 * 43))

    def less_executed(point: Point) -> Outcome:
        return replace(primes(point), executed=1.0 if point.machine == "a3" else 59.0)

    assert table_3(Configuration(less_executed))["table3.over_a3_executed"] == pytest.approx(59 * 5 / 3)


def test_table_4_by_hand_and_weights_of_the_bits_that_are_asked_for() -> None:
    asked = []

    def runs(point: Point) -> Outcome:
        asked.append(point)
        return primes(point)

    rows = table_4(Configuration(runs))
    assert rows["table4.fc_ms"] == pytest.approx(23)
    assert rows["table4.fc_gflop"] == pytest.approx(58)
    fc = [point for point in asked if point.machine == "spatten_e2e"]
    assert {point.settings for point in fc} == {(("fc.weight_bits", 8),)}
    assert {point.workload for point in fc} == set(MEDIUM)
    assert all(("head_keep", 1.0) in point.policy for point in asked)


def test_figure_20_adds_the_parts_one_after_another() -> None:
    """Serial top-k until the step that makes it parallel; 32 bits until quantization."""
    asked: list[Point] = []

    def runs(point: Point) -> Outcome:
        asked.append(point)
        return primes(point)

    figure_20(Configuration(runs))
    ours = [point for point in asked if point.workload == GPT2[0] and point.machine == "spatten"]
    assert [("units.topk.comparators", 1) in point.settings for point in ours] == [True, True, False, False, False]
    assert [("key_msb_bits", 32) in point.policy for point in ours] == [True, True, True, False, False]
    assert [("head_keep", 1.0) in point.policy for point in ours] == [True, False, False, False, False]
    assert [("static", True) in point.policy for point in ours] == [False, False, False, True, False]


def test_rivals_get_the_dram_of_their_column_and_devices_do_not() -> None:
    memory = (("memory.standard", "hbm2_released"),)
    asked = {}

    def runs(point: Point) -> Outcome:
        asked[point.machine] = point.settings
        return Outcome()

    table_3(Configuration(runs, memory))
    figure_20(Configuration(runs, memory))
    assert asked["a3"] == asked["mnnfast"] == asked["spatten_eighth"] == memory
    assert asked["titan_xp"] == ()
    assert hardware_rows(released_memory())["machine.peak_gb_per_s"] == pytest.approx(256)


def test_the_released_memory_is_that_of_the_shipped_machine() -> None:
    changed = load_machine("spatten", dict(released_memory())).memory  # type: ignore[union-attr]
    shipped = load_machine("spatten_as_released").memory  # type: ignore[union-attr]
    assert changed.model_copy(update={"compare_with": None}) == shipped.model_copy(update={"compare_with": None})
    assert load_machine("spatten_eighth", dict(released_memory())).memory.channels == 2  # type: ignore[union-attr]


def test_dense_bytes_count_q_k_and_v_of_all_heads() -> None:
    assert dense_bytes([dense_attention(12, 12, 32, 64, 8)]) == 12 * 12 * 3 * 32 * 64 * 4
    _, _, work = resolve(Point("spatten", "gpt2_small_wikitext2"), "spatten")
    exact = sum(12 * 12 * (1 + 2 * length) * 64 * 4 for length in range(993, 1025))
    assert dense_bytes(work) == pytest.approx(exact, rel=1e-3)
    assert dense_bytes(None) == 0


def test_changes_of_a_policy_in_order() -> None:
    own = Policy(token_keep=0.5, head_keep=0.5, value_keep=0.5, key_msb_bits=6, key_lsb_bits=4)
    static = changed_policy(own, (("static", True),))
    assert (static.key_msb_bits, static.key_lsb_bits, static.token_keep) == (10, 0, 0.5)
    dense = changed_policy(own, (("dense", True), ("key_msb_bits", 32)))
    assert (dense.token_keep, dense.head_keep, dense.value_keep, dense.key_msb_bits) == (1, 1, 1, 32)
    assert changed_policy(own, (("token_scale", 1.5),)).token_keep == 0.75


def test_every_field_of_a_point_is_in_its_key() -> None:
    point = Point("spatten", "bert_base_cola")
    other = {"machine": "a3", "workload": "bert_base_rte", "settings": (("a", 1),), "policy": (("b", 1),),
             "changes": (("c", 1),), "parts": ("fc",), "every": 8}  # fmt: skip
    assert set(other) == {field.name for field in fields(Point)}
    keys = {_key(replace(point, **{name: value})) for name, value in other.items()}  # type: ignore[arg-type]
    assert len(keys | {_key(point)}) == len(other) + 1


def test_an_outcome_takes_each_number_from_its_place() -> None:
    row = {
        "energy_j_by_component": {"softmax": 2.0, "dram_read": 3.0, "dram_io": 4.0},
        "latency_s": 5.0,
        "energy_j": 9.0,
        "dram_read_bytes": 11,
        "dram_write_bytes": 13,
        "executed_operations": 17,
        "effective_operations": 19,
        "cycles": 23,
        "area_mm2": 29.0,
        "dram_read_bytes_by_operand": {"key": 31},
        "critical_path_cycles_by_unit": {"topk": 37},
        "rows": 41,
    }
    one = _outcome(row, 43)
    assert (one.dram_energy_j, one.energy_j, one.dram_bytes, one.executed, one.effective) == (7.0, 9.0, 24, 17, 19)
    assert (one.cycles, one.area_mm2, one.dense_bytes, one.counts["rows"]) == (23, 29.0, 43, 41)
    assert (one.read, one.path) == ({"key": 31}, {"topk": 37})
    assert Outcome(**asdict(one)) == one
    assert one.power_w == pytest.approx(9 / 5)


def test_both_ends_of_a_range_differ() -> None:
    assert _at("spatten", "memory.controller.read_queue", "low") == 8
    assert _at("spatten", "memory.controller.read_queue", "high") == 64
    assert {v.end for v in machine_variants("titan_xp")} == {"low", "high"}
