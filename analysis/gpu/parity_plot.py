"""Parity plots of the GPU models, a panel a class: predicted over measured against measured time, both logarithmic.

On a diagonal over three decades an error of 20 % cannot be seen; turned by 45 degrees it can.
"""

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from analysis.gpu.parity import Parity
from analysis.plots import STYLE
from analysis.writing import replacing

_FITTED, _HELD, _BAND = "#9aa5b1", "#b5482a", "#3b6c8f"
_COLUMNS = 5
LIMIT = 2.0  # of predicted over measured


def plot_parity(classes: Mapping[str, Parity], path: Path, title: str = "") -> Path:
    """Draw to a PNG; the band holds 90 % of the held-out points, points beyond LIMIT lie on the edge.

    Raises ValueError where there is no class.
    """
    if not classes:
        raise ValueError(f"{path}: no class of kernels to draw")
    figure = parity_figure(classes, title)
    with replacing(path) as scratch:
        figure.savefig(scratch, format="png", dpi=110, metadata={"Software": None})
    return path


def parity_figure(classes: Mapping[str, Parity], title: str = "") -> Any:
    """The figure, for a notebook or a file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(classes))
    height = ceil(len(classes) / columns)
    with mpl.rc_context(STYLE | {"font.size": 8, "axes.grid": False}):
        figure = Figure(figsize=(2.3 * columns, 1.75 * height + 0.7), layout="constrained")
        axes = figure.subplots(height, columns, squeeze=False).ravel()
        for one, parity in zip(axes, classes.values(), strict=False):
            _panel(one, parity)
        for one in axes[len(classes) :]:
            one.set_axis_off()
        figure.supxlabel("measured, µs")
        figure.supylabel("predicted / measured")
        figure.suptitle(title, fontsize=10)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower right", ncols=2, markerscale=2)
    return figure


def _panel(axes: Any, one: Parity) -> None:
    measured, ratio = 1e6 * one.measured_s, one.predicted_s / one.measured_s
    found = one.error()
    if found is not None:
        axes.axhspan(max(1 - found.p90, 1 / LIMIT), min(1 + found.p90, LIMIT), color=_BAND, alpha=0.15, lw=0)
        axes.text(0.97, 0.96, _said(one), transform=axes.transAxes, ha="right", va="top", fontsize=7.5)
    axes.axhline(1.0, color="#4b4f58", lw=0.6)
    for some, colour, name in ((~one.held_out, _FITTED, "fitted to"), (one.held_out, _HELD, "held out")):
        inside = np.clip(ratio[some], 1 / LIMIT, LIMIT)
        axes.plot(measured[some], inside, "o", color=colour, ms=2.4, mew=0, label=name, clip_on=False)
    axes.set(xscale="log", yscale="log", ylim=(1 / LIMIT, LIMIT), title=one.kind.replace("_", " "))
    axes.set_yticks([0.5, 0.7, 1, 1.4, 2], ["0.5", "0.7", "1", "1.4", "2"])
    axes.minorticks_off()


def _said(one: Parity) -> str:
    found = one.error()
    assert found is not None, "asked for classes with held-out points"
    return f"{100 * found.mean:.1f} / {100 * found.p90:.1f} %, {found.points} points"
