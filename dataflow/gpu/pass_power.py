"""Energy of a pass that goes on and on, and the clock that the board's power limit leaves it.

The limit holds for the mean over some ten milliseconds: for a pass, not for a kernel. One clock for all of it, the
highest at which its joules over its seconds stay within the limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from accel.gpu.energy import LEAST_CLOCK, EnergyFit, square_volts
from accel.gpu.host import FrameworkFit
from accel.gpu.loading import section
from accel.gpu.machine import GpuMachine
from dataflow.gpu.energy import FIXED, at_clock, slowed
from dataflow.gpu.estimate import Estimate, Floats

_HALVINGS = 20


@dataclass(frozen=True)
class Sustained:
    """Seconds of each kernel at the share `clock` of the machine's, and joules of the pass by part."""

    seconds: Floats
    clock: float
    joules: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Work:
    """Kernels of a pass, how often each runs, and seconds of the pass in which none does."""

    estimate: Estimate
    repeat: Floats
    waiting_s: float


def pass_energy(machine: GpuMachine, fit: FrameworkFit) -> tuple[EnergyFit, float]:
    """Numbers of energy for a model's operations, and watts of its active kernels. Raises ValueError without a fit."""
    energy: EnergyFit = section(machine, "energy")[0]
    words = {unit: fit.operation_share * value for unit, value in energy.operation_pj.items()}
    return energy.model_copy(update={"operation_pj": words}), fit.active_share * machine.power.limit_w


def sustained(machine: GpuMachine, fit: EnergyFit, active_w: float, work: Work) -> Sustained:
    """`active_w`: watts while what limits a kernel follows the clock, beyond those of its bytes and operations."""
    high, low = 1.0, LEAST_CLOCK
    found = _at(machine, fit, active_w, work, high)
    if power_w(found, work) <= machine.power.limit_w:
        return found
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        within = power_w(_at(machine, fit, active_w, work, middle), work) <= machine.power.limit_w
        low, high = (middle, high) if within else (low, middle)
    return _within(machine, _at(machine, fit, active_w, work, low), work)


def power_w(found: Sustained, work: Work) -> float:
    """Mean of the pass."""
    return sum(found.joules.values()) / (float((found.seconds * work.repeat).sum()) + work.waiting_s)


def active_s(estimate: Estimate) -> Floats:
    """Seconds of each kernel in which what limits it follows the clock."""
    follows = [term for name, term in estimate.terms.items() if name not in FIXED]
    return np.minimum(np.max(follows, axis=0), estimate.seconds) if follows else np.zeros_like(estimate.seconds)


def _at(machine: GpuMachine, fit: EnergyFit, active_w: float, work: Work, clock: float) -> Sustained:
    shares = np.full_like(work.estimate.seconds, clock)
    seconds = slowed(work.estimate, shares)
    parts = at_clock(machine, fit, work.estimate, shares, seconds)
    parts["active"] = (
        active_w
        * active_s(work.estimate)
        * square_volts(clock * machine.clock_hz)
        / square_volts(float(machine.clock_hz))
    )
    joules = {name: float((np.asarray(values) * work.repeat).sum()) for name, values in parts.items()}
    joules["idle"] += machine.power.idle_w * work.waiting_s
    return Sustained(seconds, clock, joules)


def _within(machine: GpuMachine, found: Sustained, work: Work) -> Sustained:
    """Bytes alone may be over the limit on a carried device: the memory waits too."""
    longer = max(1.0, power_w(found, work) / machine.power.limit_w)
    return Sustained(found.seconds * longer, found.clock, found.joules)
