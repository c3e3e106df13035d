"""What each axis of a sweep changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Row = Mapping[str, Any]
WEAK = 0.02  # an axis that never moves an objective by that much is a wasted axis


@dataclass(frozen=True)
class Spread:
    """An objective over all points that share one axis value."""

    value: Any
    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Effect:
    """One axis and one objective.

    spreads          one per axis value, ascending
    largest_change   the largest (max - min) / min among groups of points that differ in this axis alone
    """

    axis: str
    objective: str
    spreads: tuple[Spread, ...]
    largest_change: float


def effects(rows: Sequence[Row], axes: Mapping[str, Sequence[Any]], objectives: Sequence[str]) -> list[Effect]:
    """Effect of every axis on every objective over the rows that have a value for it."""
    return [_effect(rows, axis, list(axes), objective) for axis in axes for objective in objectives]


def weak_axes(found: Sequence[Effect]) -> list[str]:
    """Axes that move no objective by `WEAK` anywhere."""
    largest: dict[str, float] = {}
    for effect in found:
        largest[effect.axis] = max(largest.get(effect.axis, 0.0), effect.largest_change)
    return [axis for axis, change in largest.items() if change < WEAK]


def _effect(rows: Sequence[Row], axis: str, axes: list[str], objective: str) -> Effect:
    known = [row for row in rows if isinstance(row.get(objective), int | float)]
    by_value = _groups(known, [axis], objective)
    spreads = tuple(Spread(key[0], min(v), median(v), max(v)) for key, v in by_value.items())
    alone = _groups(known, [name for name in axes if name != axis], objective)
    return Effect(axis, objective, spreads, max(map(_change, alone.values()), default=0.0))


def _groups(rows: Sequence[Row], keys: list[str], objective: str) -> dict[tuple[Any, ...], list[float]]:
    groups: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        groups.setdefault(tuple(_hashable(row[key]) for key in keys), []).append(row[objective])
    return dict(sorted(groups.items(), key=lambda item: _order(item[0])))


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _order(key: tuple[Any, ...]) -> list[tuple[int, Any]]:
    """Numbers by size, everything else by its text."""
    return [(0, part) if isinstance(part, int | float) else (1, str(part)) for part in key]


def _change(values: list[float]) -> float:
    low, high = min(values), max(values)
    if low == high:
        return 0.0
    return (high - low) / abs(low) if low else float("inf")
