"""What was measured beside the shapes: tables of a timed trace (`workloads/timing`)."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from workloads.trace import Trace

WAYS = {  # part of the record: what it is
    "eager": "eager, pass to pass",
    "graph": "eager, replayed as a CUDA graph",
    "compiled": "repeated blocks compiled",
    "compiled_graph": "the same, replayed as a CUDA graph",
}
PASS_HEAD = ("", "ms", "fastest", "slowest", "J", "W", "SM MHz")
KIND_HEAD = ("", "kernels", "ms", "share %", "TFLOP/s", "TB/s")


def is_timed(trace: Trace) -> bool:
    """Whether the trace holds measured times."""
    return "timed.eager_us" in trace.facts


def passes(trace: Trace) -> list[tuple[str, ...]]:
    """Rows under `PASS_HEAD`, one a way of running; the reason where a way failed. Watts and clocks are medians."""
    timed = trace.made["timed"]
    rows = [_pass(text, timed[way]) for way, text in WAYS.items() if way in timed]
    reasons = [(f"{part}: {reason}", *[""] * 6) for part, reason in timed.get("failures", {}).items()]
    kernels = ("sum of kernels, operator by operator", f"{timed['rows']['total_us'] / 1e3:.4g}", *[""] * 5)
    return [*rows, kernels, *reasons]


def _pass(text: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    times = (f"{found[key] / 1e3:.4g}" for key in ("pass_us", "fastest_us", "slowest_us"))
    text += ", bound by the host" if found.get("host_bound") else ""
    clocks = found["clocks"]
    joules = "" if found["pass_j"] is None else f"{found['pass_j']:.4g}"
    return (text, *times, joules, *(f"{_median(clocks, key):.0f}" for key in ("power_w", "sm_mhz")))


def _median(clocks: Mapping[str, Any], key: str) -> float:
    values = clocks.get(key) or (np.nan, np.nan, np.nan)
    return float(values[1])


def kinds(trace: Trace) -> Iterator[tuple[str, ...]]:
    """Rows under `KIND_HEAD`, most time first: kernel time of eager operators, and the rates that follow from it.

    TB/s counts each operand once and from memory, whatever the caches held.
    """
    columns, time = trace.operators, trace.facts["timed.eager_us"].astype(float)
    moved = columns["read_bytes"] + columns["write_bytes"]
    kernels, kind = trace.facts["timed.eager_kernels"], columns["kind"]
    sums = {str(name): float(time[kind == name].sum()) for name in np.unique(kind)}
    for name, spent in sorted(sums.items(), key=lambda pair: -pair[1]):
        mine = kind == name
        if spent:
            rates = (columns["flops"][mine].sum() / spent / 1e6, moved[mine].sum() / spent / 1e6)
            share = 100 * spent / sum(sums.values())
            numbers = (f"{spent / 1e3:.4g}", f"{share:.1f}", *(f"{rate:.3g}" for rate in rates))
            yield name, str(int(kernels[mine].sum())), *numbers
