"""What is assumed, and how far each row moves over the assumed ranges, one assumption at a time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import hypot
from typing import Any

from analysis.reproduce.points import Outcome, Point, Runs
from analysis.reproduce.workload import SAMPLE

ENERGY = ".cost.energy_pj"  # energy is linear in these: priced again, not simulated again
Rows = Mapping[str, float]


@dataclass(frozen=True)
class Variant:
    """One assumption at one end of its range.

    change   what becomes of a point
    scale    component -> factor on its energy, where no new simulation is needed
    """

    name: str
    end: str
    change: Callable[[Point], Point]
    scale: Callable[[Point], Mapping[str, float]] = lambda point: {}

    def runs(self, runs: Runs) -> Runs:
        """The same outcomes under this variant."""
        return lambda point: _scaled(runs(self.change(point)), self.scale(point))


UNCHANGED = Variant("as assumed", "", lambda point: point)


def _scaled(one: Outcome, factors: Mapping[str, float]) -> Outcome:
    if not factors:
        return one
    energy = {name: joules * factors.get(name, 1.0) for name, joules in one.energy.items()}
    return replace(one, energy=energy, energy_j=one.energy_j + sum(energy.values()) - sum(one.energy.values()))


def machine_variants(name: str) -> list[Variant]:
    """Both ends of each assumed number of a machine, applied to all machines that assume the same number."""
    return [_machine_variant(path, end) for path in _ranges(name) for end in ("low", "high")]


@lru_cache
def _ranges(name: str) -> Mapping[str, tuple[float, float]]:
    from accel.machine import assumptions

    return assumptions(name)


def _machine_variant(path: str, end: str) -> Variant:
    if path.endswith(ENERGY):
        return Variant(path, end, lambda point: point, lambda point: _factor(point.machine, path, end))
    return Variant(path, end, lambda point: _moved(point, path, end))


def _at(machine: str, path: str, end: str) -> Any:
    return _ranges(machine)[path][("low", "high").index(end)]


def _moved(point: Point, path: str, end: str) -> Point:
    taken = {name for name, _ in point.settings}
    if path not in _ranges(point.machine) or path in taken:
        return point
    return replace(point, settings=((path, _whole(_at(point.machine, path, end))), *point.settings))


def _whole(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


@lru_cache
def _factor(machine: str, path: str, end: str) -> dict[str, float]:
    from accel.machine import load_machine

    if path not in _ranges(machine):
        return {}
    value: Any = load_machine(machine)
    for key in path.split("."):
        value = getattr(value, key)
    return {path.split(".")[1]: _at(machine, path, end) / value} if value else {}


def _policy(**values: Any) -> Callable[[Point], Point]:
    return lambda point: point.with_policy(**values) if _is_own(point) else point


def _is_own(point: Point) -> bool:
    """A benchmark under a policy of its own: dense runs and plain shapes have nothing to assume there."""
    return "_" in point.workload and ("dense", True) not in point.policy


def _change(**values: Any) -> Callable[[Point], Point]:
    return lambda point: replace(point, changes=(*point.changes, *values.items())) if "_" in point.workload else point


def _where(prefix: str, change: Callable[[Point], Point]) -> Callable[[Point], Point]:
    return lambda point: change(point) if point.workload.startswith(prefix) else point


# name -> (low, high): the paper leaves these open; docs/benchmarks.md says what is assumed and why
WORKLOAD: dict[str, tuple[Callable[[Point], Point], Callable[[Point], Point]]] = {
    "slope of the token schedule (0 to 0.9)": (_policy(token_taper=0.0), _policy(token_taper=0.9)),
    "V kept by local pruning on GPT-2 (0.2 to 0.3)": (
        _where("gpt2", _policy(value_keep=0.2)),
        _where("gpt2", _policy(value_keep=0.3)),
    ),
    "V kept by local pruning on BERT (0.5 to 1)": (_where("bert", _policy(value_keep=0.5)), _where("bert", _policy())),
    "bits on BERT (4 to 8)": tuple(  # type: ignore[dict-item]
        _where("bert", _policy(query_bits=bits, key_msb_bits=bits, value_bits=bits)) for bits in (4, 8)
    ),
    "tokens kept (-15 to +15 %)": (_policy(token_scale=0.85), _policy(token_scale=1.15)),
    "share of rows that need LSBs (half to double)": (_change(lsb_scale=0.5), _change(lsb_scale=2.0)),
    "lengths of the BERT tasks (-10 to +10 %)": (
        _where("bert", _change(token_scale=0.9)),
        _where("bert", _change(token_scale=1.1)),
    ),
}


def workload_variants() -> list[Variant]:
    """Both ends of each assumption about the benchmarks."""
    ends = ("low", "high")
    return [
        Variant(name, end, change) for name, pair in WORKLOAD.items() for end, change in zip(ends, pair, strict=True)
    ]


def sampled(runs: Runs) -> Runs:
    """The same outcomes from a sample of the generated tokens: differences need no more."""
    return lambda point: runs(replace(point, every=SAMPLE))


def intervals(ours: Rows, base: Rows, moved: Mapping[Variant, Rows]) -> dict[str, tuple[float, float]]:
    """Low and high of each row: deviations of all assumptions, down and up apart, as the root of their squares.

    base, moved   the rows without and with each variant, from the same sample; deviations are relative to `base`
    """
    spans = {}
    for name, value in ours.items():
        if name in base:
            down, up = (hypot(*shift) / abs(base[name]) for shift in _by_assumption(name, base[name], moved))
            spans[name] = (value - abs(value) * down, value + abs(value) * up)
    return spans


def _by_assumption(name: str, value: float, moved: Mapping[Variant, Rows]) -> tuple[list[float], list[float]]:
    """The largest fall and the largest rise that each assumption causes."""
    falls: dict[str, float] = {}
    rises: dict[str, float] = {}
    for variant, rows in moved.items():
        shift = rows.get(name, value) - value
        falls[variant.name] = min(falls.get(variant.name, 0.0), shift)
        rises[variant.name] = max(rises.get(variant.name, 0.0), shift)
    return list(falls.values()), list(rises.values())


def sensitivity(base: Rows, moved: Mapping[Variant, Rows], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """For each assumption and end: the relative change of each named row, largest first."""
    lines = [
        {"assumption": v.name, "end": v.end} | {name: rows[name] / base[name] - 1 for name in names}
        for v, rows in moved.items()
    ]
    return sorted(lines, key=lambda line: -max(abs(line[name]) for name in names))
