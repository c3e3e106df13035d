"""Figures of the SpAtten table, the paper beside ours. Each takes rows by id and gives a matplotlib Figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.reproduce.spatten import ALL, DEVICES

Rows = Mapping[str, Mapping[str, Any]]
THEIRS, OURS, OTHER = "#8c8c8c", "#1f6fb4", "#e08214"
SERIES = (("published", "paper", THEIRS), ("ours", "spatten", OURS), ("ours_as_released", "spatten_as_released", OTHER))


def by_id(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Rows of a reproduction by their name."""
    return {row["id"]: row for row in rows}


def _axes(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend_above(axes: Any) -> None:
    axes.legend(frameon=False, ncol=len(SERIES), loc="lower center", bbox_to_anchor=(0.5, 1))


def _bars(axes: Any, rows: Rows, names: Sequence[str], labels: Sequence[str]) -> None:
    """Three bars a row: paper, and ours under both DRAM configurations."""
    places = np.arange(len(names))
    for number, (key, label, colour) in enumerate(SERIES):
        heights = [rows[name][key] or np.nan for name in names]
        axes.bar(places + 0.27 * (number - 1), heights, 0.27, label=label, color=colour)
    axes.set_xticks(places, labels, rotation=90 if len(names) > 8 else 0)
    _legend_above(axes)


def per_task(rows: Rows, what: str = "speedup", device: str = "titan_xp") -> Any:
    """Fig. 14: speedup or energy saving over one device, all thirty tasks and their geometric mean."""
    figure, axes = _axes(12, 4.5)
    names = [f"fig14.{device}.{task}.{what}" for task in (*ALL, "geomean")]
    _bars(axes, rows, names, [*ALL, "geometric mean"])
    axes.set_yscale("log")
    axes.set_ylabel(f"{what} over {device}")
    return figure


def geometric_means(rows: Rows, what: str = "speedup") -> Any:
    """The geometric means over the four devices."""
    figure, axes = _axes(7, 3.5)
    _bars(axes, rows, [f"fig14.{device}.geomean.{what}" for device in DEVICES], DEVICES)
    axes.set_yscale("log")
    axes.set_ylabel(f"{what}, geometric mean of 30")
    return figure


def dram_access(rows: Rows) -> Any:
    """How much less DRAM traffic there is than with the dense model in 32 bits."""
    figure, axes = _axes(6, 3.5)
    names = ["all.dram_cut", "gpt2.dram_cut", "quantization.dram_cut"]
    _bars(axes, rows, names, ["30 tasks", "8 GPT-2 tasks", "quantization of K alone"])
    axes.set_ylabel("DRAM access, times less")
    return figure


def gains(rows: Rows) -> Any:
    """Fig. 20: speedup over TITAN Xp on the GPT-2 tasks as the parts are added."""
    figure, axes = _axes(8, 3.8)
    steps = ("datapath", "token_pruning", "head_pruning", "parallel_topk", "static_quantization",
             "progressive_quantization")  # fmt: skip
    for key, label, colour in SERIES:
        axes.plot(steps, np.cumprod([rows[f"fig20.{s}"][key] for s in steps]), "o-", label=label, color=colour)
    axes.set_yscale("log")
    axes.set_ylabel("speedup over titan_xp")
    axes.tick_params(axis="x", rotation=20)
    _legend_above(axes)
    return figure


def parallelism(rows: Rows, prefix: str = "fig19.topk_", unit: str = "comparators of each top-k engine") -> Any:
    """Fig. 19: throughput over the parallelism of the top-k, or with another prefix over the SRAM."""
    figure, axes = _axes(6, 3.5)
    names = [name for name in rows if name.startswith(prefix)]
    labels = [name.removeprefix(prefix).removesuffix("kb") for name in names]
    for key, label, colour in SERIES:
        axes.plot(labels, [rows[name][key] for name in names], "o-", label=label, color=colour)
    axes.set_ylim(0)
    axes.set_xlabel(unit)
    axes.set_ylabel("throughput, relative")
    axes.legend(frameon=False)
    return figure


def sram_size(rows: Rows) -> Any:
    """Fig. 19, right: throughput over the bytes of K and V memory."""
    return parallelism(rows, "fig19.sram_", "KB of K memory, and of V memory")


def roofline(rows: Rows) -> Any:
    """Fig. 18: both groups of benchmarks under the roofs of computation and bandwidth."""
    figure, axes = _axes(6, 4)
    roof, peak = rows["machine.roof_tflops"]["published"], rows["machine.peak_gb_per_s"]["published"] / 1e3
    intensity = np.geomspace(0.5, 300, 200)
    axes.loglog(intensity, np.minimum(roof, peak * intensity), color="black", lw=1)
    for group, marker in (("bert", "o"), ("gpt2", "s")):
        for key, label, colour in SERIES:
            x, y = (rows[f"roofline.{group}_{what}"][key] for what in ("ops_per_byte", "tflops"))
            axes.plot(x, y, marker, color=colour, label=f"{group}, {label}")
    axes.set_xlabel("operations a byte of DRAM traffic")
    axes.set_ylabel("TFLOPS, executed")
    axes.legend(frameon=False, fontsize=8)
    return figure


def parts(rows: Rows, what: str = "area") -> Any:
    """Table II and the same parts bottom-up; `what` is "area" (mm2) or "power" (W)."""
    figure, axes = _axes(7, 3.5)
    names = ("query_key", "prob_value", "fetcher", "softmax", "topk", "other")
    places = np.arange(len(names))
    for shift, key, label, colour in ((-0.2, "published", "Table II", THEIRS), (0.2, "ours", "bottom-up", OURS)):
        heights = [rows[f"bottom_up.{what}.{name}"][key] or np.nan for name in names]
        axes.bar(places + shift, heights, 0.4, label=label, color=colour)
    axes.set_xticks(places, names)
    axes.set_ylabel({"area": "mm2", "power": "W on chip"}[what])
    axes.legend(frameon=False)
    return figure
