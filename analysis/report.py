"""`report.html`: one page that opens offline, with everything a reader needs to judge a sweep."""

import base64
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.api import other_configuration
from analysis.findings import DRAWS, Findings
from analysis.plots import scale
from analysis.quantities import label, shown, unit_of
from analysis.replays import FIDELITY_HEAD, REPLAY_HEAD, fidelity_rows, replay_rows
from analysis.tables import (
    compact_effect_table,
    compared_table,
    effect_table,
    front_table,
    interval_rows,
    parts_table,
    plain,
    short_names,
)
from analysis.writing import replacing

_TEMPLATES = Path(__file__).parent / "templates"
_PARTS = (
    ("Energy by component", "energy_j_by_component", "energy_j"),
    ("Critical path, cycles", "critical_path_cycles_by_unit", "cycles"),
    ("DRAM bytes read, by operand", "dram_read_bytes_by_operand", "dram_bytes"),
    ("DRAM bytes written, by operand", "dram_write_bytes_by_operand", "dram_bytes"),
)


def write_report(findings: Findings, figures: Mapping[str, Path], path: Path) -> None:
    """Write the page under a temporary name, then rename it; the figures are embedded."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, autoescape=True)
    page = environment.get_template("report.html.j2").render(**_content(findings, figures))
    with replacing(path) as scratch:
        scratch.write_text(page, encoding="utf-8")


def _content(findings: Findings, figures: Mapping[str, Path]) -> dict[str, Any]:
    from markupsafe import Markup

    front_head, front = front_table(findings)
    compared_head, compared = compared_table(findings)
    changes_head, changes = compact_effect_table(findings)
    effects_head, effects = effect_table(findings)
    chart = _chart(findings) if findings.rows else None
    return {
        "title": f"tilewright sweep: {findings.run.sweep.name}",
        "header": findings.header,
        "points": f"{len(findings.rows)} of {findings.run.sweep.grid_size}",
        "failures": list(findings.run.failures.values()),
        "front_head": front_head,
        "front": front,
        "front_best": findings.front.index(findings.chosen) if findings.chosen else -1,
        "fidelity_head": FIDELITY_HEAD,
        "fidelity": fidelity_rows(findings),
        "chosen": _chosen(findings),
        "weak": findings.weak_axes,
        "changes_head": changes_head,
        "changes": changes,
        "effects_head": effects_head,
        "effects": effects,
        "compared_head": compared_head,
        "compared": compared,
        "parts": [_part(findings, *part) for part in _PARTS],
        "interval": interval_rows(findings),
        "draws": DRAWS,
        "replay_head": REPLAY_HEAD,
        "replay": replay_rows(findings),
        "notes": list(dict.fromkeys(findings.notes)),
        "left_out": _left_out(findings),
        "sources": _sources(findings),
        "figures": {name: _embedded(svg) for name, svg in figures.items()},
        "interactive": Markup('<div id="pareto" style="height:30rem"></div>') if chart else "",
        "plotly": Markup(_plotly()) if chart else "",
        "chart": {key: Markup(_script_json(value)) for key, value in (chart or {}).items()},
    }


def _chosen(findings: Findings) -> str:
    names = short_names(findings.run.sweep.axes)
    return ", ".join(f"{names[axis]} {plain(value)}" for axis, value in findings.chosen_settings.items())


def _part(findings: Findings, title: str, key: str, unit_key: str) -> dict[str, Any]:
    head, rows = parts_table(findings, key, unit_key)
    return {"title": title, "head": head, "rows": rows}


def _left_out(findings: Findings) -> list[str]:
    return list(dict.fromkeys(item for row in findings.compared.values() for item in row["left_out"]))


def _sources(findings: Findings) -> dict[str, str]:
    """The text of every machine file, their DRAM standards, and the sweep file, by file name."""
    from accel.machine import find_machine

    sweep = findings.run.sweep
    other = other_configuration(sweep.machine, {})
    names = (sweep.machine, *(other[:1] if other else ()), *sweep.baselines)
    machines = [find_machine(name) for name in names]
    files = [*machines, *_standards(machines), *([sweep.file] if sweep.file else [])]
    return {path.name: path.read_text(encoding="utf-8") for path in files}


def _standards(machines: list[Path]) -> list[Path]:
    import accel.machine

    folder = Path(accel.machine.__file__).parent / "standards"
    memories: list[Any] = [getattr(accel.machine.load_machine(path), "memory", None) for path in machines]
    return [folder / f"{memory.standard}.yaml" for memory in memories if hasattr(memory, "standard")]


def _embedded(svg: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode()


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value).replace("<", "\\u003c")


def _chart(findings: Findings) -> dict[str, Any]:
    """Plotly figure of latency over energy, coloured by area, in plain JSON."""
    axes = list(findings.run.sweep.axes)
    every = {
        "mode": "markers",
        "name": "all points",
        "marker": {
            "color": [row["area_mm2"] for row in findings.rows],
            "colorscale": "Viridis",
            "size": 7,
            "colorbar": {"title": {"text": "area (mm²)"}, "thickness": 12},
        },
    }
    ring = {"symbol": "circle-open", "size": 13, "color": "#b5482a", "line": {"width": 1.6}}
    front = {"mode": "markers", "name": "Pareto front", "hoverinfo": "skip", "marker": ring}
    layout = {
        "template": None,
        "margin": {"l": 70, "r": 10, "t": 10, "b": 55},
        "font": {"family": "system-ui, sans-serif", "size": 12},
        "xaxis": _chart_axis("latency_s", [row["latency_s"] for row in findings.rows]),
        "yaxis": _chart_axis("energy_j", [row["energy_j"] for row in findings.rows]),
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    }
    data = [_trace(findings.rows, axes) | every, _trace(findings.front, axes) | front]
    return {"data": data, "layout": layout}


def _chart_axis(key: str, values: list[float]) -> dict[str, Any]:
    """Ticks with SI prefix; on a log axis at 1, 2 and 5 of each decade, which Plotly would write as bare digits."""
    kind = scale(values)
    axis: dict[str, Any] = {"title": {"text": label(key)}, "type": kind, "gridcolor": "#eceff1"}
    if kind == "log":
        decades = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
        ticks = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]
        return axis | {"tickvals": ticks, "ticktext": [shown(key, tick) for tick in ticks]}
    return axis | {"tickformat": "~s", "ticksuffix": unit_of(key)[0]}


def _trace(rows: list[dict[str, Any]], axes: list[str]) -> dict[str, Any]:
    return {
        "x": [row["latency_s"] for row in rows],
        "y": [row["energy_j"] for row in rows],
        "text": [_hover(row, axes) for row in rows],
        "hoverinfo": "text",
    }


def _hover(row: Mapping[str, Any], axes: list[str]) -> str:
    totals = [f"{key.split('_')[0]} {shown(key, row[key])}" for key in ("latency_s", "energy_j", "area_mm2")]
    return "<br>".join([*totals, *(f"{axis} = {plain(row[axis])}" for axis in axes)])
