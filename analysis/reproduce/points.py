"""Points of a published table: which machine runs which benchmark how; simulated once, kept in the store."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from analysis.cache import cache_folder, use_kernel_cache
from analysis.executors import Crew, run_tasks
from analysis.sources import source_hash
from analysis.store import Row, Store

Values = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Point:
    """One simulation.

    workload    a benchmark, or a dense shape, "12x12x384": layers, heads, tokens; or "1/128": one query, 128 keys
    settings    values of the machine by dotted path
    policy      what is changed of the benchmark's own policy, in order: a field; ("dense", True) drops the pruning,
                ("static", True) fetches the low bits with the high ones, ("token_scale", f) keeps f times the tokens
    changes     what is changed of the benchmark itself: ("token_scale", f), ("lsb_scale", f)
    parts       which operators an eager baseline runs
    every       > 0: of the generated tokens one in so many is simulated (docs/benchmarks.md has the error)
    """

    machine: str
    workload: str
    settings: Values = ()
    policy: Values = ()
    changes: Values = ()
    parts: tuple[str, ...] = ("attention",)
    every: int = 0

    def with_policy(self, **values: Any) -> "Point":
        """The same point with more of its policy changed."""
        return replace(self, policy=self.policy + tuple(values.items()))


@dataclass(frozen=True)
class Outcome:
    """What the tables need of a Result; sums over the workload."""

    latency_s: float = 1.0
    energy_j: float = 1.0
    dram_energy_j: float = 1.0
    dram_bytes: float = 1.0
    executed: float = 1.0
    effective: float = 1.0
    cycles: float = 1.0
    area_mm2: float = 1.0
    dense_bytes: float = 1.0
    counts: Mapping[str, float] = field(default_factory=lambda: defaultdict(lambda: 1.0))
    energy: Mapping[str, float] = field(default_factory=lambda: defaultdict(lambda: 1.0))
    read: Mapping[str, float] = field(default_factory=lambda: defaultdict(lambda: 1.0))
    path: Mapping[str, float] = field(default_factory=lambda: defaultdict(lambda: 1.0))

    @property
    def power_w(self) -> float:
        """Mean power."""
        return self.energy_j / self.latency_s


Runs = Callable[[Point], Outcome]


def needed(values: Callable[[Runs], object]) -> list[Point]:
    """The points that `values` asks for, found by asking it with outcomes that are all one."""
    points: dict[Point, Outcome] = {}
    values(lambda point: points.setdefault(point, Outcome()))
    return list(points)


def run_points(points: Iterable[Point], workers: int, done: Callable[[int, int], None]) -> dict[Point, Outcome]:
    """Simulate what the store lacks, on `workers` processes. Raises RuntimeError with the reasons of what failed.

    done    told (finished, total) after each point; an interrupted run goes on where it stopped
    """
    path = cache_folder() / "reproduce.sqlite"
    keys = {point: _key(point) for point in points}
    store = Store(path)
    known = store.known(keys.values())
    open_points = [point for point, key in keys.items() if key not in known]
    faults = []
    with Crew(max(1, min(workers, len(open_points))), _prepare, (str(path),)) as crew:
        for count, outcome in enumerate(run_tasks(open_points, _run_chunk, crew), 1):
            faults += [f"{outcome.task}: {outcome.error}"] if outcome.error else []
            done(count, len(open_points))
    if faults:
        raise RuntimeError("\n".join(faults))
    rows = dict(store.rows(keys.values()))
    store.close()
    return {point: Outcome(**rows[key]) for point, key in keys.items()}


def _key(point: Point) -> str:
    """Of the point and all sources that decide its outcome."""
    own = [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("points.py", "workload.py")]
    text = json.dumps([asdict(point), source_hash(), own], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


_here: dict[str, Any] = {}


def _prepare(store: str) -> None:
    use_kernel_cache()
    _here["store"] = Store(Path(store))


def _run_chunk(points: list[Point]) -> list[str | None]:
    rows: dict[str, Row] = {}
    errors: list[str | None] = []
    for point in points:
        try:
            rows[_key(point)] = asdict(simulate_outcome(point))
            errors.append(None)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
    _here["store"].put(rows)
    return errors


def simulate_outcome(point: Point) -> Outcome:
    """Simulate one point; raises what machine, policy or planner refuse."""
    from accel.machine import load_machine
    from analysis.reproduce.workload import dense_bytes, resolve

    machine = load_machine(point.machine, dict(point.settings))
    trace, policy, work = resolve(point, machine.planner)
    return _outcome(_simulate(machine, trace, policy, work, point.parts), dense_bytes(work))


def _simulate(machine: Any, trace: Any, policy: Any, work: Any, parts: tuple[str, ...]) -> dict[str, Any]:
    from dataflow.lowering import find_planner
    from dataflow.simulate import simulate

    if machine.planner == "eager":
        row: dict[str, Any] = find_planner("eager")(machine, trace, policy, {"parts": parts}).to_dict()  # type: ignore[attr-defined]
        return row
    return simulate(machine, trace, policy, work=work).to_dict()


def _outcome(row: Mapping[str, Any], dense: int) -> Outcome:
    energy = row["energy_j_by_component"]
    whole = {key: value for key, value in row.items() if isinstance(value, int) and not isinstance(value, bool)}
    return Outcome(
        latency_s=row["latency_s"],
        energy_j=row["energy_j"],
        dram_energy_j=sum(joules for name, joules in energy.items() if name.startswith("dram")),
        dram_bytes=row["dram_read_bytes"] + row["dram_write_bytes"],
        executed=row["executed_operations"],
        effective=row["effective_operations"],
        cycles=row["cycles"],
        area_mm2=row["area_mm2"],
        dense_bytes=dense,
        counts=whole,
        energy=energy,
        read=row["dram_read_bytes_by_operand"],
        path=row["critical_path_cycles_by_unit"],
    )
