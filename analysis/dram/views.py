"""The comparison of `analysis.dram.agreement` as CSV, as a table of a page, and as a plot."""

import csv
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from analysis.dram.agreement import Row, mean_errors
from analysis.writing import replacing

OURS = ("cycles", "low", "high", "alone", "within", "error", "row_hit_rate", "row_hits_within",
        "mean_read_latency_cycles", "latency_within")  # fmt: skip


def write_table(rows: Iterable[Row], simulators: list[dict[str, str]], path: Path, facts_only: bool = False) -> None:
    """The rows as CSV, with where the references are from; `facts_only`: without what follows from our model."""
    names = [field.name for field in fields(Row) if not (facts_only and field.name in OURS)]
    source = "; ".join(f"{s['name']} {s['version']} (commit {s['commit']})" for s in simulators)
    with replacing(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*names, "source"])
        for row in rows:
            writer.writerow([*(_cell(getattr(row, name)) for name in names), source])


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return "" if value != value else (f"{value:.6g}" if isinstance(value, float) else value)


HEAD = ("part", "traces", "runs", "inside", "mean error", "largest", "references apart", "from Ramulator", "hit rate",
        "latency")  # fmt: skip


def markdown(rows: list[Row]) -> str:
    """One line for each part and kind of trace."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.config, row.kind), []).append(row)
    lines = [f"| {' | '.join(HEAD)} |", "|" + " --- |" * len(HEAD)]
    lines += [f"| {' | '.join(_line(*key, some))} |" for key, some in sorted(groups.items())]
    return "\n".join([*lines, "", *_means(rows)])


def _means(rows: list[Row]) -> list[str]:
    everything, default = mean_errors(rows), mean_errors(rows, default_only=True)
    same = sum(row.cycles == row.ramulator2_cycles for row in rows)
    told = ", ".join(f"{config} {error:.2%} ({default[config]:.2%})" for config, error in everything.items())
    return [
        "Mean error over the untimed gathers and planes that both simulators ran, and over those in the default",
        f"configuration alone: {told}.",
        f"In {same} of {len(rows)} runs the time is Ramulator's to the cycle.",
    ]


def _line(config: str, kind: str, rows: list[Row]) -> tuple[str, ...]:
    largest = max(rows, key=lambda row: abs(row.error))
    ramulator = max(abs(row.cycles / row.ramulator2_cycles - 1) for row in rows)
    apart = [row.spread for row in rows if not row.alone]
    hits = max(min(abs(row.row_hit_rate - x) for x in _hits(row)) for row in rows)
    delay = max(abs(row.mean_read_latency_cycles / row.ramulator2_mean_read_latency_cycles - 1) for row in rows)
    return (
        config, kind, str(len(rows)), f"{sum(row.within for row in rows)}",
        f"{sum(abs(row.error) for row in rows) / len(rows):.2%}", f"{largest.error:+.2%}",
        f"{max(apart):.2%}" if apart else "-", f"{ramulator:.2%}",
        f"{100 * hits:.2f}", f"{delay:.2%}",
    )  # fmt: skip


def _hits(row: Row) -> list[float]:
    return [x for x in (row.ramulator2_row_hit_rate, row.dramsim3_row_hit_rate) if x == x]


def draw(rows: list[Row], path: Path) -> None:
    """Run time over the middle of the two references, their interval as a bar, ours as a dot; one panel a part."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from analysis.plots import STYLE

    shown = [row for row in rows if row.is_default]
    configs = list(dict.fromkeys(row.config for row in shown))
    with mpl.rc_context({**STYLE, "svg.hashsalt": "tilewright"}):
        figure = Figure(figsize=(9.5, 3.6 * len(configs)), layout="constrained")
        axes = figure.subplots(len(configs), 1, squeeze=False)[:, 0]
        for axis, config in zip(axes, configs, strict=True):
            _panel(axis, [row for row in shown if row.config == config], config)
        axes[0].legend(loc="upper left", ncols=3)
        with replacing(path) as scratch:
            figure.savefig(scratch, format=path.suffix[1:], dpi=120, metadata={"Software": None})


def _panel(axis: Any, rows: list[Row], config: str) -> None:
    for x, row in enumerate(rows):
        middle = row.ramulator2_cycles if row.alone else (row.ramulator2_cycles + row.dramsim3_cycles) / 2
        axis.plot([x, x], [row.low / middle, row.high / middle], color="#d5d9dd", lw=9, solid_capstyle="butt",
                  label="allowed" if not x else None)  # fmt: skip
        ends = [row.ramulator2_cycles / middle, row.dramsim3_cycles / middle]
        axis.plot([x], ends[:1], marker="^", color="#3b6c8f", ms=5, ls="", label="Ramulator" if not x else None)
        axis.plot([x], ends[1:], marker="v", color="#6f9c6b", ms=5, ls="", label="DRAMsim3" if not x else None)
        colour = "#222222" if row.within else "#b5482a"
        axis.plot(
            [x], [row.cycles / middle], marker="o", mec=colour, mfc="none", ms=9, ls="", label="ours" if not x else None
        )
    axis.set_xticks(range(len(rows)), [row.trace for row in rows], rotation=60, ha="right")
    axis.set_title(config, loc="left")
    axis.set_ylabel("run time / middle")
