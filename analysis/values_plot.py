"""A picture of a value trace: every channel of every layer's input and weight, and of the heads of the KV cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.plots import STYLE
from analysis.writing import check_picture, replacing
from workloads.trace import Trace
from workloads.values.reading import head_ranges, layer_channels, layer_names, outlier_strength

_COLOURS = ("#3b6c8f", "#d08c3f", "#6f9c6b", "#a3526b", "#8a7cae", "#5aa5a8", "#94703a", "#c2b23e")
_STRONG = 8.0  # strength from which a channel group is labelled: clear of the 1.2 to 6 of most


@dataclass(frozen=True)
class Column:
    """One group of channels: what it is (colour), the layer it is in, and the absmax of its channels."""

    role: str
    layer: str
    absmax: NDArray[np.float64]


def plot_channels(trace: Trace, path: str | Path) -> Path:
    """Draw the trace to a PNG, SVG or PDF file: one dot a channel, its largest magnitude on a logarithmic axis.

    Panels: inputs of the linear layers (layers that read the same tensor once), their weights by input channel, and
    K and V by head as the cache holds them. A black line marks the median of a group, the ratio of the largest to it
    is written where it is at least 8; dead channels are left out. ValueError: no value trace, or another suffix.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    path = Path(path)
    check_picture(path)
    panels = _panels(trace)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 3.6 * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for one, (title, columns) in zip(axes, panels.items(), strict=True):
            _draw(one, title, columns)
        figure.suptitle(f"{trace.model.get('name', trace.name)}: largest magnitude of every channel", fontsize=12)
        with replacing(path) as scratch:
            figure.savefig(scratch, format=path.suffix[1:], dpi=130, metadata=_metadata(path.suffix))
    return path


def _metadata(suffix: str) -> dict[str, None]:
    """No date and no versions: the same trace gives the same bytes."""
    names = {".png": ("Software",), ".svg": ("Date", "Creator"), ".pdf": ("CreationDate", "Creator", "Producer")}
    return dict.fromkeys(names[suffix])


def _panels(trace: Trace) -> Mapping[str, Sequence[Column]]:
    weights = [Column(_role(n), _layer(n), layer_channels(trace, n)["k_absmax"]) for n in layer_names(trace)]
    panels = {"|x|, inputs of linear layers": _inputs(trace), "|w|, weights by input channel": weights}
    heads = _heads(trace)
    return {**panels, "K and V of every head (left to right)": heads} if heads else panels


def _inputs(trace: Trace) -> list[Column]:
    """One column an input that was distinct, named after all that read it."""
    readers: dict[int, list[str]] = {}
    for name, row in zip(layer_names(trace), trace.facts["layers.input"].tolist(), strict=True):
        readers.setdefault(row, []).append(name)
    return [
        Column(_joined([_role(name) for name in names]), _layer(names[0]), layer_channels(trace, names[0])["absmax"])
        for names in readers.values()
    ]


def _heads(trace: Trace) -> list[Column]:
    kinds = {"key_before": "K before rotation", "key": "K in the cache", "value": "V"}
    columns = []
    for layer in range(len(trace.facts.get("attention.heads", ()))):
        for kind, role in kinds.items():
            if trace.facts.get(f"attention.{kind}.recorded", np.zeros(layer + 1, bool))[layer]:
                ranges = head_ranges(trace, kind, layer)
                absmax = np.maximum(np.abs(ranges["min"]), np.abs(ranges["max"]))
                columns += [Column(role, str(layer), head) for head in absmax]
    return columns


def _role(name: str) -> str:
    """What a layer does, without where it is: the path behind its number, or its last two parts."""
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[-1] + 1 :] if numbers else parts[-2:]) or name


def _joined(roles: Sequence[str]) -> str:
    """Roles of layers that share an input; what they have in common in front is said once."""
    first, _, _ = roles[0].rpartition(".")
    shared = f"{first}." if first and all(role.startswith(f"{first}.") for role in roles) else ""
    return ", ".join([roles[0], *(role.removeprefix(shared) for role in roles[1:])])


def _layer(name: str) -> str:
    """The number in a path, "" outside the layers."""
    return next((part for part in name.split(".") if part.isdigit()), "")


def _draw(axes: Any, title: str, columns: Sequence[Column]) -> None:
    roles = list(dict.fromkeys(column.role for column in columns))
    for place, column in enumerate(columns):
        alive = column.absmax > 0
        spread = np.linspace(-0.4, 0.4, len(column.absmax))[alive] + place
        colour = _COLOURS[roles.index(column.role) % len(_COLOURS)]
        axes.scatter(spread, column.absmax[alive], s=3, color=colour, alpha=0.55, linewidths=0, rasterized=True)
        axes.hlines(np.median(column.absmax), place - 0.4, place + 0.4, color="black", linewidth=0.9, zorder=3)
        _mark(axes, place, column)
    axes.set_yscale("log")
    axes.set_title(title, loc="left", fontsize=10)
    axes.set(xlim=(-0.6, len(columns) - 0.4))
    axes.margins(y=0.12)
    axes.grid(axis="x", visible=False)
    _number(axes, columns)
    _legend(axes, roles)


def _mark(axes: Any, place: int, column: Column) -> None:
    """The strength of an outlier above the channel that it is, which gets a larger dot."""
    strength = outlier_strength(column.absmax)
    if strength >= _STRONG:
        worst = int(column.absmax.argmax())
        at = (place - 0.4 + 0.8 * worst / max(len(column.absmax) - 1, 1), float(column.absmax[worst]))
        axes.plot(*at, marker="o", markersize=4, color="#20242a", zorder=4)
        axes.annotate(f"{strength:.0f}×", at, (0, 5), textcoords="offset points", ha="center", fontsize=8)


def _number(axes: Any, columns: Sequence[Column]) -> None:
    """The number of each layer in the middle of its columns, and a line where the next begins."""
    starts = [n for n, one in enumerate(columns) if n == 0 or one.layer != columns[n - 1].layer]
    ends = [*starts[1:], len(columns)]
    for start in starts[1:]:
        axes.axvline(start - 0.5, color="#c8ccd0", linewidth=0.7, zorder=0)
    middle = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
    axes.set_xticks(middle, [columns[start].layer or columns[start].role for start in starts])
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("layer")


def _legend(axes: Any, roles: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    colours = [_COLOURS[n % len(_COLOURS)] for n in range(len(roles))]
    shown = list(zip(roles, colours, strict=True))[: len(_COLOURS)]
    handles = [Line2D([], [], marker="o", linestyle="", color=c, markersize=5, label=r) for r, c in shown]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.5, fontsize=8)
