"""Energy of a pass that goes on and on, and the clock that the board's power limit leaves it.

The limit holds for the mean over some ten milliseconds: for a pass, not for a kernel. One clock for all of it, the
highest at which its joules over its seconds stay within the limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from accel.gpu.energy import LEAST_CLOCK, EnergyFit
from accel.gpu.machine import GpuMachine
from dataflow.gpu.energy import at_clock, slowed
from dataflow.gpu.estimate import Estimate, Floats

_HALVINGS = 20


@dataclass(frozen=True)
class Sustained:
    """Seconds of each kernel at the share `clock` of the machine's, and joules of the pass by part."""

    seconds: Floats
    clock: float
    joules: Mapping[str, float]


def sustained(machine: GpuMachine, fit: EnergyFit, estimate: Estimate, repeat: Floats, waiting_s: float) -> Sustained:
    """`waiting_s`: seconds of a pass in which no kernel runs."""
    high, low = 1.0, LEAST_CLOCK
    found = _at(machine, fit, estimate, repeat, waiting_s, high)
    if _power(found, repeat, waiting_s) <= machine.power.limit_w:
        return found
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = _at(machine, fit, estimate, repeat, waiting_s, middle)
        within = _power(found, repeat, waiting_s) <= machine.power.limit_w
        low, high = (middle, high) if within else (low, middle)
    return _within(machine, _at(machine, fit, estimate, repeat, waiting_s, low), repeat, waiting_s)


def _power(found: Sustained, repeat: Floats, waiting_s: float) -> float:
    return sum(found.joules.values()) / (float((found.seconds * repeat).sum()) + waiting_s)


def _at(
    machine: GpuMachine, fit: EnergyFit, estimate: Estimate, repeat: Floats, waiting_s: float, clock: float
) -> Sustained:
    shares = np.full_like(estimate.seconds, clock)
    seconds = slowed(estimate, shares)
    parts = at_clock(machine, fit, estimate, shares, seconds)
    joules = {name: float((np.asarray(values) * repeat).sum()) for name, values in parts.items()}
    joules["idle"] += machine.power.idle_w * waiting_s
    return Sustained(seconds, clock, joules)


def _within(machine: GpuMachine, found: Sustained, repeat: Floats, waiting_s: float) -> Sustained:
    """Bytes alone may be over the limit on a carried device: the memory waits too."""
    longer = max(1.0, _power(found, repeat, waiting_s) / machine.power.limit_w)
    return Sustained(found.seconds * longer, found.clock, found.joules)
