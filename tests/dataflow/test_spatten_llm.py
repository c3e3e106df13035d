"""Grouped queries, tiles, pipelines and small K and V on SpAtten machines: toys by hand, bounds, closed forms."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from accel.machine import load_machine, load_standard
from accel.spatten import SpattenMachine
from dataflow.memory import peak_bytes_per_s
from dataflow.simulate import simulate as run
from dataflow.spatten.draft import KEY, MACS_PV, MACS_QK, OPERANDS, QUERY, SCORE_READ, SCORE_WRITE, UNITS, VALUE
from dataflow.spatten.plan import Lowered, plan_attention
from dataflow.spatten.tiles import tiling
from sim.compiled import run_compiled
from sim.plan import Times
from sim.result import Result
from tests.dataflow.spatten_worlds import IDEAL, TINY, named_log, random_machine, random_work, simulate, work
from tests.sim.worlds import difference, log_of, run_simpy
from workloads.attention import AttentionWork
from workloads.llm_decode import DecodeShape, decode_work
from workloads.policy import Policy
from workloads.trace import Trace

SMALL = DecodeShape("small", 2, 8, 2, 128)
BUFFER = {"bytes": 1 << 20, "cost": {"at": 1, "area_mm2": 0.0, "energy_pj": 0.0}}


def llm(**overrides: Any) -> SpattenMachine:
    machine = load_machine("spatten_llm", {name.replace("__", "."): value for name, value in overrides.items()})
    assert isinstance(machine, SpattenMachine)
    return machine


def changed(machine: SpattenMachine, buffer: dict[str, Any] | None = None, **fields: Any) -> SpattenMachine:
    """The machine with other fields, and with a score buffer."""
    data = machine.model_dump() | fields
    if buffer:
        data["units"]["score_buffer"] = buffer
    return SpattenMachine.model_validate(data)


def tiny(key_bytes: int = 1 << 16, score_bytes: int = 1 << 16, **fields: Any) -> SpattenMachine:
    """The toy machine of `spatten_worlds` with a score buffer; vectors of 4 elements have 6 bytes on chip."""
    sizes = {"units.key_sram.bytes": key_bytes, "units.value_sram.bytes": key_bytes}
    loaded = load_machine("spatten", TINY | sizes)
    assert isinstance(loaded, SpattenMachine)
    return changed(loaded, BUFFER | {"bytes": score_bytes}, **fields)


def asked(lowered: Lowered) -> dict[str, int]:
    slices = lowered.plan.slices
    sums = np.bincount(slices.operand, np.add.reduceat(slices.size_bytes, slices.ptr[:-1]), len(OPERANDS))
    return dict(zip(OPERANDS, sums.astype(int).tolist(), strict=True))


def step(machine: SpattenMachine, context: int, **options: Any) -> Result:
    """A decoding step of the small model."""
    trace = Trace("small", {}, {"kind": "decode"}, {})
    return run(machine, trace, None, work=decode_work(context, shape=SMALL, **options))


def test_a_group_shares_k_and_the_v_that_its_sum_keeps() -> None:
    """One K/V head of 3 keys, 2 query heads, 2 of 3 V: one K, one top-k after both softmaxes, one V, two outputs."""
    row = work([(0, 0, 0, 3, 1, 3, 2)], group=2, needs_lsb=np.zeros(2, np.uint8))
    log = named_log(tiny(), row)
    assert [unit for unit, *_ in log] == [
        "fetcher", "fetcher", "query_key", "softmax", "query_key", "softmax", "value_topk", "value_filter", "fetcher",
        "prob_value", "prob_value", "accumulator", "layer_barrier",
    ]  # fmt: skip
    assert [entry[1:] for entry in log[:6]] == [
        (0, 2, 8), (2, 3, 9), (9, 12, 14), (14, 17, 20), (12, 15, 17), (17, 20, 23)
    ]  # fmt: skip
    assert log[6][1] == 23  # the second softmax, not the first
    assert log[9][1] == log[8][3]
    assert asked(plan_attention(tiny(), row, 1024)) == {"query": 8, "key": 12, "key_lsb": 0, "value": 8, "output": 0}


def test_a_row_in_tiles_task_by_task() -> None:
    """5 keys through buffers of 2: K in tiles of 2, 2 and 1, one softmax over the row, V in the same tiles.

    The third tile waits until Q x K has left the first, V's third until prob x V has.
    """
    row = work([(0, 0, 0, 5, 1, 5, 5)])
    machine = tiny(key_bytes=24)
    assert [int(part[0]) for part in (tiling(machine, row).key_tiles, tiling(machine, row).block)] == [3, 1]
    assert named_log(machine, row) == [
        ("fetcher", 0, 1, 7),  # Q
        ("fetcher", 1, 2, 8),  # K, 2 vectors
        ("query_key", 8, 10, 12),
        ("fetcher", 2, 3, 9),
        ("query_key", 10, 12, 14),
        ("fetcher", 10, 11, 17),  # the last K goes where the first was
        ("query_key", 17, 18, 20),
        ("softmax", 20, 25, 28),
        ("fetcher", 3, 4, 10),  # V, 2 vectors
        ("prob_value", 28, 30, 31),
        ("fetcher", 4, 5, 11),
        ("prob_value", 30, 32, 33),
        ("fetcher", 30, 31, 37),
        ("prob_value", 37, 38, 39),
        ("accumulator", 28, 33, 33),
        ("layer_barrier", 39, 39, 39),
    ]


def test_a_prompt_fetches_k_and_v_for_each_block_of_queries() -> None:
    """6 queries of 6 keys; the buffer holds 4 rows of scores, so blocks of 2: K and V three times, Q once."""
    row = work([(0, 0, 0, 6, 6, 6, 3)])
    lowered, times = simulate(tiny(key_bytes=24, score_bytes=36), row)
    assert asked(lowered) == {"query": 24, "key": 72, "key_lsb": 0, "value": 72, "output": 0}
    assert lowered.counters[[MACS_QK, MACS_PV]].tolist() == [6 * 6 * 4, 6 * 3 * 4]
    assert lowered.counters[[SCORE_WRITE, SCORE_READ]].tolist() == [2 * 36, 36 + 18]
    log = [(UNITS[u], *entry) for u, entry in zip(lowered.plan.unit, log_of(times), strict=True)]
    scored = [entry for entry in log if entry[0] == "query_key"]
    weighed = [entry for entry in log if entry[0] == "prob_value"]
    assert (len(scored), len(weighed)) == (18, 18)
    assert sum(free - start for _, start, free, _ in weighed) == 18
    third_block, first_row_used = scored[12][1], weighed[4][2]
    assert third_block >= first_row_used  # its scores need the room of the first block's


@pytest.mark.parametrize(("group", "pipelines"), [(1, 1), (1, 3), (2, 1), (3, 2)])
def test_engines_agree_and_nothing_is_lost(group: int, pipelines: int) -> None:
    """Random works as groups, on one or more pipelines, whole and in tiles."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        machine = changed(random_machine(rng, "spatten"), BUFFER, pipelines=pipelines)
        rows = random_work(rng)
        fields: dict[str, Any] = {"group": group, "needs_lsb": np.repeat(rows.needs_lsb, group)}
        if seed % 2:
            fields["key_lsb_bits"] = 0
            size = -(-rows.head_size * machine.element_bits // 8)
            machine = in_tiles(machine, size * max(1, int(rows.keys.max()) // 3), group)
        rows = replace(rows, **fields)
        lowered = plan_attention(machine, rows, 1024)
        lowered.plan.check()
        assert not difference(lowered.plan, IDEAL, run_compiled, run_simpy)
        assert lowered.counters[MACS_PV] == group * (rows.queries * rows.values).sum() * rows.head_size


def in_tiles(machine: SpattenMachine, bytes_a_buffer: int, group: int) -> SpattenMachine:
    data = machine.model_dump()
    for name in ("key_sram", "value_sram"):
        data["units"][name]["bytes"] = bytes_a_buffer * data["units"][name]["buffers"]
    data["units"]["fetcher"]["query_block"] = max(group, data["units"]["fetcher"]["query_block"])
    return SpattenMachine.model_validate(data)


def test_one_pipeline_without_groups_is_todays_planner() -> None:
    """A score buffer and the room for more change nothing where a head fits: times of every task."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        plain, rows = random_machine(rng, "spatten"), random_work(rng)
        ours, theirs = (simulate(machine, rows)[1] for machine in (changed(plain, BUFFER), plain))
        assert same_times(ours, theirs)


def same_times(one: Times, other: Times) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("start", "free", "finish"))


@pytest.mark.parametrize("keep", [1.0, 0.3])
def test_tiles_move_the_bytes_of_a_whole_row(keep: float) -> None:
    """And take no less time than a memory that holds the row, within the fill of a tile for each row."""
    policy = Policy(value_keep=keep)
    (rows,) = decode_work(2048, shape=replace(SMALL, layers=1), policy=policy)
    tiled, whole = llm(), llm(units__key_sram__bytes=1 << 22, units__value_sram__bytes=1 << 22)
    assert tiling(tiled, rows).key_tiles.tolist() == [4, 4]
    assert tiling(whole, rows).block.tolist() == [0, 0]
    plans = [plan_attention(machine, rows, 1 << 15) for machine in (tiled, whole)]
    assert asked(plans[0]) == asked(plans[1])
    assert plans[0].counters[:SCORE_WRITE].tolist() == plans[1].counters[:SCORE_WRITE].tolist()


@pytest.mark.parametrize(("kv_bits", "vector"), [(16, 256), (8, 132), (4, 68)])
@pytest.mark.parametrize("batch", [1, 3])
def test_bytes_of_k_and_v_in_closed_form(kv_bits: int, vector: int, batch: int) -> None:
    """Tokens x K/V heads x layers x (elements, and a scale and a zero point of two bytes each), whatever the group."""
    result = step(llm(), 600, batch=batch, kv_bits=kv_bits, policy=Policy(value_keep=0.25))
    vectors = 600 * 2 * 2 * batch
    wanted = {"query": 2 * 8 * 256 * batch, "key": vectors * vector, "key_lsb": 0, "value": vectors // 4 * vector}
    assert {name: result.dram_requested_bytes[name] for name in wanted} == wanted
    assert result.operations == {"int12": 2 * 4 * (vectors + vectors // 4) * 128}


@pytest.mark.parametrize("standard", ["hbm2", "hbm2e", "hbm3", "hbm3e"])
def test_no_faster_than_the_peak_of_its_memory(standard: str) -> None:
    machine = llm(memory__standard=standard)
    result = step(machine, 1500)
    moved = sum(result.dram_read_bytes.values())
    assert result.latency_s >= moved / peak_bytes_per_s(machine.memory, load_standard(standard))
    assert result.latency_s >= 1500 * 8 * 2 * 128 / 512 / 4 / machine.clock_hz  # Q x K on four arrays


def test_more_context_costs_and_more_of_the_machine_spares() -> None:
    took = [step(llm(), context).cycles for context in (500, 1000, 2000, 4000)]
    assert took == sorted(took)
    for field, values in (("pipelines", (1, 2, 4)), ("memory__channels", (4, 8, 16, 32))):
        took = [step(llm(**{field: value}), 2000).cycles for value in values]
        assert took == sorted(took, reverse=True)
    assert step(llm(), 2000, kv_bits=4).cycles < step(llm(), 2000).cycles


def test_pipelines_share_the_heads_of_a_layer_and_wait_at_its_end() -> None:
    """Two heads on two pipelines: the second's Q x K starts with its own K, not behind the first's."""
    rows = [(0, layer, head, 8, 8, 8, 8) for layer in (0, 1) for head in (0, 1)]
    one, two = (simulate(tiny(pipelines=n), work(rows)) for n in (1, 2))
    units = [unit.name for unit in two[0].plan.units]
    assert units[10:] == [f"{name}.1" for name in UNITS[1:9]]
    starts = [int(at) for u, at in zip(two[0].plan.unit, two[1].start, strict=True) if units[u] == "query_key.1"]
    barrier = int(two[1].start[two[0].plan.unit == 9][0])
    assert starts[0] < one[1].start[one[0].plan.unit == 1][8]
    assert barrier == int(two[1].finish[: len(two[1].finish) // 2].max())
    assert starts[7] < barrier < starts[8]
    assert asked(one[0]) == asked(two[0])


def test_a_result_adds_up_over_pipelines_and_repeats() -> None:
    once, many = (step(llm(), 700, policy=Policy(value_keep=0.5), batch=n) for n in (1, 2))
    for result in (once, many):
        assert sum(result.critical_path.values()) == result.cycles
        assert all(0 < share <= 1 for share in result.utilisation.values())
        assert set(result.utilisation) <= set(UNITS)
        assert len(result.sequence_latency_s) == SMALL.layers
    assert many.operations["int12"] == 2 * once.operations["int12"]
    area = once.area_mm2
    assert area["query_key"] == pytest.approx(4 * 6.18)
    assert area["fetcher"] == pytest.approx(2.65)
    assert area["score_buffer"] == pytest.approx(4 * 0.94)
    assert (
        once.sram_bytes["score_write"] == 2 * (2 * 8 * 700) * 12 // 8
    )  # layers, heads, keys: scores, then probabilities
    assert once.energy_j["score_buffer"] > 0


@pytest.mark.parametrize(
    ("overrides", "changes", "rule"),
    [
        ({"units__score_buffer__bytes": 1000}, {}, r"score_buffer\.bytes: must hold the scores of 4 queries of 2048"),
        ({"units__fetcher__query_block": 2}, {}, r"query_block: must hold the 4 queries of a group, got 2"),
        ({}, {"key_lsb_bits": 4, "needs_lsb": np.ones(8, np.uint8)}, "key_lsb_bits must be 0 for more than 512 keys"),
    ],
)
def test_what_cannot_be_cut_is_refused(overrides: dict[str, Any], changes: dict[str, Any], rule: str) -> None:
    rows: AttentionWork = replace(decode_work(2048, shape=replace(SMALL, layers=1))[0], **changes)
    with pytest.raises(ValueError, match=rule):
        plan_attention(llm(**overrides), rows, 1024)
    with pytest.raises(
        ValueError, match=r"spatten: units\.key_sram\.bytes: one of 2 buffers must hold the 393216 bytes"
    ):
        plan_attention(load_machine("spatten"), replace(rows, key_lsb_bits=0), 1024)  # type: ignore[arg-type]


def test_operands_of_a_group_keep_planes_of_their_own() -> None:
    """Queries of a group lie side by side in the plane of their K/V head; vectors of 4-bit K carry 4 bytes more."""
    rows = work([(0, 0, head, 5, 1, 5, 5) for head in (0, 1)], group=3, needs_lsb=np.zeros(6, np.uint8))
    rows = replace(rows, key_msb_bits=4, value_bits=4, scale_bits=32)
    slices = plan_attention(tiny(), rows, 64).plan.slices
    places = [
        (int(o), int(a), int(n)) for o, a, n in zip(slices.operand, slices.address, slices.size_bytes, strict=True)
    ]
    assert places == [
        (KEY, 64, 30), (VALUE, 128, 30), (QUERY, 0, 12), (KEY, 384, 30), (VALUE, 448, 30), (QUERY, 320, 12)
    ]  # fmt: skip
