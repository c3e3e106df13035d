"""`Findings`: all that a finished sweep has to say, for the screen, the page, the figures and JSON alike."""

import random
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from analysis.api import other_configuration
from analysis.effects import Effect, effects, weak_axes
from analysis.evaluate import Bench, Settings, evaluate, key_of, store_point
from analysis.executors import Crew
from analysis.quantities import flat, is_number
from analysis.results import judge
from analysis.running import SweepRun
from analysis.sources import source_hash
from analysis.store import Row
from workloads.policy import Policy

DRAWS = 16
Run = tuple[Bench, Settings]
INTERVAL = ("latency_s", "energy_j", "area_mm2")


@dataclass
class Findings:
    """A finished sweep; what needs further simulation is done once, on first use.

    rows    every simulated point: key, settings, flat columns, feasible, pareto; sorted by key
    notes   what could not be compared, and why
    """

    run: SweepRun
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _pending: dict[str, Future[None]] = field(default_factory=dict, init=False, repr=False)

    def begin(self, crew: Crew) -> None:
        """Have what needs further simulation done by a crew meanwhile; a repeat finds it in the store."""
        points = [*self._compared_runs().values(), *self._replay_runs(), *self._draw_runs()]
        keyed = {self._key(*run): run for run in points}
        known = self.run.store.known(key for key in keyed if key)
        for key, (bench, settings) in keyed.items():
            if key and key not in known:
                self._pending[key] = crew.submit(store_point, bench, key, settings)

    @property
    def front(self) -> list[dict[str, Any]]:
        """The Pareto points by rising first objective."""
        first = next(iter(self.run.sweep.objectives))
        return sorted((row for row in self.rows if row["pareto"]), key=lambda row: (row[first], row["key"]))

    @cached_property
    def effects(self) -> list[Effect]:
        """Main effect of each axis on each objective."""
        sweep = self.run.sweep
        return effects(self.rows, sweep.axes, list(sweep.objectives))

    @cached_property
    def weak_axes(self) -> list[str]:
        """Axes that move nothing by 2 %."""
        return weak_axes(self.effects)

    @cached_property
    def bench(self) -> Bench:
        """The sweep's own machine, workload and policy."""
        sweep = self.run.sweep
        return Bench(sweep.machine, sweep.workload, sweep.policy, self.run.store.path)

    @property
    def chosen(self) -> dict[str, Any] | None:
        """The Pareto point with the least energy-delay product."""
        return min(self.front, key=lambda row: (row["energy_j"] * row["latency_s"], row["key"]), default=None)

    @cached_property
    def chosen_settings(self) -> Settings:
        """Axis values of the chosen point; empty where there is none."""
        return {axis: self.chosen[axis] for axis in self.run.sweep.axes} if self.chosen else {}

    @cached_property
    def compared(self) -> dict[str, Row]:
        """Whole results: the chosen point, also with the other DRAM configuration, the default machine, baselines."""
        found = {name: self.attempt(name, *run) for name, run in self._compared_runs().items()}
        return {name: row for name, row in found.items() if row is not None}

    def _compared_runs(self) -> dict[str, Run]:
        runs: dict[str, Run] = {"best energy x delay": (self.bench, self.chosen_settings)} if self.chosen else {}
        other = other_configuration(self.bench.machine, self.chosen_settings)
        if other and self.chosen:
            runs[f"best on {Path(other[0]).stem}"] = (replace(self.bench, machine=other[0]), other[1])
        runs[f"{Path(self.bench.machine).stem} as given"] = (self.bench, {})
        for name in self.run.sweep.baselines:
            runs[Path(name).stem] = (replace(self.bench, machine=name), {})
        return runs

    @cached_property
    def replays(self) -> list[tuple[str, Row, Row]]:
        """(policy, in the loop, replayed) for each policy that was also applied inside the forward pass."""
        runs = [self.attempt("a replay", *run) for run in self._replay_runs()]
        pairs = zip(recorded(self.bench.workload), runs[::2], runs[1::2], strict=True)
        return [(name, loop, replay) for name, loop, replay in pairs if loop and replay]

    def _replay_runs(self) -> list[Run]:
        """In the loop and replayed by turns, on the machine as given."""
        found: list[Run] = []
        for name, policy in recorded(self.bench.workload).items():
            bench = replace(self.bench, policy=policy)
            found += [(replace(bench, in_loop=name), {}), (bench, {})]
        return found

    @cached_property
    def interval(self) -> dict[str, tuple[float, float]]:
        """5 to 95 % of latency, energy and area of the chosen point over the machine's assumed ranges."""
        drawn = [self.attempt("a draw from the assumed ranges", *run) for run in self._draw_runs()]
        rows = [row for row in drawn if row is not None]
        return {key: _span([row[key] for row in rows]) for key in INTERVAL} if rows else {}

    def attempt(self, name: str, bench: Bench, settings: Mapping[str, Any]) -> Row | None:
        """`simulate`; a refusal becomes a note, since it must not cost the report of a finished sweep."""
        try:
            return self.simulate(bench, settings)
        except ValueError as error:
            self.notes.append(f"{name}: {error}")
            return None

    def simulate(self, bench: Bench, settings: Mapping[str, Any]) -> Row:
        """A result as a row, from the store where it has it."""
        key = key_of(bench, settings)
        if key in self._pending:  # should it have failed there, it is done here
            wait([self._pending.pop(key)])
        row = self.run.store.get(key)
        if row is None:
            row = evaluate(bench, settings).to_dict()
            self.run.store.put({key: row})
            row = self.run.store.get(key) or row
        return row

    def _key(self, bench: Bench, settings: Settings) -> str:
        """Empty for a point that is refused; `attempt` tells why."""
        try:
            return key_of(bench, settings)
        except ValueError:
            return ""

    def _draw_runs(self) -> list[Run]:
        return [(self.bench, settings) for settings in self._draws()]

    def _draws(self) -> Iterator[Settings]:
        from accel.machine import assumptions

        ranges = {f"machine.{path}": span for path, span in assumptions(self.bench.machine).items()}
        free = {path: span for path, span in ranges.items() if path not in self.chosen_settings}
        generator = random.Random(self.run.sweep.seed)
        for _ in range(DRAWS if free else 0):
            drawn = {path: _draw(generator, *span) for path, span in free.items()}
            yield {**self.chosen_settings, **drawn}

    @property
    def header(self) -> dict[str, str]:
        """What was run, in words."""
        from workloads.trace import load_workload

        sweep = self.run.sweep
        return {
            "machine": sweep.machine,
            "workload": sweep.workload,
            "how it was made": how_made(load_workload(sweep.workload)),
            "policy": ", ".join(f"{k}={v}" for k, v in sweep.policy.model_dump(exclude_defaults=True).items()),
            "points": f"{len(self.run.keys)} of {sweep.grid_size}, {len(self.run.failures)} failed",
            "objectives": ", ".join(f"{key} {sense}" for key, sense in sweep.objectives.items()),
            "constraints": ", ".join(map(str, sweep.constraints)) or "none",
            "seed": str(sweep.seed),
            "tilewright": package_version(),
            "sources": source_hash(),
        }

    def to_dict(self) -> dict[str, Any]:
        """For `--json`: keys with their units."""
        return {
            "run": self.header,
            "pareto": self.front,
            "effects": [asdict(effect) for effect in self.effects],
            "weak_axes": self.weak_axes,
            "compared": self.compared,
            "interval_5_95": self.interval,
            "failures": self.run.failures,
            "notes": self.notes,
        }


def find(run: SweepRun) -> Findings:
    """Collect the findings of a finished sweep."""
    feasible, pareto = judge(run)
    rows = []
    for (settings, key, row), good, best in zip(run.rows(), feasible, pareto, strict=True):
        if row is not None:
            rows.append({"key": key, **settings, **flat(row), "feasible": bool(good), "pareto": bool(best)})
    return Findings(run, rows)


def recorded(workload: str) -> dict[str, Policy]:
    """The policies that were applied inside the forward pass of a workload, by name."""
    from workloads.replay import recorded_policies, recorded_policy
    from workloads.trace import load_workload

    trace = load_workload(workload)
    return {name: recorded_policy(trace, name) for name in recorded_policies(trace)}


def how_made(trace: Any) -> str:
    """Model, kind and origin of a trace in one line."""
    told = [trace.made.get(key, "") for key in ("kind", "source", "texts", "computed")]
    device = trace.made.get("timed", {}).get("made", {}).get("device", {}).get("name")
    measured = f"measured on {device}" if device else ""
    name = trace.model.get("title") or trace.model.get("name", "")
    return "; ".join(str(part) for part in (name, *told, measured) if part)


def ratios(row: Row, reference: Row) -> dict[str, float]:
    """How many times as much of each quantity `row` takes as `reference`."""
    keys = ("latency_s", "dram_bytes", "energy_j")
    return {key: _ratio(total(row, key), total(reference, key)) for key in keys}


def _ratio(one: float, other: float) -> float:
    return one / other if other else float("nan")


def total(row: Row, key: str) -> float:
    """A quantity of a row; `dram_bytes` is read plus written."""
    if key == "dram_bytes":
        return float(row["dram_read_bytes"] + row["dram_write_bytes"])
    value = row[key]
    return float(value) if is_number(value) else float("nan")


def package_version() -> str:
    """Version of the installed package; a bare checkout has none."""
    try:
        return version("tilewright")
    except PackageNotFoundError:
        return "not installed"


def _draw(generator: random.Random, low: float, high: float) -> float:
    if isinstance(low, int) and isinstance(high, int):
        return generator.randint(low, high)
    return generator.uniform(low, high)


def _span(values: list[float]) -> tuple[float, float]:
    import numpy as np

    low, high = np.percentile(values, [5, 95])
    return float(low), float(high)
