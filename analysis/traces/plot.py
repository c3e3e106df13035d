"""A trace as a picture: FLOPs and bytes along the run, module by module, and measured times."""

from pathlib import Path
from typing import Any

import numpy as np

from analysis.traces.measured import is_timed
from analysis.traces.totals import cut, total
from analysis.writing import check_picture, replacing
from workloads.trace import Trace

_COLOURS = {"fc": "#4063a3", "attention": "#c8553d", "linear_attention": "#e0a030", "other": "#8a8f98"}
_SHOWN = 90  # modules along the axis; a deeper path than this gives a blur


def plot_trace(trace: Trace, path: Path, depth: int | None = None) -> None:
    """Write a picture (the suffix says which kind): per module, in the order of the run, GFLOP and MB by part.

    depth   names of a module path; None: as many as give at most 90 modules. Repetitions are multiplied.
    """
    from matplotlib.figure import Figure

    check_picture(path)
    names, parts, series = _series(trace, depth)
    names = _without_common_start(names)
    figure = Figure(figsize=(max(8.0, 0.16 * len(names) + 3), 1.6 + 2.4 * len(series)), layout="constrained")
    axes = figure.subplots(len(series), 1, sharex=True)
    for axis, (title, values) in zip(axes, series.items(), strict=True):
        _bars(axis, parts, values)
        axis.set_ylabel(title)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, ncols=len(parts), loc="lower right", bbox_to_anchor=(1, 1))
    axes[-1].set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes[-1].set_xlim(-0.7, len(names) - 0.3)
    sums = total(trace)
    told = f"{sums.product_flops / 1e12:.5g} TFLOP in products, {sums.read_bytes / 1e9:.4g} GB read"
    told = f"{trace.name}: {told}, {sums.write_bytes / 1e9:.4g} GB written"
    figure.suptitle(told, x=0.01, ha="left", fontsize=11)
    with replacing(path) as scratch:
        figure.savefig(scratch, format=path.suffix[1:], dpi=130)


def _bars(axis: Any, parts: list[str], values: np.ndarray) -> None:
    bottom = np.zeros(values.shape[1])
    for part, row in zip(parts, values, strict=True):
        axis.bar(range(len(row)), row, bottom=bottom, color=_COLOURS.get(part, "#55595f"), label=part, width=0.85)
        bottom += row


def _series(trace: Trace, depth: int | None) -> tuple[list[str], list[str], dict[str, np.ndarray]]:
    """(module names, parts, title -> values [parts, modules]); measured times where there are any."""
    columns = trace.operators
    if not columns:
        raise ValueError(f"{trace.name}: the trace records no operators to draw")
    paths = columns["module"].tolist() if "module" in columns else [f"layer {n}" for n in columns["layer"].tolist()]
    depth = depth or _depth(paths)
    cuts = [cut(path, depth) for path in paths]
    names, parts = [*dict.fromkeys(cuts)], [part for part in _COLOURS if part in set(columns["part"].tolist())]
    numbers = {name: number for number, name in enumerate(names)}
    place = np.array([numbers[one] for one in cuts])
    moved = (columns["read_bytes"] + columns["write_bytes"]) * columns["repeat"] / 1e6
    values = {"GFLOP": columns["flops"] * columns["repeat"] / 1e9, "MB read and written": moved}
    if is_timed(trace):
        values["ms of kernels, eager"] = trace.facts["timed.eager_us"] * columns["repeat"] / 1e3
    rows = [columns["part"] == part for part in parts]
    return (
        names,
        parts,
        {
            title: np.array([np.bincount(place[row], each[row], len(names)) for row in rows])
            for title, each in values.items()
        },
    )


def _without_common_start(names: list[str]) -> list[str]:
    """Names without the stage, where there is only one."""
    stages = {name.partition(".")[0] for name in names}
    return [name.partition(".")[2] or name for name in names] if len(stages) == 1 else names


def _depth(paths: list[str]) -> int:
    """The deepest cut that leaves at most `_SHOWN` names."""
    paths = [*dict.fromkeys(paths)]
    depths = range(1, 1 + max(len(path.split(".")) for path in paths))
    fitting = [depth for depth in depths if len({cut(path, depth) for path in paths}) <= _SHOWN]
    return max(fitting, default=1)
