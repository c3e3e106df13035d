"""Fits attention (`dataflow/gpu/attention.py`) to a calibration record.

    fit = fit_attention(record, machine)      # AttentionFit
    errors(machine, record, fit)              # by class

Least squares of logarithms over the points that the record does not hold out; each held-out point is judged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.gpu.attention import AttentionFit, FlashFit, LibraryDecodeFit, OurDecodeFit
from accel.gpu.fit import Error
from accel.gpu.machine import GpuMachine
from accel.gpu.memory_bound import MemoryBoundFit
from analysis.gpu.fit_moving import Section
from analysis.gpu.fits_to_points import Parameter, fitted
from analysis.gpu.held_out import error
from dataflow.gpu.attention import decode_attention, prefill_attention
from dataflow.gpu.estimate import Estimate, Floats

OURS = {
    "block_slots": Parameter(1000.0, 100.0, 5000.0),
    "head_slots": Parameter(300.0, 10.0, 3000.0),
    "block_cycles": Parameter(1500.0, 100.0, 8000.0),
    "quantize_cycles": Parameter(600.0, 10.0, 4000.0),
    "chain": Parameter(2.3, 0.5, 8.0),
    "memory_share": Parameter(0.98, 0.7, 1.05),
    "short_bytes": Parameter(100.0, 1.0, 1000.0),
    "wait_cycles": Parameter(500.0, 10.0, 5000.0),
    "cluster_cycles": Parameter(1500.0, 100.0, 8000.0),
    "meet_cycles": Parameter(2500.0, 100.0, 10000.0),
    "exposed_tiles": Parameter(6.0, 0.5, 60.0),
    "overlap": Parameter(2.0, 1.0, 6.0),
    "across": Parameter(3.0, 1.2, 8.0),
}
CUDNN_DECODE = {
    "start_cycles": Parameter(3000.0, 100.0, 10000.0),
    "block_cycles": Parameter(2000.0, 100.0, 8000.0),
    "tile_cycles": Parameter(1000.0, 50.0, 5000.0),
    "memory_share": Parameter(0.99, 0.7, 1.05),
    "exposed_tiles": Parameter(3.0, 0.2, 60.0),
    "overlap": Parameter(2.0, 1.0, 6.0),
    "combine_cycles": Parameter(3000.0, 100.0, 20000.0),
    "split_cycles": Parameter(100.0, 1.0, 2000.0),
}
FLASH = {
    "tensor": Parameter(0.9, 0.7, 1.0),
    "score_slots": Parameter(5.0, 1.0, 30.0),
    "within": Parameter(1.8, 1.0, 12.0),
    "tile_cycles": Parameter(300.0, 10.0, 3000.0),
    "masked": Parameter(0.6, 0.01, 4.0),
    "start_cycles": Parameter(3000.0, 100.0, 12000.0),
    "block_cycles": Parameter(1000.0, 10.0, 8000.0),
    "head_cycles": Parameter(2000.0, 10.0, 8000.0),
    "uneven_cycles": Parameter(600.0, 1.0, 4000.0),
    "padded_cycles": Parameter(300.0, 1.0, 4000.0),
    "tail": Parameter(0.8, 0.05, 1.5),
    "slowing": Parameter(0.08, 0.005, 0.3),
    "slowing_s": Parameter(1e-3, 5e-5, 2e-2),
}
PAIRED = {"alone": Parameter(1.3, 1.0, 2.0)}  # kernels of two blocks a multiprocessor
DECODING = {
    "cold_cycles": Parameter(500.0, 10.0, 5000.0),
    "memory_share": Parameter(0.99, 0.7, 1.05),
    "across": Parameter(3.0, 1.5, 12.0),
}
COMBINING = {
    "combine_cycles": Parameter(3000.0, 100.0, 20000.0),
    "split_cycles": Parameter(200.0, 1.0, 2000.0),
    "combine_share": Parameter(0.2, 0.02, 1.0),
}
NOT_SEEN = {"memory_share": 1.0, "across": 4.0}  # of kernels that decode nothing here: DRAM never limits them


@dataclass(frozen=True)
class Points:
    """Of one part of a record, arrays [points]; `time(fit)` predicts seconds."""

    kind: str
    seconds: Floats
    held_out: NDArray[np.bool_]
    estimate: Callable[[Any], Estimate]

    def residuals(self, fit: Any) -> Floats:
        """Logarithms of predicted over measured, of points that are not held out."""
        return np.log(self.estimate(fit).seconds / self.seconds)[~self.held_out]


def part_rows(record: Mapping[str, Any], part: str) -> list[Mapping[str, Any]]:
    """Of a record, those that were measured."""
    return [row for row in record["rows"] if row["part"] == part and "us" in row]


def columns(rows: Sequence[Mapping[str, Any]], *names: str) -> list[Floats]:
    """[rows] of each name."""
    return [np.array([row[name] for row in rows], dtype=np.float64) for name in names]


def points_of(kind: str, rows: Sequence[Mapping[str, Any]], estimate: Callable[[Any], Estimate]) -> Points:
    """Of a record's rows."""
    held = np.array([row["held_out"] for row in rows], dtype=bool)
    return Points(kind, 1e-6 * columns(rows, "us")[0], held, estimate)


def decode_points(machine: GpuMachine, record: Mapping[str, Any], part: str, kernel: str) -> list[Points]:
    """Part `decode_PART` by a kernel of `decode_attention`; none where the record has no such part."""
    rows = part_rows(record, f"decode_{part}")
    if not rows:
        return []
    b, length, h, kv, size, bits = columns(rows, "batch", "context", "heads", "kv_heads", "size", "bits")
    kind = f"decode_attention_{part.removeprefix('sdpa_')}"
    return [points_of(kind, rows, lambda fit: decode_attention(machine, fit, b, length, h, kv, size, bits, kernel))]


def prefill_points(machine: GpuMachine, record: Mapping[str, Any], kernel: str) -> list[Points]:
    """Part `prefill_sdpa_KERNEL`, causal points and others apart."""
    found = []
    for causal in (False, True):
        rows = [row for row in part_rows(record, f"prefill_sdpa_{kernel}") if row["causal"] == causal]
        if rows:
            found.append(_prefill(machine, kernel, rows, causal))
    return found


def _prefill(machine: GpuMachine, kernel: str, rows: Sequence[Mapping[str, Any]], causal: bool) -> Points:
    b, h, queries, keys, size = columns(rows, "batch", "heads", "queries", "keys", "size")
    return points_of(
        f"prefill_{kernel}",
        rows,
        lambda fit: prefill_attention(machine, fit, b, h, h, queries, keys, size, causal, kernel),
    )


def least(
    parameters: Mapping[str, Parameter], make: Callable[[Mapping[str, float]], Any], all_: Sequence[Points]
) -> Any:
    """What `make` makes of the values that fit best."""
    values = fitted(
        parameters, lambda one: np.concatenate([points.residuals(make(one)) for points in all_]), rounds=200
    )
    return make(values)


def fit_attention(record: Mapping[str, Any], machine: GpuMachine) -> AttentionFit:
    """All kernels that the record has; flash also from decode steps, which it runs too."""
    hopper = float(record["ceilings"]["mma_per_s"]) / machine.per_s("int8")
    found = AttentionFit(prefill={"flash": _flash(machine, record, hopper)})
    for add in (_with_cudnn, _with_cudnn_decode, _with_ours):
        found = add(machine, record, found)
    return found


def _flash(machine: GpuMachine, record: Mapping[str, Any], hopper: float) -> FlashFit:
    """Tiles and blocks from prefill, then from decode steps what these alone show."""

    def made(values: Mapping[str, float]) -> AttentionFit:
        return AttentionFit(prefill={"flash": FlashFit(**(NOT_SEEN | {"hopper": hopper} | dict(values)))})

    known = prefill_points(machine, record, "flash")
    base = least(FLASH | PAIRED | COMBINING, made, known).prefill["flash"].model_dump()
    known += decode_points(machine, record, "sdpa_flash", "flash")
    found: FlashFit = least(DECODING | COMBINING, lambda some: made(base | dict(some)), known).prefill["flash"]
    return found


def _with_cudnn(machine: GpuMachine, record: Mapping[str, Any], fit: AttentionFit) -> AttentionFit:
    known = prefill_points(machine, record, "cudnn")
    if not known:
        return fit

    def made(values: Mapping[str, float]) -> AttentionFit:
        cudnn = FlashFit(hopper=1.0, alone=1.0, **(dict(values) | NOT_SEEN))
        return fit.model_copy(update={"prefill": fit.prefill | {"cudnn": cudnn}})

    found: AttentionFit = least(FLASH, made, known)
    return found


def _with_cudnn_decode(machine: GpuMachine, record: Mapping[str, Any], fit: AttentionFit) -> AttentionFit:
    known = decode_points(machine, record, "sdpa_cudnn", "cudnn")
    if not known:
        return fit

    def made(values: Mapping[str, float]) -> AttentionFit:
        return fit.model_copy(update={"cudnn_decode": LibraryDecodeFit(**values)})

    found: AttentionFit = least(CUDNN_DECODE, made, known)
    return found


def our_points(machine: GpuMachine, record: Mapping[str, Any]) -> list[Points]:
    """Caches of 4, 8 and 16 bits."""
    return [points for bits in (4, 8, 16) for points in decode_points(machine, record, f"kv{bits}", "ours")]


def _with_ours(machine: GpuMachine, record: Mapping[str, Any], fit: AttentionFit) -> AttentionFit:
    known = our_points(machine, record)
    if not known:
        return fit

    def made(values: Mapping[str, float]) -> AttentionFit:
        return fit.model_copy(update={"ours": OurDecodeFit(**values)})

    found: AttentionFit = least(OURS, made, known)
    return found


def all_points(machine: GpuMachine, record: Mapping[str, Any]) -> list[Points]:
    """Every part that the record has."""
    found = our_points(machine, record)
    for kernel in ("flash", "cudnn"):
        found += decode_points(machine, record, f"sdpa_{kernel}", kernel) + prefill_points(machine, record, kernel)
    return found


def judged(found: Sequence[Points], fit: Any, held_out: bool = True) -> dict[str, Error]:
    """Errors of held-out points by kind; of the others where asked."""
    pairs: dict[str, list[tuple[Floats, Floats]]] = {}
    for points in found:
        chosen = points.held_out == held_out
        if chosen.any():
            pair = points.estimate(fit).seconds[chosen], points.seconds[chosen]
            pairs.setdefault(points.kind, []).append(pair)
    return {kind: error(*map(np.concatenate, zip(*some, strict=True))) for kind, some in pairs.items()}


def errors(machine: GpuMachine, record: Mapping[str, Any], fit: AttentionFit) -> dict[str, Error]:
    """Of held-out points by kind."""
    return judged(all_points(machine, record), fit)


def sections(
    machine: GpuMachine, record: Mapping[str, Any], memory: MemoryBoundFit | None = None
) -> dict[str, Section]:
    """What a calibration puts into a fit; linear attention only with the fit of the kernels around its products.

    Raises ValueError where the record has no prefill by flash.
    """
    from analysis.gpu.fit_linear_attention import linear_sections  # which is made of the parts above

    found = all_points(machine, record)
    if not any(one.kind == "prefill_flash" for one in found):
        raise ValueError("record: no points of part prefill_sdpa_flash")
    fit = fit_attention(record, machine)
    made = {"attention": Section(fit, judged(found, fit), fitted_to(found))}
    return made | (linear_sections(machine, record, memory) if memory else {})


def fitted_to(found: Sequence[Points]) -> int:
    """How many points are not held out."""
    return sum(int((~one.held_out).sum()) for one in found)
