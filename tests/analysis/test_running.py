"""Sweeps from end to end on a quick machine: determinism, resume, failures."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from analysis.findings import find
from analysis.results import read_results, write_results
from analysis.running import SweepRun, crew_for, run_sweep
from analysis.sweep import Sweep, read_sweep
from tests.analysis.kill_resume import KillTest

SWEEP = """\
machine: titan_xp
workload: minilm
set:
  machine.compute.efficiency: {from: 0.1, to: 1.0, steps: 10}
  machine.memory.bandwidth_bytes_per_s: {from: 1e11, to: 1e12, log: 3}
  machine.power.dynamic_w: [50, 100]
objectives: {latency_s: min, energy_j: min}
constraints: [energy_j <= 4]
baselines: [xeon_e5_2640v4]
"""
AXES = SWEEP[SWEEP.index("set:") : SWEEP.index("objectives:")]
SPATTEN_AXES = "policy: {key_msb_bits: 8}\nset:\n  policy.token_keep: [0.3]\n"


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    path = tmp_path / "quick.yaml"
    path.write_text(SWEEP)
    return read_sweep(path)


def parquet(run: SweepRun, path: Path) -> bytes:
    write_results(run, path)
    return path.read_bytes()


def test_same_bytes_whatever_the_workers_and_the_store(sweep: Sweep, tmp_path: Path) -> None:
    one = run_sweep(sweep, workers=1, store=tmp_path / "one.sqlite")
    two = run_sweep(sweep, workers=2, store=tmp_path / "two.sqlite")
    again = run_sweep(sweep, workers=2, store=tmp_path / "two.sqlite")
    assert (one.computed, two.computed, again.computed) == (60, 60, 0)
    assert parquet(one, tmp_path / "1") == parquet(two, tmp_path / "2") == parquet(again, tmp_path / "3")


def test_a_limited_run_is_taken_up_by_a_whole_one(sweep: Sweep) -> None:
    assert run_sweep(sweep, workers=1, limit=7).computed == 7
    assert run_sweep(sweep, workers=1).computed == 53
    assert run_sweep(sweep, workers=1, limit=7, fresh=True).computed == 7


def test_progress_counts_up_to_the_total(sweep: Sweep) -> None:
    seen: list[tuple[int, int, int]] = []
    run_sweep(sweep, workers=1, limit=5, progress=lambda *state: seen.append(state))
    run_sweep(sweep, workers=1, limit=6, progress=lambda *state: seen.append(state))
    assert seen == [*((n, 5, 0) for n in range(6)), (5, 6, 0), (6, 6, 0)]


def test_the_table(sweep: Sweep, tmp_path: Path) -> None:
    run = run_sweep(sweep, workers=1)
    write_results(run, tmp_path / "results.parquet")
    rows = read_results(tmp_path / "results.parquet")
    assert [row["key"] for row in rows] == sorted(run.keys)
    assert {(row["status"], row["reason"]) for row in rows} == {("ok", "")}
    axes = [tuple(row[axis] for axis in sweep.axes) for row in rows]
    assert sorted(axes) == sorted(itertools.product(*sweep.axes.values()))
    assert all(row["feasible"] == (row["energy_j"] <= 4) for row in rows)
    assert any(row["feasible"] for row in rows)
    best = min(row["energy_j"] for row in rows if row["feasible"])
    assert [row["pareto"] for row in rows if row["feasible"] and row["energy_j"] == best].count(True) >= 1
    for row in rows:
        parts = [value for name, value in row.items() if name.startswith("energy_j.") and value is not None]
        assert sum(parts) == pytest.approx(row["energy_j"])
    assert not any("time" in name or "host" in name.split(".")[0] for name in rows[0])


def test_a_point_that_raises_is_recorded_and_the_sweep_goes_on(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataflow.simulate

    real = dataflow.simulate.simulate

    def moody(machine: Any, *arguments: Any, **options: Any) -> Any:
        if machine.compute.efficiency == 0.5:
            raise ValueError("compute.efficiency: 0.5 is not to my taste")
        return real(machine, *arguments, **options)

    monkeypatch.setattr(dataflow.simulate, "simulate", moody)
    run = run_sweep(sweep, workers=1)
    write_results(run, tmp_path / "t")
    failed = [row for row in read_results(tmp_path / "t") if row["status"] == "failed"]
    assert len(failed) == len(run.failures) == 6
    assert {row["reason"] for row in failed} == {"ValueError: compute.efficiency: 0.5 is not to my taste"}
    assert {row["machine.compute.efficiency"] for row in failed} == {0.5}
    assert {row["latency_s"] for row in failed} == {None}
    monkeypatch.undo()
    assert run_sweep(sweep, workers=1, store=run.store.path).computed == 6


def test_killed_at_any_moment_it_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "quick.yaml"
    path.write_text(SWEEP.replace("steps: 10", "steps: 100"))
    outcome = KillTest(path, tmp_path, workers=2, seed=7).run(kills=3)
    assert outcome.same_bytes
    assert outcome.kills == 3
    assert outcome.repeated_chunks <= 2 * outcome.kills


def test_effects_and_choice(sweep: Sweep) -> None:
    findings = find(run_sweep(sweep, workers=1))
    change = {(e.axis, e.objective): e.largest_change for e in findings.effects}
    assert change["machine.power.dynamic_w", "energy_j"] == pytest.approx(1.0)
    assert change["machine.power.dynamic_w", "latency_s"] == 0.0
    assert findings.chosen is not None
    assert findings.chosen["pareto"]
    assert list(findings.compared)[-1] == "xeon_e5_2640v4"


def test_what_cannot_be_compared_is_noted(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataflow.simulate

    real = dataflow.simulate.simulate

    def choosy(machine: Any, *arguments: Any, **options: Any) -> Any:
        if machine.name == "xeon_e5_2640v4":
            raise ValueError("operators: not recorded")
        return real(machine, *arguments, **options)

    monkeypatch.setattr(dataflow.simulate, "simulate", choosy)
    findings = find(run_sweep(sweep, workers=1))
    assert list(findings.compared) == ["best energy x delay", "titan_xp as given"]
    assert findings.notes == ["xeon_e5_2640v4: operators: not recorded"]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_findings_need_is_simulated_once(sweep: Sweep, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    with crew_for(sweep, workers=workers) as crew:
        findings = find(run_sweep(sweep, crew=crew))
        findings.begin(crew)
        told = (findings.compared, findings.interval, findings.replays)
    assert [name for name, *_ in findings.replays] == ["mild", "middle", "strong"]
    monkeypatch.setattr("analysis.findings.evaluate", None)  # all of it comes from the store
    again = find(run_sweep(sweep, workers=1))
    with crew_for(sweep, workers=workers) as crew:
        monkeypatch.setattr(crew, "submit", None)
        again.begin(crew)
    assert (again.compared, again.interval, again.replays) == told


def test_pruning_in_the_loop_is_another_point_than_its_replay(tmp_path: Path) -> None:
    path = tmp_path / "quick.yaml"
    path.write_text(SWEEP.replace("machine: titan_xp", "machine: spatten").replace(AXES, SPATTEN_AXES))
    findings = find(run_sweep(read_sweep(path), workers=1))
    for _, in_loop, replay in findings.replays:
        assert in_loop["latency_s"] != replay["latency_s"]
        assert in_loop["rows"] == replay["rows"]


def test_interval_comes_from_the_assumed_ranges(tmp_path: Path) -> None:
    path = tmp_path / "device_bound.yaml"
    path.write_text(SWEEP.replace("machine.power.dynamic_w: [50, 100]", "machine.host.operator_s: [0, 1e-7]"))
    findings = find(run_sweep(read_sweep(path), workers=1))
    assert findings.chosen is not None
    low, high = findings.interval["latency_s"]
    assert low < findings.chosen["latency_s"] < high
    again = find(run_sweep(read_sweep(path), workers=1, store=tmp_path / "other.sqlite"))
    assert again.interval == findings.interval
