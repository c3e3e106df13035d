"""Predicted beside measured, point by point: what every error table, parity plot and test of the GPU models is made of.

    classes = parities(load_machine("h200"), load_fit("h200"), record)
    classes["gemm_bf16"].error()                     # of held-out points
    classes["gemm_bf16"].error(scale=True)           # the run's own scale taken out

A scale of a run is the median ratio over its points that are not held out: it takes out clocks and temperature of that
day. Errors are told with and without it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.gpu.fit import Error, Fit
from accel.gpu.machine import GpuMachine
from analysis.gpu import fit_attention as attention
from analysis.gpu import fit_convolution as convolutions
from analysis.gpu import fit_memory_bound as moving
from analysis.gpu.fit_linear_attention import linear_points
from analysis.gpu.held_out import error
from dataflow.gpu.estimate import Estimate, Floats
from dataflow.gpu.gemm import gemm
from dataflow.gpu.memory_bound import by_rows
from dataflow.gpu.moving_kernels import OPERATORS
from dataflow.gpu.w4 import w4_gemm

Record = Mapping[str, Any]
Row = Mapping[str, Any]
Rows = Sequence[Row]
LEAST_S = moving.LEAST_S  # of memory-bound points that are judged


@dataclass(frozen=True)
class Parity:
    """One class of kernels, arrays [points]; `floor_s` is 0 where the model states none."""

    kind: str
    names: tuple[str, ...]
    measured_s: Floats
    predicted_s: Floats
    held_out: NDArray[np.bool_]

    def scale(self) -> float:
        """Median of measured over predicted, of points that are not held out; 1 where there are none."""
        kept = ~self.held_out
        return float(np.median(self.measured_s[kept] / self.predicted_s[kept])) if kept.any() else 1.0

    def error(self, scale: bool = False, held_out: bool = True) -> Error | None:
        """Of the held-out points (or of the others); None where there are none."""
        some = self.held_out if held_out else ~self.held_out
        factor = self.scale() if scale else 1.0
        return error(factor * self.predicted_s[some], self.measured_s[some]) if some.any() else None


def parities(machine: GpuMachine, fit: Fit, record: Record) -> dict[str, Parity]:
    """By class, of every part that the fit has a section for."""
    rows = [row for row in record["rows"] if "us" in row and "refused" not in row and "held_out" in row]
    found: dict[str, list[tuple[Row, float]]] = {}
    for part, some in _by_part(rows).items():
        for model in (one for prefix, one in MODELS.items() if part.startswith(prefix)):
            for kind, row, seconds in model(machine, fit, some):
                found.setdefault(kind, []).append((row, seconds))
    classes = {kind: _parity(kind, pairs) for kind, pairs in found.items()} | _attention(machine, fit, record)
    return dict(sorted(classes.items()))


def _attention(machine: GpuMachine, fit: Fit, record: Record) -> dict[str, Parity]:
    """Decoding, prefill and linear attention, whose points the fit knows as they are."""
    pairs = [(points, fit.attention) for points in attention.all_points(machine, record)] if fit.attention else []
    if fit.linear_attention and fit.memory_bound:
        known = linear_points(machine, record, fit.memory_bound)
        pairs += [(points, fit.linear_attention) for points in known]  # type: ignore[misc]
    groups: dict[str, list[tuple[attention.Points, Floats]]] = {}
    for points, section in pairs:
        groups.setdefault(points.kind, []).append((points, points.estimate(section).seconds))
    return {kind: _joined(kind, some) for kind, some in groups.items()}


def _joined(kind: str, some: Sequence[tuple[attention.Points, Floats]]) -> Parity:
    measured = np.concatenate([points.seconds for points, _ in some])
    predicted = np.concatenate([seconds for _, seconds in some])
    held = np.concatenate([points.held_out for points, _ in some])
    return Parity(kind, tuple(f"{kind} {place}" for place in range(len(measured))), measured, predicted, held)


def _by_part(rows: Rows) -> dict[str, Rows]:
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row["part"], []).append(row)
    return {part: tuple(some) for part, some in parts.items()}


def _parity(kind: str, pairs: Sequence[tuple[Row, float]]) -> Parity:
    rows = [row for row, _ in pairs]
    return Parity(
        kind,
        tuple(row["name"] for row in rows),
        1e-6 * np.array([row["us"] for row in rows]),
        np.array([seconds for _, seconds in pairs]),
        np.array([row["held_out"] for row in rows], dtype=bool),
    )


Told = Iterator[tuple[str, Row, float]]  # class, row, predicted seconds


def _columns(rows: Rows, *names: str) -> list[Floats]:
    return [np.array([row[name] for row in rows], dtype=np.float64) for name in names]


def _each(made: Estimate, rows: Rows) -> Told:
    yield from ((made.kind, row, float(s)) for row, s in zip(rows, made.seconds, strict=True))


def _library(machine: GpuMachine, fit: Fit, rows: Rows) -> Told:
    form = rows[0]["part"].removeprefix("gemm_")
    if fit.gemm and form in fit.gemm:
        m, n, k = _columns(rows, "m", "n", "k")
        yield from _each(gemm(machine, fit.gemm[form], form, m, n, k), rows)


def _ours(machine: GpuMachine, fit: Fit, rows: Rows) -> Told:
    if fit.w4:
        form = rows[0]["part"].removeprefix("ours_")
        m, n, k = _columns(rows, "m", "n", "k")
        yield from _each(w4_gemm(machine, fit.w4, form, m, n, k), rows)


def _moving(machine: GpuMachine, fit: Fit, rows: Rows) -> Told:
    """Points of LEAST_S and more: below it a launch is all there is."""
    some = [row for row in rows if 1e-6 * row["us"] >= LEAST_S]
    for operator in dict.fromkeys(_operator(row) for row in some):
        if fit.memory_bound is None or operator not in OPERATORS:
            continue
        mine = [row for row in some if _operator(row) == operator]
        height = np.array([row.get("rows", 1) for row in mine])
        width = np.array([row.get("width", row.get("elements")) for row in mine])
        yield from _each(by_rows(machine, fit.memory_bound, operator, height, width), mine)


def _operator(row: Row) -> str:
    family = str(row.get("family", ""))
    return moving.QUANTIZERS.get(family, family)


def _convolution(machine: GpuMachine, fit: Fit, rows: Rows) -> Told:
    if fit.convolution and fit.memory_bound:
        seconds = convolutions.predict(machine, fit.convolution, fit.memory_bound, rows)
        for row, s in zip(rows, seconds, strict=True):
            yield "convolution_depthwise" if row["groups"] > 1 else "convolution", row, float(s)


def _transfers(machine: GpuMachine, fit: Fit, rows: Rows) -> Told:
    if fit.transfer and fit.memory_bound:
        seconds = convolutions.predict_transfers(machine, fit.transfer, fit.memory_bound, rows)
        yield from (("transfer", row, float(s)) for row, s in zip(rows, seconds, strict=True))


MODELS: dict[str, Callable[[GpuMachine, Fit, Rows], Told]] = {
    "gemm_": _library,
    "ours_": _ours,
    "elementwise": _moving,
    "rows": _moving,
    "activations": _moving,
    "convolution": _convolution,
    "transfers": _transfers,
}


def repeated(first: Record, second: Record) -> dict[str, Error]:
    """How far two runs are apart, by part: the floor of any honest error. Points that both have."""
    times = [_times(record) for record in (first, second)]
    parts: dict[str, list[tuple[float, float]]] = {}
    for key in times[0].keys() & times[1].keys():
        parts.setdefault(key[0], []).append((times[1][key], times[0][key]))
    return {part: error(*zip(*pairs, strict=True)) for part, pairs in sorted(parts.items())}


def _times(record: Record) -> dict[tuple[str, str, str], float]:
    """By part, name and what else tells rows of one name apart."""
    timed = [row for row in record["rows"] if "us" in row and row["part"] not in ("energy", "host")]
    return {(row["part"], row["name"], str(row.get("channels_last", row.get("way", "")))): row["us"] for row in timed}
