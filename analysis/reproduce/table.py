"""A published table with ours beside it: what `tilewright reproduce` shows and writes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from analysis.reproduce.assumptions import (
    UNCHANGED,
    Variant,
    intervals,
    machine_variants,
    sampled,
    sensitivity,
    workload_variants,
)
from analysis.reproduce.points import Runs, needed, run_points
from analysis.reproduce.published import Published, read_first_contact, read_published
from analysis.reproduce.spatten import (
    Configuration,
    attention_of_table_4,
    averages,
    figure_14,
    hardware_rows,
    released_times,
    simulated_rows,
    topk_rows,
)
from analysis.reproduce.workload import released_memory
from analysis.running import cores

EAGER = ("titan_xp", "xeon_e5_2640v4")  # whose assumptions move the speedups; the fitted host time stays
BEST, RELEASED = "spatten", "spatten_as_released"
HEADLINES = (
    *(f"fig14.{device}.geomean.{what}" for device in ("titan_xp", "xeon_e5_2640v4") for what in ("speedup", "energy")),
    "all.dram_cut",
)
Rows = dict[str, float]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Reproduction:
    """All rows of a table.

    ours         value by id, for each DRAM configuration
    spans        low and high of a row over the assumed ranges, with the first configuration
    sensitivity  for each assumption and end, the relative change of the headline rows
    """

    published: list[Published]
    first: Mapping[str, Mapping[str, float]]
    ours: dict[str, Rows]
    spans: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    sensitivity: list[dict[str, Any]] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary a row, as `--json` prints it."""
        return [self._row(one) for one in self.published]

    def _row(self, one: Published) -> dict[str, Any]:
        ours, other = (self.ours[name].get(one.id) for name in (BEST, RELEASED))
        first = self.first.get(one.id, {})
        low, high = self.spans.get(one.id, (None, None))
        return {
            "id": one.id, "quantity": one.quantity, "unit": one.unit, "source": one.source, "role": one.role,
            "published": one.value, "first_contact": first.get(BEST), "ours": ours, "low": low, "high": high,
            "deviation": None if ours is None else ours / one.value - 1,
            "tolerance": one.tolerance, "within": one.within(ours),
            "first_contact_as_released": first.get(RELEASED), "ours_as_released": other,
            "within_as_released": one.within(other), "note": one.note,
        }  # fmt: skip


def reproduce_spatten(
    workers: int = 0, progress: Progress = lambda done, total: None, with_intervals: bool = True
) -> Reproduction:
    """Simulate what the table of SpAtten needs (stored points are read) and set it beside the paper.

    workers   processes; 0: one per core
    """
    table = read_published("spatten")
    published = {one.id: one.value for one in table}
    memories = {BEST: (), RELEASED: released_memory()}

    def everything(runs: Runs) -> dict[str, Rows]:
        return {name: simulated_rows(Configuration(runs, memory), published) for name, memory in memories.items()}

    machines = {(v.name, v.end): v for name in (BEST, *EAGER) for v in machine_variants(name)}.values()
    variants = [UNCHANGED, *machines, *workload_variants()] if with_intervals else []

    def moved(runs: Runs) -> dict[Variant, Rows]:
        return {v: _headline_rows(v.runs(sampled(runs)), published) for v in variants}

    points = list(dict.fromkeys(needed(everything) + needed(moved)))
    outcomes = run_points(points, workers or cores(), progress)
    ours, shifted = everything(outcomes.__getitem__), moved(outcomes.__getitem__)
    engine = topk_rows()
    ours = {name: hardware_rows(memories[name]) | engine | rows for name, rows in ours.items()}
    first = read_first_contact("spatten")
    if not variants:
        return Reproduction(table, first, ours)
    base = shifted.pop(UNCHANGED)
    spans = intervals(ours[BEST], base, shifted)
    return Reproduction(table, first, ours, spans, sensitivity(base, shifted, HEADLINES))


def _headline_rows(runs: Runs, published: Mapping[str, float]) -> Rows:
    """The rows that get an interval: those that need the thirty benchmarks and the baselines alone."""
    on = Configuration(runs)
    return figure_14(on, published) | averages(on) | released_times(on) | attention_of_table_4(on)
