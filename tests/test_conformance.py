"""What every shipped machine, standard and workload must do; a newcomer is covered by being there."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import accel.machine
from accel.machine import Machine, load_machine, load_standard, machine_names, standard_names
from accel.spatten import SpattenMachine
from dataflow.lowering import find_planner, planner
from dataflow.memory import dram_spec, peak_bytes_per_s
from dataflow.simulate import PLANNED, simulate
from sim.result import Result
from workloads.policy import Policy
from workloads.replay import attention_work
from workloads.trace import load_workload, workload_names
from workloads.trace_file import read_trace, write_trace

FILES = sorted(Path(accel.machine.__file__).parent.glob("s*/*.yaml"))
POLICIES = {
    "dense": Policy(),
    "pruned": Policy(token_keep=0.4, head_keep=0.8, value_keep=0.5, key_msb_bits=8, key_lsb_bits=4),
}
NUMBER = re.compile(r":\s*(\{.*\}|\[[\d., ]+\]|[-+]?[\d_.]+(e[-+]?\d+)?)\s*$")
machines = pytest.mark.parametrize("machine", machine_names())
workloads = pytest.mark.parametrize("workload", workload_names())
policies = pytest.mark.parametrize("policy", POLICIES)


def prunes(machine: Machine) -> bool:
    """SpAtten's datapath alone refuses to select."""
    return not isinstance(machine, SpattenMachine) or machine.units.topk.engines > 0


def run(machine: str, workload: str, policy: str, **options: object) -> tuple[Machine, Result]:
    loaded = load_machine(machine)
    if policy == "pruned" and not prunes(loaded):
        pytest.skip("refuses to prune")
    return loaded, simulate(loaded, load_workload(workload), POLICIES[policy], **options)  # type: ignore[arg-type]


def test_there_is_something_to_conform() -> None:
    assert {"spatten", "titan_xp", "xeon_e5_2640v4"} <= set(machine_names())
    assert "minilm" in workload_names()
    assert "hbm2" in standard_names()
    assert len(FILES) == len(machine_names()) + len(standard_names())


@machines
def test_machine_survives_dump_and_load(machine: str) -> None:
    loaded = load_machine(machine)
    assert type(loaded).model_validate(loaded.model_dump()) == loaded
    assert type(loaded).model_validate_json(loaded.model_dump_json()) == loaded
    assert loaded.name == machine
    assert callable(find_planner(loaded.planner))


@pytest.mark.parametrize("standard", standard_names())
def test_standard_survives_dump_and_load(standard: str) -> None:
    loaded = load_standard(standard)
    assert type(loaded).model_validate_json(loaded.model_dump_json()) == loaded
    assert loaded.name == standard


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_number_says_where_it_comes_from(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    bare = [line for line in lines if NUMBER.search(line.split("#")[0].rstrip()) and not line.partition("#")[2].strip()]
    assert not bare


def test_numbers_without_origin_are_seen() -> None:
    for line in ("a: 1", "a: 1_000", "a: 2.5e-3", "a: {assumed: 1, low: 1, high: 2}", "a: [1, 2]"):
        assert NUMBER.search(line)
    for line in ("a: b", "a: hbm2", "a:", "a: true", "a: DDR4, 2400"):
        assert not NUMBER.search(line)


@workloads
def test_workload_survives_write_and_read(workload: str, tmp_path: Path) -> None:
    path = tmp_path / "copy.zip"
    write_trace(load_workload(workload), path)
    first = path.read_bytes()
    write_trace(read_trace(path), path)
    assert path.read_bytes() == first


@machines
@workloads
@policies
def test_every_machine_runs_every_workload(machine: str, workload: str, policy: str) -> None:
    """Parts add up, nothing is negative, no unit is busier than the run is long, at least what was asked is moved."""
    loaded, result = run(machine, workload, policy)
    assert result.cycles > 0
    assert result.latency_s == pytest.approx(result.cycles / loaded.clock_hz, rel=1e-6)
    assert sum(result.critical_path.values()) == result.cycles
    assert result.critical_path[result.limited_by] == max(result.critical_path.values())
    assert sum(result.sequence_latency_s) == pytest.approx(result.latency_s)
    assert all(0 < share <= 1 for share in result.utilisation.values())
    parts = (result.dram_read_bytes, result.dram_write_bytes, result.energy_j, result.operations, result.counts)
    assert all(amount >= 0 for part in parts for amount in part.values())
    assert sum(result.dram_read_bytes.values()) > 0
    assert sum(result.operations.values()) > 0
    assert sum(result.energy_j.values()) > 0
    flat = result.to_dict()
    assert flat["executed_operations"] == sum(result.operations.values())
    assert result.left_out


planned_machines = pytest.mark.parametrize(
    "machine", [name for name in machine_names() if load_machine(name).planner in PLANNED]
)
spatten_machines = pytest.mark.parametrize(
    "machine", [name for name in machine_names() if isinstance(load_machine(name), SpattenMachine)]
)


@planned_machines
@workloads
@policies
@pytest.mark.parametrize("memory", ["dram", "ideal"])
def test_both_engines_give_the_same_result(machine: str, workload: str, policy: str, memory: str) -> None:
    """On the two shortest sequences; every number of the result."""
    work = attention_work(load_workload(workload), POLICIES[policy])
    shortest = sorted(work, key=lambda sequence: int(sequence.queries.sum()))[:2]
    results = [
        run(machine, workload, policy, engine=engine, memory=memory, work=shortest)[1]
        for engine in ("compiled", "simpy")
    ]
    assert results[0] == results[1]


@spatten_machines
@workloads
@policies
def test_spatten_machines_stay_above_their_bounds(machine: str, workload: str, policy: str) -> None:
    loaded, result = run(machine, workload, policy)
    assert isinstance(loaded, SpattenMachine)
    standard = load_standard(loaded.memory.standard)
    moved = sum(result.dram_read_bytes.values()) + sum(result.dram_write_bytes.values())
    assert moved == (result.dram_commands["reads"] + result.dram_commands["writes"]) * standard.organisation.burst_bytes
    assert sum(result.dram_requested_bytes.values()) <= moved
    assert result.latency_s >= moved / peak_bytes_per_s(loaded.memory, standard)
    arrays = (loaded.units.query_key.multipliers + loaded.units.prob_value.multipliers) * loaded.pipelines
    assert result.cycles >= sum(result.operations.values()) / (2 * arrays)
    refreshes = result.latency_s * standard.clock_hz / standard.timing.refresh_interval_cycles
    pseudo = loaded.memory.channels * standard.organisation.pseudo_channels
    runs = len(result.sequence_latency_s) + result.counts.get("fc_runs", 0)  # each misses less than one refresh
    assert (refreshes - runs) * pseudo <= result.dram_commands["refreshes"] <= refreshes * pseudo
    assert dram_spec(loaded.memory, standard, loaded.clock_hz).channels == loaded.memory.channels


@spatten_machines
@workloads
def test_cascade_pruning_saves_time_bytes_and_energy(machine: str, workload: str) -> None:
    """Of tokens and heads. Local value pruning need not: in a prompt its top-k takes longer than what it spares."""
    loaded, trace = load_machine(machine), load_workload(workload)
    if not prunes(loaded):
        pytest.skip("refuses to prune")
    policies = (Policy(), Policy(token_keep=0.4, head_keep=0.8))
    dense, pruned = (simulate(loaded, trace, policy).to_dict() for policy in policies)
    for quantity in ("cycles", "dram_read_bytes", "energy_j", "executed_operations"):
        assert pruned[quantity] < dense[quantity]
    assert pruned["effective_operations"] == dense["effective_operations"]


@planned_machines
@workloads
def test_sequences_are_run_one_after_another(machine: str, workload: str) -> None:
    work = attention_work(load_workload(workload), POLICIES["pruned"])[:3]
    alone = [run(machine, workload, "pruned", work=[replace(sequence)])[1] for sequence in work]
    together = run(machine, workload, "pruned", work=work)[1]
    assert together.cycles == sum(result.cycles for result in alone)
    assert together.dram_read_bytes == {
        name: sum(result.dram_read_bytes[name] for result in alone) for name in together.dram_read_bytes
    }


def test_a_planner_name_is_given_once() -> None:
    with pytest.raises(ValueError, match=r"planner 'spatten' is already registered by dataflow\.spatten\.run"):
        planner("spatten")(lambda: None)
    with pytest.raises(ValueError, match=r"no planner 'nobody'; known: a3, eager, .*spatten"):
        find_planner("nobody")


def test_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="engine: must be one of compiled, simpy, got 'fast'"):
        run("spatten", "minilm", "dense", engine="fast")
