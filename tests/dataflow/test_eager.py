"""Eager machines: a toy world by hand, bounds, and the published baselines."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.eager import EagerMachine
from accel.machine import load_machine
from analysis import spatten_baselines
from analysis.spatten_baselines import MEDIUM, generation, simulated_baselines
from dataflow.eager import dram_bytes, fit_host_time, run_eager, select, time_operators, work_seconds
from dataflow.lowering import find_planner
from workloads.trace import Trace

PUBLISHED = Path(spatten_baselines.__file__).parent / "published"


def machine(**changes: Any) -> EagerMachine:
    """1 GHz, 10 flops and 100 bytes a second after efficiency, 2 s of host an operator, 0.5 s of gap."""
    data: dict[str, Any] = {
        "name": "toy",
        "planner": "eager",
        "source": "none",
        "clock_hz": 10,
        "compute": {"float32_flops_per_cycle": 2, "efficiency": 0.5},
        "memory": {"bandwidth_bytes_per_s": 200, "efficiency": 0.5, "cache_bytes": 0},
        "host": {"asynchronous": True, "operator_s": 2, "launch_gap_s": 0.5},
        "power": {"dynamic_w": 3},
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        data[section][key] = value
    return EagerMachine.model_validate(data)


def table(*rows: tuple[str, int, int, int], step: int = 0) -> dict[str, np.ndarray]:
    """Rows of (kind, flops, read_bytes, write_bytes); a view launches nothing."""
    kind, flops, reads, writes = (np.array(column) for column in zip(*rows, strict=True))
    ones = np.ones(len(rows), np.int64)
    return {
        "kind": kind,
        "part": np.full(len(rows), "attention"),
        "sequence": 0 * ones,
        "step": step * ones,
        "layer": 0 * ones,
        "flops": flops,
        "read_bytes": reads,
        "write_bytes": writes,
        "repeat": ones,
        "format": np.full(len(rows), "float32"),
        "launches": (kind != "view").astype(np.int64),
    }


def joined(*tables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}


WORLD = table(("linear", 60, 100, 100), ("view", 0, 0, 0), ("copy", 0, 100, 50), ("add", 5, 0, 0))
# device work: 6 s of flops (2 s of bytes), none, 1.5 s of bytes, 0.5 s of flops; each launch 0.5 s more


def test_host_runs_ahead_of_the_device() -> None:
    timing = time_operators(machine(), WORLD)
    # issued 2, 4, 6, 8; the first starts at 2 and ends at 8.5, the third at 10.5, the fourth at 11.5
    assert timing.operator.tolist() == pytest.approx([8.5, 0, 2, 1])
    assert timing.latency_s == pytest.approx(11.5)
    assert timing.spent == pytest.approx({"host": 2, "launch": 1.5, "bandwidth": 1.5, "throughput": 6.5})


def test_slow_host_leaves_the_device_waiting() -> None:
    timing = time_operators(machine(host__operator_s=10), WORLD)
    # issued 10, 20, 30, 40: only the work of the last is not hidden
    assert timing.latency_s == pytest.approx(41)
    assert timing.spent == pytest.approx({"host": 40, "launch": 0.5, "bandwidth": 0, "throughput": 0.5})


def test_trailing_view_can_end_the_run() -> None:
    timing = time_operators(machine(host__operator_s=10), table(("add", 5, 0, 0), ("view", 0, 0, 0)))
    assert timing.latency_s == 20
    assert timing.spent == {"host": 20, "launch": 0, "bandwidth": 0, "throughput": 0}


def test_processor_is_its_own_host() -> None:
    timing = time_operators(machine(host__asynchronous=False), WORLD)
    assert timing.latency_s == pytest.approx(4 * 2 + 3 * 0.5 + 6 + 1.5 + 0.5)
    assert timing.spent["host"] == pytest.approx(8)


def test_steps_meet_the_device_and_sequences_add_up() -> None:
    run = joined(WORLD, table(("add", 5, 0, 0), step=1))
    run["sequence"] = np.array([0, 0, 0, 0, 1])
    result = run_eager(machine(), Trace("toy", {}, {}, run), None, {})
    assert result.sequence_latency_s == pytest.approx((11.5, 3))
    assert result.latency_s == pytest.approx(14.5)
    assert sum(result.critical_path.values()) == result.cycles == 145
    assert result.limited_by == "throughput"
    assert result.energy_j == {"dynamic": pytest.approx(3 * 14.5)}
    assert result.operations == {"float32": 70}


def test_result_of_the_operator_before_is_found_in_the_cache() -> None:
    chain = table(("add", 0, 10, 40), ("view", 0, 0, 0), ("add", 0, 60, 20), ("cat", 0, 30, 10), ("add", 0, 99, 50))
    reads, _ = dram_bytes(machine(memory__cache_bytes=120), chain)
    assert reads.tolist() == [10, 0, 20, 30, 99]  # 40 + 60 + 20 fit; cat is cold; 10 + 99 + 50 do not fit
    reads, _ = dram_bytes(machine(memory__cache_bytes=119), chain)
    assert reads.tolist() == [10, 0, 60, 30, 99]


def test_cache_does_not_last_over_a_step() -> None:
    run = joined(table(("add", 0, 10, 40)), table(("add", 0, 10, 40), step=1))
    assert dram_bytes(machine(memory__cache_bytes=1000), run)[0].tolist() == [10, 10]


operator = st.tuples(st.sampled_from(["add", "view"]), *[st.integers(0, 1000)] * 3).map(
    lambda row: row if row[0] == "add" else ("view", 0, 0, 0)
)


@given(st.lists(operator, min_size=1, max_size=30), st.floats(0, 20), st.booleans())
def test_latency_lies_between_its_bounds_and_matches_the_recurrence(
    rows: list[tuple[str, int, int, int]], operator_s: float, asynchronous: bool
) -> None:
    toy = machine(host__operator_s=operator_s, host__asynchronous=asynchronous)
    columns = table(*rows)
    by_bytes, by_flops = work_seconds(toy, columns)
    timing = time_operators(toy, columns)
    host, gaps = operator_s * len(rows), 0.5 * columns["launches"].sum()
    serial = host + gaps + np.maximum(by_bytes, by_flops).sum()
    assert max(host, by_bytes.sum(), by_flops.sum()) <= timing.latency_s * (1 + 1e-12)
    assert timing.latency_s <= serial * (1 + 1e-12)
    assert sum(timing.spent.values()) == pytest.approx(timing.latency_s)
    if asynchronous:
        assert timing.latency_s == pytest.approx(recurrence(columns, operator_s, by_bytes, by_flops))


def recurrence(columns: dict[str, np.ndarray], operator_s: float, by_bytes: Any, by_flops: Any) -> float:
    issued = finished = 0.0
    for launches, seconds in zip(columns["launches"], np.maximum(by_bytes, by_flops), strict=True):
        issued += operator_s
        if launches:
            finished = max(issued, finished) + 0.5 + seconds
    return max(issued, finished)


def test_repeated_rows_run_that_often_and_parts_are_chosen() -> None:
    run = joined(WORLD, WORLD)
    run["part"] = np.array(["attention"] * 4 + ["fc"] * 4)
    run["repeat"][0] = 3
    columns = select(run, ("attention",), "toy")
    assert columns["kind"].tolist() == ["linear"] * 3 + ["view", "copy", "add"]
    assert len(select(run, ("attention", "fc"), "toy")["kind"]) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "records no operators"),
        ({"part": np.full(4, "fc")}, "no operators of the parts attention"),
        ({"format": np.full(4, "float16")}, "must be float32 on eager machines, got float16"),
    ],
)
def test_traces_that_cannot_run_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    trace = Trace("toy", {}, {}, WORLD | change if change else {})
    with pytest.raises(ValueError, match=message):
        run_eager(machine(), trace, None, {})


def test_planner_is_registered() -> None:
    assert find_planner("eager") is run_eager


def test_host_time_that_cannot_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"toy: the device alone takes longer than 1\.0 s"):
        fit_host_time(machine(), WORLD, 1.0)


@pytest.mark.parametrize("name", ["titan_xp", "xeon_e5_2640v4"])
def test_host_time_of_the_file_is_the_fit_to_the_fc_part(name: str) -> None:
    shipped = load_machine(name)
    assert isinstance(shipped, EagerMachine)
    anchor = float(published()[f"{name}.gpt2_medium.fc_ms"]["published"]) / 1e3
    fitted = fit_host_time(shipped, generation(MEDIUM, "fc"), anchor)
    assert shipped.host.operator_s == pytest.approx(fitted, rel=1e-5)


def published() -> dict[str, dict[str, str]]:
    with (PUBLISHED / "spatten_baselines.csv").open(newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_published_rows_have_a_role_and_a_simulated_value() -> None:
    rows = published()
    assert set(rows) == set(simulated_baselines())
    assert {row["role"] for row in rows.values()} <= {"input", "identity", "anchor", "prediction"}


def test_identities_and_anchors_hold() -> None:
    simulated = simulated_baselines()
    for name, row in published().items():
        if row["role"] != "prediction":
            assert simulated[name] == pytest.approx(float(row["published"]), rel=0.02), name


def test_simulated_values_are_the_golden_ones() -> None:
    """FC and attention predictions among them; first_contact/ keeps the first run and never changes."""
    golden = json.loads((Path(__file__).parent / "golden" / "spatten_baselines.json").read_text())
    assert simulated_baselines() == pytest.approx(golden, rel=1e-6)
