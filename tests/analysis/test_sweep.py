"""Reading sweeps: what is accepted, what is refused and where."""

from pathlib import Path
from typing import Any

import pytest

from accel.loading import Faults
from analysis.sweep import (
    EXAMPLES,
    Sweep,
    example_names,
    find_sweep,
    point,
    points,
    read_sweep,
    selected,
)
from tests.mutations import Mutation, assert_refused, mutations
from workloads.policy import Policy

GOOD = """\
machine: titan_xp
workload: minilm
policy: {token_keep: 0.5}
set:
  machine.compute.efficiency: [0.6, 0.8]
  machine.host.operator_s: {from: 1e-6, to: 1e-4, log: 3}
  policy.value_keep: {from: 0.5, to: 1.0, steps: 2}
objectives: {latency_s: min, energy_j: min}
constraints: [latency_s <= 10]
baselines: [xeon_e5_2640v4]
seed: 1
"""


def write(folder: Path, text: str = GOOD, name: str = "good.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def faults(folder: Path, text: str) -> list[str]:
    path = write(folder, text)
    with pytest.raises(Faults) as error:
        read_sweep(path)
    return [str(fault).removeprefix(f"{path}:") for fault in error.value.faults]


def test_a_good_sweep(tmp_path: Path) -> None:
    sweep = read_sweep(write(tmp_path))
    assert (sweep.name, sweep.machine, sweep.workload) == ("good", "titan_xp", "minilm")
    assert sweep.policy == Policy(token_keep=0.5)
    assert sweep.grid_size == len(points(sweep)) == 12
    assert points(sweep)[1] == {
        "machine.compute.efficiency": 0.6,
        "machine.host.operator_s": 1e-6,
        "policy.value_keep": 1.0,
    }
    assert points(sweep)[-1]["machine.compute.efficiency"] == 0.8


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[0.6, 0.8]", "[0.6, 1.8]", "5:37: machine.compute.efficiency: must be <= 1, got 1.8"),
        ("[0.6, 0.8]", "[0.6, high]", '5:37: machine.compute.efficiency: must be a number, got "high"'),
        ("[0.6, 0.8]", "[0.6, 0.6]", "5:37: set.machine.compute.efficiency[1]: must not repeat a value"),
        ("[0.6, 0.8]", "[]", "5:31: set.machine.compute.efficiency: must have at least 1 entries"),
        ("[0.6, 0.8]", "0.6", "5:31: set.machine.compute.efficiency: must be a list, {from, to, steps} or"),
        ("compute.efficiency", "compute.eficiency", "5:3: machine.compute.eficiency: unknown path"),
        (
            "policy.value_keep",
            "policy.value_kep",
            "7:3: policy.value_kep: unknown path (did you mean 'value_k",
        ),
        (
            "policy.value_keep",
            "polcy.value_keep",
            "7:3: set.polcy.value_keep: must be machine.<path> or policy",
        ),
        ("from: 0.5, to", "from: 0, to", "7:22: policy.value_keep: must be > 0, got 0"),
        ("log: 3", "logs: 3", "6:51: set.machine.host.operator_s.logs: unknown key"),
        ("log: 3", "log: 1", "6:56: set.machine.host.operator_s.log: must be >= 2, got 1"),
        ("from: 1e-6", "from: -1", "set.machine.host.operator_s.from: must be > 0, got -1"),
        ("latency_s: min", "latency: min", "8:14: objectives.latency: must be a number of the result, got"),
        (
            "energy_j: min",
            "energy_j: mean",
            "8:40: objectives.energy_j: must be 'min' or 'max', got \"mean\"",
        ),
        (
            "latency_s <= 10",
            "latency_s =< 10",
            "9:15: constraints[0]: must be 'key op number': expected <= >=",
        ),
        ("latency_s <= 10", "latnecy_s <= 10", "9:15: constraints[0]: must be a number of the result"),
        ("xeon_e5_2640v4", "xeon", "10:13: baselines[0]: must be a shipped name or a file"),
        ("machine: titan_xp", "machine: titan_xq", "1:10: machine: must be a shipped name or a file"),
        ("workload: minilm", "workload: minlm", "did you mean 'minilm'?"),
        ("seed: 1", "seed: 1\nsearch: {method: random}", "search: must say how many points"),
        ("token_keep: 0.5", "token_keep: 1.5", "3:22: policy.token_keep: must be <= 1"),
    ],
)
def test_fault_has_its_place_and_rule(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert GOOD.count(old) == 1
    found = faults(tmp_path, GOOD.replace(old, new))
    assert any(expected in fault for fault in found), found


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("[0.6, 0.8]", "[1.8, -1]").replace("xeon_e5_2640v4", "xeon").replace("10]", "ten]")
    found = faults(tmp_path, text)
    assert [fault.partition(":")[0] for fault in found] == ["5", "5", "9", "10"]


def test_a_fault_of_the_machine_file_is_told_there(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("name: my\nplanner: eager\n")
    with pytest.raises(Faults, match=r"my\.yaml:1:1: compute: missing key"):
        read_sweep(write(tmp_path, GOOD.replace("machine: titan_xp", "machine: my.yaml")))


OPTIONAL = ("policy", "policy.token_keep", "constraints", "baselines", "seed")
FREE = ("set", "objectives")
CASES = [
    mutation
    for mutation in mutations(GOOD.encode(), OPTIONAL, FREE)
    if not mutation.name.startswith(("wrong type", "empty list baselines", "empty list constraints"))
]


@pytest.mark.parametrize("mutation", CASES, ids=lambda mutation: mutation.name)
def test_mutated_sweep_is_refused(mutation: Mutation, tmp_path: Path) -> None:
    assert_refused(mutation, tmp_path / "mutated.yaml", read_sweep)


def test_a_machine_path_is_relative_to_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accel.machine import find_machine

    (tmp_path / "mine.yaml").write_bytes(find_machine("titan_xp").read_bytes())
    path = write(tmp_path, GOOD.replace("machine: titan_xp", "machine: mine.yaml"))
    monkeypatch.chdir(tmp_path.parent)
    assert read_sweep(path).machine == str((tmp_path / "mine.yaml").resolve())


def make(axes: dict[str, tuple[Any, ...]], **more: Any) -> Sweep:
    return Sweep("made", "titan_xp", "minilm", Policy(), axes, {"latency_s": "min"}, **more)


def test_random_search_draws_different_points_by_its_seed(tmp_path: Path) -> None:
    text = GOOD + "search: {method: random, points: 5}\n"
    first, again = read_sweep(write(tmp_path, text)), read_sweep(write(tmp_path, text))
    other = read_sweep(write(tmp_path, text.replace("seed: 1", "seed: 2")))
    assert points(first) == points(again) != points(other)
    assert len({str(p) for p in points(first)}) == 5
    grid = make({"a": (1, 2), "b": tuple(range(500))})
    assert [point(grid, index) for index in selected(grid)] == points(grid)


def test_shipped_examples_resolve_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in example_names():
        (tmp_path / name).mkdir()  # where an earlier run has left its results
        for spelling in (name, f"{name}.yaml", f"examples/{name}.yaml"):
            assert find_sweep(spelling) == EXAMPLES / f"{name}.yaml"


@pytest.mark.parametrize("name", example_names())
def test_shipped_example_has_no_faults(name: str) -> None:
    assert read_sweep(name).grid_size >= 1
