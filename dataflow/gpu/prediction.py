"""`Prediction`: an `Estimate` with what decides how far to trust it: the band of its class, floor, warnings, gaps."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from accel.gpu.fit import Error, Fit
from accel.gpu.loading import has_section, section
from accel.gpu.machine import GpuMachine, Trust
from dataflow.gpu.energy import dynamic_j, throttled, total_j
from dataflow.gpu.estimate import Estimate, Floats

_WIDEST = 0.9  # an error of 100 % would leave the upper end of a band open


@dataclass(frozen=True)
class Prediction:
    """Arrays [points] of one class of kernels on one machine.

    problem           what was asked, by name of the argument, each [points]
    latency_s         of one call among calls that follow at once in a CUDA graph, weights cold, activations warm
    low_s, high_s     90 % of the held-out (or published) measurements of the class lie between, as far as known
    floor_s           no implementation on this device takes less
    sustained_s       of one call where the same work goes on until the power limit lowers the clock (some 10 ms)
    energy_j          of one call that goes on so, idle power included; NaN where no fit has energy
    dynamic_j         without idle power (the convention of SpAtten)
    power_error       held-out error of the power of loops on the device whose energy is used; None if there is none
    error             held-out error of the class on the device that the fit was made on; None if nobody measured it
    share             of the band: p90 of |predicted - measured| / measured
    trust             calibrated, anchored or blind: see `accel.gpu.machine`
    fit               the fit that it comes from
    warnings          fallbacks, disagreeing sources, use beyond what was measured
    left_out          what the model does not know
    """

    machine: str
    kind: str
    problem: Mapping[str, Floats]
    latency_s: Floats
    low_s: Floats
    high_s: Floats
    floor_s: Floats
    dram_read_bytes: Floats
    dram_write_bytes: Floats
    l2_bytes: Floats
    operations: Mapping[str, Floats]
    terms: Mapping[str, Floats]
    limited_by: tuple[str, ...]
    sustained_s: Floats
    energy_j: Floats
    dynamic_j: Floats
    power_error: Error | None
    error: Error | None
    share: float
    trust: Trust
    fit: str
    format: str = ""
    warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    scale: float = field(default=1.0)

    def __len__(self) -> int:
        return len(self.latency_s)

    @property
    def dram_bytes(self) -> Floats:
        """Read and written."""
        return self.dram_read_bytes + self.dram_write_bytes

    @property
    def power_w(self) -> Floats:
        """Mean of work that goes on, idle power included: never above the limit of the board."""
        return self.energy_j / self.sustained_s

    def rows(self) -> list[dict[str, Any]]:
        """Each point as plain numbers, ready for JSON."""
        return [self.row(index) for index in range(len(self))]

    def row(self, index: int) -> dict[str, Any]:
        """One point."""
        numbers = {name: _number(name, float(getattr(self, name)[index])) for name in _NUMBERS}
        parts = {name: _at(getattr(self, name), index) for name in ("operations", "terms")}
        return {
            "machine": self.machine,
            "kind": self.kind,
            **({"format": self.format} if self.format else {}),
            **{name: int(values[index]) for name, values in self.problem.items()},
            **numbers,
            "limited_by": self.limited_by[index],
            **parts,
            **self.standing(),
        }

    def standing(self) -> dict[str, Any]:
        """What holds for all points: trust, errors, warnings, gaps."""
        return {
            "trust": self.trust,
            "band": self.share,
            "fit": self.fit,
            "scale": self.scale,
            "error": None if self.error is None else self.error.model_dump(),
            "power_error": None if self.power_error is None else self.power_error.model_dump(),
            "warnings": list(self.warnings),
            "left_out": list(self.left_out),
        }


_NUMBERS = (
    *("latency_s", "low_s", "high_s", "floor_s", "dram_bytes", "dram_read_bytes", "dram_write_bytes", "l2_bytes"),
    *("sustained_s", "energy_j", "dynamic_j", "power_w"),
)


def _number(name: str, value: float) -> float | int:
    """Bytes are whole: what the L2 fails to keep of a small operand is a share of one."""
    return round(value) if name.endswith("_bytes") else value


def _at(values: Mapping[str, Floats], index: int) -> dict[str, float]:
    return {name: float(array[index if len(array) > 1 else 0]) for name, array in values.items()}


def predicted(
    machine: GpuMachine,
    fit: Fit,
    own: bool,
    estimate: Estimate,
    problem: Mapping[str, Floats],
    **more: Any,
) -> Prediction:
    """The estimate with the anchors' scale of its class, and its band. `own`: the fit is the first of the machine.

    A measurement m with |p - m| / m <= share lies between p / (1 + share) and p / (1 - share); never below the floor.
    """
    kind, scale = estimate.kind, machine.scale.get(estimate.kind, 1.0)
    seconds = np.maximum(estimate.seconds * scale, estimate.floor_s)
    trust, error = machine.trust(kind, own), fit.error.get(kind)
    share = band(machine, trust, kind, error)
    sustained, total, dynamic, power = _energy(machine, replace(estimate, seconds=seconds))
    return Prediction(
        machine=machine.name,
        kind=kind,
        problem=problem,
        latency_s=seconds,
        low_s=np.maximum(estimate.floor_s, seconds / (1 + share)),
        high_s=seconds / (1 - share),
        floor_s=estimate.floor_s,
        dram_read_bytes=estimate.dram_read_bytes,
        dram_write_bytes=estimate.dram_write_bytes,
        l2_bytes=estimate.l2_bytes,
        operations=estimate.operations,
        terms=estimate.terms,
        limited_by=tuple(estimate.limited_by()),
        sustained_s=sustained,
        energy_j=total,
        dynamic_j=dynamic,
        power_error=power,
        error=error,
        share=share,
        trust=trust,
        fit=fit.name,
        scale=scale,
        **more,
    )


def _energy(machine: GpuMachine, estimate: Estimate) -> tuple[Floats, Floats, Floats, Error | None]:
    """Sustained seconds, joules, joules without idle, error of power; NaN joules where no fit has energy."""
    if not has_section(machine, "energy"):
        none = np.full(len(estimate.seconds), np.nan)
        return estimate.seconds, none, none, None
    numbers, fit, _ = section(machine, "energy")
    found = throttled(machine, numbers, estimate)
    sustained = np.maximum(found.seconds, estimate.seconds)  # rounding may bring it below
    return sustained, total_j(found.joules), dynamic_j(found.joules), fit.error.get("power")


def band(machine: GpuMachine, trust: Trust, kind: str, error: Error | None) -> float:
    """Share of the band: the held-out p90 of a calibrated class, else what the machine file says of it, but no less
    than that p90 on the device of the fit."""
    if trust == "calibrated" and error is not None:
        return min(error.p90, _WIDEST)
    told = machine.error.get(kind, machine.error.get("default", _WIDEST))
    return min(max(told, error.p90 if error is not None else 0.0), _WIDEST)


def with_warning(prediction: Prediction, warning: str | None) -> Prediction:
    """The prediction with one more warning, if there is one."""
    return replace(prediction, warnings=(*prediction.warnings, warning)) if warning else prediction
