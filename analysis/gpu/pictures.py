"""Figures of the GPU models for the notebook: rooflines of formats, whole models by execution."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from accel.gpu.formats import resolve
from analysis.gpu.ask import gpu
from analysis.plots import STYLE
from dataflow.gpu.host import EXECUTIONS, Execution
from dataflow.gpu.predict import predict_gemm
from dataflow.gpu.prediction import Prediction
from dataflow.gpu.trace import time_pass
from workloads.trace import load_workload

_COLOURS = {
    "bf16": "#4b4f58",
    "fp8": "#3b6c8f",
    "int8": "#5aa5a8",
    "w4a16": "#d08c3f",
    "w4a8": "#c2b23e",
    "w4a8_group": "#6f9c6b",
    "w4a4_int4": "#b5482a",
    "w4a4_nvfp4": "#8a7cae",
}
_MEASURED, _PREDICTED = "#4b4f58", "#d08c3f"
_TOKENS = np.unique(np.round(np.geomspace(1, 8192, 40)))


def rooflines(machines: Sequence[str], formats: Sequence[str], n: int, k: int) -> Any:
    """Operations a second of y [M, n] = x [M, k] W^T over M, a panel a GPU, with bands; dotted: its floor's rate.

    A format that falls back on a GPU is left out of its panel, as is one that no fit there has.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.0 * len(machines), 3.4), layout="constrained")
        axes = figure.subplots(1, len(machines), sharey=True, squeeze=False)[0]
        drawn: dict[str, Any] = {}
        for one, name in zip(axes, machines, strict=True):
            for format, found in curves(name, formats, n, k).items():
                drawn[format] = _curve(one, format, found, 2.0 * n * k)
            one.set(xscale="log", yscale="log", title=name, xlabel="tokens M")
        axes[0].set_ylabel("10¹² operations a second")
        figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=len(drawn))
    return figure


def curves(machine: str, formats: Sequence[str], n: int, k: int) -> dict[str, Prediction]:
    """By format that runs there as it is."""
    device, found = gpu(machine), {}
    for format in formats:
        try:
            if resolve(device, format)[1] is None:
                found[format] = predict_gemm(device, format, _TOKENS, n, k)
        except ValueError:
            continue
    return found


def _curve(axes: Any, format: str, found: Prediction, each: float) -> Any:
    work, colour = 1e-12 * each * _TOKENS, _COLOURS.get(format)
    axes.fill_between(_TOKENS, work / found.high_s, work / found.low_s, color=colour, alpha=0.15, lw=0)
    axes.plot(_TOKENS, work / found.floor_s, ":", color=colour, lw=0.8)
    return axes.plot(_TOKENS, work / found.latency_s, color=colour, lw=1.4)[0]


@dataclass(frozen=True)
class Bar:
    """Seconds of a pass; `measured_s` is None where nobody timed it."""

    model: str
    execution: str
    predicted_s: float
    low_s: float
    high_s: float
    measured_s: float | None


def bars(recordings: Mapping[str, str], machine: str = "h200") -> list[Bar]:
    """Each way of executing the models of recordings ({title: recording})."""
    device = gpu(machine)
    found = []
    for title, name in recordings.items():
        trace = load_workload(name)
        for execution in EXECUTIONS:
            made = time_pass(device, trace, execution)
            found.append(Bar(title, execution, made.latency_s, *made.band_s(), _measured_s(trace.made, execution)))
    return found


def _measured_s(made: Mapping[str, Any], execution: Execution) -> float | None:
    timed = made.get("timed", {}).get(execution)
    return 1e-6 * timed["pass_us"] if timed else None


def whole_models(found: Sequence[Bar]) -> Any:
    """Predicted, with its band, beside measured; a panel a model."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(bar.model for bar in found))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(models), 3.0), layout="constrained")
        for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
            _group(axes, [bar for bar in found if bar.model == model])
            axes.set(title=model)
        figure.axes[0].set_ylabel("ms a pass")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _group(axes: Any, some: Sequence[Bar]) -> None:
    place = np.arange(len(some))
    ours = np.array([bar.predicted_s for bar in some])
    reach = np.array([[bar.predicted_s - bar.low_s, bar.high_s - bar.predicted_s] for bar in some]).T
    theirs = [np.nan if bar.measured_s is None else bar.measured_s for bar in some]
    axes.bar(place - 0.2, 1e3 * ours, 0.36, yerr=1e3 * reach, color=_PREDICTED, ecolor="#94703a", label="predicted")
    axes.bar(place + 0.2, 1e3 * np.array(theirs), 0.36, color=_MEASURED, label="measured")
    axes.set_xticks(place, [bar.execution.replace("_", "\n") for bar in some])
    axes.grid(False, axis="x")
