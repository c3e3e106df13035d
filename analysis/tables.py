"""Findings as rows of text: one source for the screen and the page."""

from collections.abc import Iterable
from typing import Any

from analysis.findings import Findings, ratios
from analysis.quantities import label, shown, times

Table = tuple[list[str], list[list[str]]]


def front_table(findings: Findings) -> Table:
    """Axis values and objectives of each Pareto point."""
    sweep = findings.run.sweep
    changing = [axis for axis, values in sweep.axes.items() if len(values) > 1] or list(sweep.axes)
    columns = [*changing, *sweep.objectives]
    rows = [[plain(row[c]) if c in changing else shown(c, row[c]) for c in columns] for row in findings.front]
    rows = [[*cells, row["limited_by"]] for cells, row in zip(rows, findings.front, strict=True)]
    return [*short_names(changing).values(), *map(label, sweep.objectives), "limited by"], rows


def effect_table(findings: Findings) -> Table:
    """Least, median and largest value of each objective at every axis value; repeated names are left blank."""
    rows = []
    names = short_names(findings.run.sweep.axes)
    for effect in findings.effects:
        lead = [names[effect.axis], label(effect.objective), percent(effect.largest_change)]
        for spread in effect.spreads:
            key = effect.objective
            cells = [shown(key, x) for x in (spread.low, spread.middle, spread.high)]
            rows.append([*lead, plain(spread.value), *cells])
            lead = ["", "", ""]
    return ["axis", "objective", "alone", "value", "least", "median", "largest"], rows


def compact_effect_table(findings: Findings) -> Table:
    """One row per axis: the largest change that it makes alone, in each objective."""
    objectives = list(findings.run.sweep.objectives)
    changes: dict[str, list[str]] = {}
    names = short_names(findings.run.sweep.axes)
    for effect in findings.effects:
        changes.setdefault(names[effect.axis], []).append(percent(effect.largest_change))
    rows = [[axis, *cells] for axis, cells in changes.items()]
    return ["axis: largest change alone", *map(label, objectives)], rows


def compared_table(findings: Findings) -> Table:
    """Latency, traffic and energy of each machine, and the ratios to the first."""
    first = next(iter(findings.compared.values()), {})
    rows = []
    for name, row in findings.compared.items():
        moved = row["dram_read_bytes"] + row["dram_write_bytes"]
        cells = [shown("latency_s", row["latency_s"]), shown("dram_bytes", moved)]
        factors = [times(ratio) for ratio in ratios(row, first).values()]
        rows.append([name, *cells, shown("energy_j", row["energy_j"]), *factors, row["limited_by"]])
    head = ["", "latency", "DRAM", "energy", "latency ratio", "DRAM ratio", "energy ratio", "limited by"]
    return head, rows


def parts_table(findings: Findings, key: str, unit_key: str) -> Table:
    """A breakdown (`energy_j_by_component`, ...) of each compared machine, one row a part."""
    names = list(dict.fromkeys(part for row in findings.compared.values() for part in row[key]))
    rows = [[part, *_cells(findings, key, part, unit_key)] for part in names]
    return ["", *findings.compared], rows


def _cells(findings: Findings, key: str, part: str, unit_key: str) -> list[str]:
    values = [row[key].get(part) for row in findings.compared.values()]
    return ["" if value is None else shown(unit_key, value) for value in values]


def interval_rows(findings: Findings) -> list[list[str]]:
    """Each quantity of the chosen point with its 5 and 95 % values."""
    chosen = next(iter(findings.compared.values()), {})
    spans = findings.interval.items()
    return [[label(key), shown(key, chosen[key]), *(shown(key, x) for x in span)] for key, span in spans]


def plain(value: Any) -> str:
    """An axis value."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def percent(change: float) -> str:
    """A relative change; above 1000 % as a factor."""
    return f"{change:.1%}" if change < 10 else times(change + 1)


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """The shortest end of each dotted path that no other path shares."""
    parts = {path: path.split(".") for path in paths}
    return {path: _shortest_end(mine, list(parts.values())) for path, mine in parts.items()}


def _shortest_end(mine: list[str], every: list[list[str]]) -> str:
    sizes = range(1, len(mine) + 1)
    size = next((n for n in sizes if sum(other[-n:] == mine[-n:] for other in every) == 1), len(mine))
    return ".".join(mine[-size:])
