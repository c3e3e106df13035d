"""One point: from settings to a `Result`, and its key in the store."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from analysis.api import own_policy
from analysis.cache import use_kernel_cache
from analysis.sources import source_hash
from analysis.store import Row, Store, point_key
from workloads.policy import Policy

Settings = dict[str, Any]  # values by dotted path
Task = tuple[str, Settings]  # key and settings of a point


@dataclass(frozen=True)
class Bench:
    """What the points of a sweep share; small, so that it can be sent to a worker.

    in_loop   name of a policy that the workload recorded inside its forward pass: run that instead of a replay
    """

    machine: str
    workload: str
    policy: Policy
    store: Path
    in_loop: str = ""


_here: dict[str, Any] = {}


def prepare(bench: Bench) -> None:
    """Before the first chunk of a worker: kernels' cache, the trace, the store."""
    use_kernel_cache()
    from workloads.trace import load_workload

    if _here.get("bench") == bench:
        return
    _here.update(bench=bench, trace=load_workload(bench.workload), store=Store(bench.store))


def run_chunk(tasks: list[Task]) -> list[str | None]:
    """Simulate and store a chunk; gives the reason of each failure, None for a success."""
    rows: dict[str, Row] = {}
    errors: list[str | None] = []
    for key, settings in tasks:
        try:
            rows[key] = evaluate(_here["bench"], settings).to_dict()
            errors.append(None)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
    _here["store"].put(rows)
    return errors


def evaluate(bench: Bench, settings: Mapping[str, Any], **options: Any) -> Any:
    """`Result` of one point; raises what the machine, the policy or the planner refuses."""
    use_kernel_cache()
    from dataflow.simulate import simulate
    from workloads.trace import load_workload

    machine, policy = resolve_point(bench, settings)
    trace = load_workload(bench.workload)
    if bench.in_loop:
        from workloads.replay import recorded_work

        options["work"] = recorded_work(trace, bench.in_loop)
    return simulate(machine, trace, policy, **options)


def store_point(bench: Bench, key: str, settings: Settings) -> None:
    """In a worker: simulate and store a point of any bench; raises what `evaluate` raises."""
    _here["store"].put({key: evaluate(bench, settings).to_dict()})


def resolve_point(bench: Bench, settings: Mapping[str, Any]) -> tuple[Any, Policy | None]:
    """Machine and policy with the settings of a point applied; no policy where the pruning is recorded."""
    base = _base_policy(bench.workload, bench.policy)
    policy = None if is_recorded(bench.workload) else _policy(base, _part(settings, "policy."))
    return _machine(bench.machine, _part(settings, "machine.")), policy


def is_recorded(workload: str) -> bool:
    """Whether the pruning is part of the trace."""
    return load_made(workload).get("kind") == "recorded"


def load_made(workload: str) -> Mapping[str, Any]:
    """How a workload came about: `Trace.made`."""
    from workloads.trace import load_workload

    return load_workload(workload).made


def key_of(bench: Bench, settings: Mapping[str, Any]) -> str:
    """The key of a point in the store."""
    machine, policy = resolve_point(bench, settings)
    described = {} if policy is None else policy.model_dump(mode="json")
    workload = workload_hash(bench.workload) + (f" {bench.in_loop} in the loop" if bench.in_loop else "")
    return point_key(machine.model_dump(mode="json"), described, workload, source_hash())


def _part(settings: Mapping[str, Any], prefix: str) -> tuple[tuple[str, Any], ...]:
    return tuple((k.removeprefix(prefix), _frozen(v)) for k, v in settings.items() if k.startswith(prefix))


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


@lru_cache(maxsize=1024)
def _machine(name: str, overrides: tuple[tuple[str, Any], ...]) -> Any:
    from accel.machine import load_machine

    return load_machine(name, dict(overrides))


def _base_policy(workload: str, policy: Policy) -> Policy:
    """What a sweep says of its policy, over what a benchmark says of its own."""
    own = own_policy(load_made(workload))
    return Policy.model_validate({**own, **policy.model_dump(exclude_unset=True)}) if own else policy


@lru_cache(maxsize=1024)
def _policy(base: Policy, overrides: tuple[tuple[str, Any], ...]) -> Policy:
    return Policy.model_validate({**base.model_dump(), **dict(overrides)})


@lru_cache(maxsize=16)
def workload_hash(name: str) -> str:
    """SHA-256 over all that a trace holds."""
    from workloads.trace import load_workload

    trace = load_workload(name)
    digest = hashlib.sha256(json.dumps([trace.name, dict(trace.model), dict(trace.made)], sort_keys=True).encode())
    for part in (trace.operators, trace.facts):
        for column in sorted(part):
            values = part[column]
            digest.update(f"{column} {values.dtype.str} {values.shape}".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()
