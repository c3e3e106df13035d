"""The figures of a sweep, as PNG and SVG; the same findings give the same bytes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.findings import Findings, ratios
from analysis.quantities import label, times, unit_of
from analysis.writing import replacing

STYLE = {
    "svg.hashsalt": "tilewright",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "svg.fonttype": "none",  # text stays text: it can be searched, and the file is half the size
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.facecolor": "white",
}
_ACCENT, _QUIET = "#b5482a", "#9aa5b1"
_COLOURS = (
    "#3b6c8f",
    "#d08c3f",
    "#6f9c6b",
    "#a3526b",
    "#8a7cae",
    "#c2b23e",
    "#5aa5a8",
    "#7d6b5d",
    "#4b4f58",
    "#e0b7a0",
    "#a9c6de",
    "#b9d4a0",
    "#d9a3b8",
    "#c9bfe3",
    "#94703a",
    "#2f5d50",
)
_QUANTITIES = {"dram_bytes": "DRAM traffic"}
_OTHER, _SMALL = "#d5d9dd", 0.02  # parts below that share in every bar are drawn as one
_DATELESS: Mapping[str, Mapping[str, Any]] = {
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "png": {"Software": None},
}


def write_figures(findings: Findings, folder: Path) -> dict[str, Path]:
    """Write every figure that the findings have data for; gives the SVG by name."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    written = {}
    for name, draw in _FIGURES.items():
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(7.2, 4.2), layout="constrained")
            if draw(findings, figure):
                written[name] = _save(figure, folder, name)
    return written


def _save(figure: Any, folder: Path, name: str) -> Path:
    """PNG and SVG, each under a temporary name first."""
    _settle(figure)
    for kind, metadata in _DATELESS.items():
        with replacing(folder / f"{name}.{kind}") as scratch:
            figure.savefig(scratch, format=kind, dpi=150, metadata=dict(metadata))
    return folder / f"{name}.svg"


def _settle(figure: Any) -> None:
    """Compute the layout once; otherwise each file format does it again."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")


def _pareto(findings: Findings, figure: Any) -> bool:
    """Latency over energy, every point, coloured by area; the front is ringed."""
    if not findings.rows:
        return False
    axes = _single(figure)
    column = {key: [row[key] for row in findings.rows] for key in ("latency_s", "energy_j", "area_mm2")}
    dots = axes.scatter(column["latency_s"], column["energy_j"], c=column["area_mm2"], s=14, cmap="viridis")
    front = findings.front
    ring = {"facecolors": "none", "edgecolors": _ACCENT, "s": 52, "linewidths": 1.2, "label": "Pareto front"}
    axes.scatter([row["latency_s"] for row in front], [row["energy_j"] for row in front], **ring)
    scales = {"xscale": scale(column["latency_s"]), "yscale": scale(column["energy_j"])}
    axes.set(**scales, xlabel="latency", ylabel="energy")
    _engineering(axes.xaxis, "s")
    _engineering(axes.yaxis, "J")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    figure.colorbar(dots, label="area (mm²)")
    return True


def _single(figure: Any) -> Any:
    """One panel between fixed margins, which fit numbers with a unit beside the ticks."""
    figure.set_layout_engine(None)
    figure.subplots_adjust(0.11, 0.12, 0.98, 0.93)
    return figure.subplots()


def scale(values: Sequence[float]) -> str:
    """Logarithmic from a decade on; below it a linear axis has better ticks."""
    return "log" if min(values) > 0 and max(values) >= 10 * min(values) else "linear"


def _engineering(axis: Any, unit: str) -> None:
    """Ticks as `2 ms`; between the decades too, since a sweep seldom spans many."""
    from matplotlib.ticker import EngFormatter, LogFormatter, LogLocator

    if isinstance(axis.get_major_formatter(), LogFormatter):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_formatter(lambda value, place: "")
    axis.set_major_formatter(EngFormatter(unit))


def _effects(findings: Findings, figure: Any) -> bool:
    """One panel per axis and objective: min, median and max at each value."""
    objectives = list(findings.run.sweep.objectives)
    axes_names = list(findings.run.sweep.axes)
    if not findings.rows:
        return False
    panels = _panels(figure, len(axes_names), len(objectives))
    for effect in findings.effects:
        panel = panels[axes_names.index(effect.axis)][objectives.index(effect.objective)]
        _effect_panel(panel, effect)
    for column, objective in enumerate(objectives):
        unit, _ = unit_of(objective)
        plain = f" ({unit})" if unit and unit not in ("s", "J") else ""
        panels[0][column].set_title(label(objective) + plain)
        for panel in panels[:, column] if unit in ("s", "J") else ():
            _engineering(panel.yaxis, unit)
    return True


def _panels(figure: Any, rows: int, columns: int) -> Any:
    """Panels of equal size between fixed margins: constrained layout would cost more than all else here."""
    width, height = 2.6 * columns + 0.3, 1.7 * rows + 0.5  # inches
    figure.set_layout_engine(None)
    figure.set_size_inches(width, height)
    figure.subplots_adjust(0.65 / width, 0.5 / height, 1 - 0.2 / width, 1 - 0.35 / height, wspace=0.38, hspace=0.55)
    return figure.subplots(rows, columns, squeeze=False)


def _effect_panel(panel: Any, effect: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    places = range(len(effect.spreads))
    panel.fill_between(
        places,
        [s.low for s in effect.spreads],
        [s.high for s in effect.spreads],
        color=_QUIET,
        alpha=0.35,
        linewidth=0,
    )
    panel.plot(places, [s.middle for s in effect.spreads], "o-", color=_ACCENT, markersize=3.5, linewidth=1.2)
    panel.set_xticks(list(places), [_short(s.value) for s in effect.spreads], fontsize=7)
    panel.set_ylim(bottom=0)
    panel.yaxis.set_major_locator(MaxNLocator(4))
    panel.tick_params(labelsize=7)
    panel.set_xlabel(".".join(effect.axis.split(".")[-2:]), fontsize=8)


def _breakdown(findings: Findings, figure: Any) -> bool:
    """Where energy and time go: stacked shares for each compared machine, one colour a part in both panels."""
    rows = findings.compared
    if not rows:
        return False
    energy = _portions({name: row["energy_j_by_component"] for name, row in rows.items()})
    time = _portions({name: row["critical_path_cycles_by_unit"] for name, row in rows.items()})
    parts = dict.fromkeys(part for table in (energy, time) for bar in table.values() for part in bar)
    colours = {part: _COLOURS[i % len(_COLOURS)] for i, part in enumerate(p for p in parts if p != "other")}
    colours["other"] = _OTHER
    figure.get_layout_engine().set(wspace=0.08)
    left, right = figure.subplots(1, 2, sharey=True)
    _bars(left, energy, colours, "energy")
    _bars(right, time, colours, "latency (critical path)")
    left.invert_yaxis()
    patches = _patches(colours)
    figure.legend(handles=patches, loc="outside lower center", ncols=5, fontsize=7.5, columnspacing=1.2)
    return True


def _portions(table: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Shares of each bar; what is below `_SMALL` in all of them goes to `other`."""
    shares = {
        name: {p: x / sum(bar.values()) for p, x in bar.items()} for name, bar in table.items() if any(bar.values())
    }
    large = {part for bar in shares.values() for part, share in bar.items() if share >= _SMALL}
    kept = {name: {p: x for p, x in bar.items() if p in large} for name, bar in shares.items()}
    return {name: bar | {"other": 1 - sum(bar.values())} for name, bar in kept.items()}


def _bars(axes: Any, table: Mapping[str, Mapping[str, float]], colours: Mapping[str, str], title: str) -> None:
    from matplotlib.ticker import MultipleLocator, PercentFormatter

    left = [0.0] * len(table)
    for part, colour in colours.items():
        share = [bar.get(part, 0.0) for bar in table.values()]
        if any(share):
            axes.barh(list(table), share, left=left, color=colour, height=0.6)
        left = [a + b for a, b in zip(left, share, strict=True)]
    axes.set(title=title, xlim=(0, 1))
    axes.xaxis.set_major_locator(MultipleLocator(0.25))
    axes.xaxis.set_major_formatter(PercentFormatter(1))


def _patches(colours: Mapping[str, str]) -> list[Any]:
    from matplotlib.patches import Patch

    return [Patch(color=colour, label=part) for part, colour in colours.items()]


def _baselines(findings: Findings, figure: Any) -> bool:
    """How many times as much each baseline takes, on a log scale."""
    names = list(findings.compared)
    if len(names) < 2:
        return False
    reference, others = findings.compared[names[0]], names[1:]
    axes = _single(figure)
    table = {name: ratios(findings.compared[name], reference) for name in others}
    for place, quantity in enumerate(next(iter(table.values()))):
        heights = [table[name][quantity] for name in others]
        spots = [i + 0.25 * (place - 1) for i in range(len(others))]
        bars = axes.bar(
            spots, heights, width=0.23, label=_QUANTITIES.get(quantity, label(quantity)), color=_COLOURS[place]
        )
        axes.bar_label(bars, [times(height) for height in heights], fontsize=7)
    axes.set_xticks(range(len(others)), others)
    axes.set(yscale="log", ylabel=f"times '{names[0]}'")
    axes.yaxis.set_major_formatter(lambda ratio, place: times(ratio))  # 10³ would load a parser of formulas
    axes.yaxis.set_minor_formatter(lambda ratio, place: "")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.legend()
    return True


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


_FIGURES: Mapping[str, Callable[[Findings, Any], bool]] = {
    "pareto": _pareto,
    "effects": _effects,
    "breakdown": _breakdown,
    "baselines": _baselines,
}
