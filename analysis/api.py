"""Short ways into tilewright for Python: names instead of objects, tables instead of files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from analysis.running import SweepRun
    from sim.result import Result
    from workloads.policy import Policy

Engine = Literal["compiled", "simpy"]
Memory = Literal["dram", "ideal"]


def run(machine: str, workload: str, settings: Mapping[str, Any] | None = None, **policy: Any) -> "Result":
    """One point by names: `run("spatten", "minilm", token_keep=0.5)`.

    settings   machine values by dotted path, `{"units.topk.comparators": 4}`
    Raises Faults for what machine or policy refuse, ValueError for an unknown name.
    """
    return simulate_point(machine, workload, settings or {}, policy)


def pareto(
    rows: "SweepRun | Sequence[Mapping[str, Any]]", objectives: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """The non-dominated rows of a finished sweep, or of dictionaries with the objectives as keys.

    objectives   key -> "min" or "max"; a sweep brings its own
    """
    from analysis.findings import find
    from analysis.pareto import non_dominated
    from analysis.running import SweepRun

    if isinstance(rows, SweepRun):
        return find(rows).front
    if not objectives:
        raise ValueError("objectives: must name at least one key, got none")
    keep = non_dominated([[row[key] for key in objectives] for row in rows], list(objectives.values()))
    return [dict(row) for row, kept in zip(rows, keep, strict=True) if kept]


def simulate_point(
    machine: str,
    workload: str,
    settings: Mapping[str, Any],
    policy: Mapping[str, Any],
    engine: Engine = "compiled",
    memory: Memory = "dram",
    timeline: Path | None = None,
    origins: tuple[str, str] = ("settings", "policy"),
) -> "Result":
    """One point by names and overrides; Faults name `origins` as the place of what does not fit."""
    from analysis.cache import use_kernel_cache

    use_kernel_cache()
    from accel.machine import load_machine
    from dataflow.simulate import simulate
    from workloads.trace import load_workload

    hardware = {k.removeprefix("machine."): v for k, v in settings.items() if not k.startswith("policy.")}
    software = {k.removeprefix("policy."): v for k, v in settings.items() if k.startswith("policy.")}
    loaded = load_machine(machine, hardware, origins[0])
    trace = load_workload(workload)
    chosen = policy_for(trace.made, {**software, **policy}, origins[1])
    options: dict[str, Any] = {"timeline": timeline} if timeline else {}
    return simulate(loaded, trace, chosen, engine="simpy" if timeline else engine, memory=memory, **options)


def other_configuration(machine: str, settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The machine that this one's memory names in `compare_with`, and the settings that are not about the memory.

    None where it names none.
    """
    from accel.machine import load_machine

    other = getattr(getattr(load_machine(machine), "memory", None), "compare_with", None)
    if other is None:
        return None
    return other, {k: v for k, v in settings.items() if "memory." not in k}


def policy_for(made: Mapping[str, Any], values: Mapping[str, Any], origin: str = "policy") -> "Policy | None":
    """The policy with the given keys, which change a benchmark's own; None where the pruning is recorded.

    made   `Trace.made`. Raises Faults for what a policy refuses, ValueError for keys where there is none.
    """
    from accel.loading import Faults, check, read_text
    from workloads.policy import Policy

    if made.get("kind") == "recorded":
        if values:
            raise ValueError(f"{origin}: the pruning is recorded in this workload, got {', '.join(values)}")
        return None
    try:
        return check(read_text(json.dumps({**own_policy(made), **values}).encode(), origin), Policy)
    except Faults as error:
        raise Faults(replace(fault, line=0, column=0) for fault in error.faults) from None


def own_policy(made: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a benchmark or a decoding step states of its own pruning; nothing for other workloads."""
    own: Mapping[str, Any] = made.get("policy", {})
    return own
