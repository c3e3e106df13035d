"""Fits the two skeletons of our GEMMs with 4-bit weights (`dataflow/gpu/w4.py`) to a calibration record.

    fit, errors = fit_w4(record, machine)      # W4Fit, held-out errors by class

Points are calibration points or held out by the record's own flag (`gpu_kernels/bench/calibration/points.py`, settled
before anything was measured). Logarithms of predicted over measured times, with a loss that outliers do not rule; from
several starts, because norms have more than one valley.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.gpu.fit import Error
from accel.gpu.machine import GpuMachine
from accel.gpu.w4 import SyncFit, W4Fit, WgmmaFit
from analysis.gpu.held_out import error
from dataflow.gpu.estimate import Estimate
from dataflow.gpu.w4 import w4_gemm

Floats = NDArray[np.float64]
WGMMA = ("w4a8_channel", "w4a8_group", "w8a8", "w4a16")
SYNC = ("portable_channel", "portable_group")
STARTS, SPREAD = 5, 0.4  # fits from so many starts, so far apart (in logarithms)
OUTLIER = 0.05  # from which error on the loss grows linearly

# (start, least, most); the lower end of a share is where a kernel would be broken
_BOTH = {
    "tensor": (0.97, 0.6, 1.0),
    "throttle": (0.1, 0.0, 0.15),  # 1.98 GHz against 1.72 GHz that sustained products run at
    "throttle_s": (5e-4, 2e-5, 5e-3),
    "cache": (1.3, 0.6, 2.0),
    "memory": (0.95, 0.6, 1.02),
    "issue": (0.75, 0.2, 1.0),
    "start_cycles": (1000.0, 0.0, 4000.0),
    "output_cycles": (0.15, 0.0, 2.0),
    "within": (4.0, 1.0, 8.0),
    "across": (3.0, 1.0, 8.0),
}
_WGMMA = _BOTH | {
    "clustered": (0.85, 0.4, 1.0),
    "chain": (1.0, 0.0, 4.0),
    "outside": (1.5, 0.0, 4.0),
    "cluster_cycles": (1200.0, 0.0, 4000.0),
    "exchange_cycles": (0.3, 0.0, 2.0),
}
_SYNC = _BOTH | {
    "chain": (6.0, 1.0, 12.0),
    "step_cycles": (100.0, 0.0, 800.0),
    "meet_cycles": (0.05, 0.0, 1.0),
    "cut_cycles": (1200.0, 0.0, 6000.0),
    "exchange_cycles": (0.7, 0.0, 2.0),
}
_SYNC_FIXED = {"within": 4.0}  # other instructions, shared memory and L2 are near to one another: not to be told apart


@dataclass(frozen=True)
class Points:
    """Of one kernel; arrays [points], seconds."""

    kind: str
    m: NDArray[np.int64]
    n: NDArray[np.int64]
    k: NDArray[np.int64]
    seconds: Floats

    def where(self, chosen: NDArray[np.bool_]) -> "Points":
        """Some of them."""
        return Points(self.kind, self.m[chosen], self.n[chosen], self.k[chosen], self.seconds[chosen])


def points(record: Mapping[str, Any], kind: str, held_out: bool) -> Points:
    """Of a calibration record: part `ours_KIND`. Raises ValueError if there are none."""
    part = f"ours_{kind}"
    rows = [row for row in record["rows"] if row["part"] == part and row["held_out"] == held_out and "us" in row]
    if not rows:
        raise ValueError(f"record: no points of part ours_{kind}, held out {held_out}")
    m, n, k = (np.array([row[axis] for row in rows], dtype=np.int64) for axis in "mnk")
    return Points(kind, m, n, k, np.array([row["us"] for row in rows]) * 1e-6)


def fit_w4(record: Mapping[str, Any], machine: GpuMachine) -> tuple[W4Fit, dict[str, Error]]:
    """The section, and the held-out error of each class."""
    known = {kind: points(record, kind, False) for kind in (*WGMMA, *SYNC)}
    fit = fitted(machine, known, hopper_share(record, machine))
    held = [points(record, kind, True) for kind in known]
    return fit, dict(errors(machine, fit, one) for one in held)


def fitted(machine: GpuMachine, known: Mapping[str, Points], hopper: float) -> W4Fit:
    """From calibration points of every kernel."""
    portable = [known[kind] for kind in SYNC]
    sync = _least(machine, portable, _sync(hopper), _SYNC, lambda one: W4Fit(sync=one))
    here = [known[kind] for kind in WGMMA if kind in known]
    wgmma = _least(machine, here, WgmmaFit, _WGMMA, lambda one: W4Fit(sync=sync, wgmma=one)) if here else None
    return W4Fit(sync=sync, wgmma=wgmma)


def hopper_share(record: Mapping[str, Any], machine: GpuMachine) -> float:
    """Of wgmma's rate, what a loop of mma.sync alone reached in the record's own run."""
    return float(record["ceilings"]["mma_per_s"]) / machine.per_s("int8")


def _sync(hopper: float) -> Callable[..., SyncFit]:
    return lambda **numbers: SyncFit(hopper=hopper, **(numbers | _SYNC_FIXED))


def _least(
    machine: GpuMachine,
    known: Sequence[Points],
    make: Callable[..., Any],
    bounds: Mapping[str, tuple[float, float, float]],
    whole: Callable[[Any], W4Fit],
) -> Any:
    """The section with the least loss over all starts."""
    from scipy.optimize import least_squares

    start, low, high = np.array(list(bounds.values())).T

    def off(numbers: Floats) -> Floats:
        fit = whole(make(**dict(zip(bounds, numbers.tolist(), strict=True))))
        return np.concatenate([np.log(_predicted(machine, fit, one).seconds / one.seconds) for one in known])

    draw = np.random.default_rng(0)
    starts = [start] + [_near(start, low, high, draw) for _ in range(STARTS - 1)]
    scale = np.maximum(start, 1e-9)
    runs = [
        least_squares(off, one, bounds=(low, high), loss="soft_l1", f_scale=OUTLIER, x_scale=scale, max_nfev=120)
        for one in starts
    ]
    best = min(runs, key=lambda run: run.cost)
    return make(**dict(zip(bounds, best.x.tolist(), strict=True)))


def _near(start: Floats, low: Floats, high: Floats, draw: np.random.Generator) -> Floats:
    inside = 1e-6 * (high - low)
    return np.asarray(np.clip(start * np.exp(draw.normal(0.0, SPREAD, len(start))), low + inside, high - inside))


def _predicted(machine: GpuMachine, fit: W4Fit, of: Points) -> Estimate:
    return w4_gemm(machine, fit, of.kind, of.m, of.n, of.k)


def errors(machine: GpuMachine, fit: W4Fit, of: Points) -> tuple[str, Error]:
    """Class and error."""
    estimate = _predicted(machine, fit, of)
    return estimate.kind, error(estimate.seconds, of.seconds)


def cross_validated(record: Mapping[str, Any], machine: GpuMachine) -> dict[str, Error]:
    """Errors of whole (N, K) pairs among the calibration points, each predicted by a fit to the other pairs.

    What a model is chosen by: no held-out point is looked at.
    """
    known = {kind: points(record, kind, False) for kind in (*WGMMA, *SYNC)}
    share = hopper_share(record, machine)
    said: dict[str, list[tuple[Floats, Floats]]] = {kind: [] for kind in known}
    for n, k in sorted({pair for one in known.values() for pair in zip(one.n.tolist(), one.k.tolist(), strict=True)}):
        fit = fitted(machine, {kind: one.where((one.n != n) | (one.k != k)) for kind, one in known.items()}, share)
        for kind, one in known.items():
            left = one.where((one.n == n) & (one.k == k))
            said[kind].append((_predicted(machine, fit, left).seconds, left.seconds))
    return {kind: error(*map(np.concatenate, zip(*pairs, strict=True))) for kind, pairs in said.items()}
