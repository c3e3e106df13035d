"""Joules of kernels: idle, static, DRAM, L2, operations by unit; and the time that the board's power limit costs.

    power = idle + static + (DRAM bytes e_dram + L2 bytes e_l2 + sum of operations e_unit) / seconds

Total is the whole; dynamic is without idle, the convention of SpAtten's measurements. Where the power would be above
the limit, the clock falls until it is not: all but DRAM then takes less energy (voltage falls with the clock), logic
more time. Operations are those that are executed (`executed.py`): padded products, instructions of threads.

Left out: temperature (leakage: 1 W a degree), values of the data (chains of constant operands take a third of what is
said here, products of 4-bit values less than those of 8), registers and shared memory beside the instructions that use
them, fans and the host. A time that was fitted to a clock which the limit had already lowered is slowed once more.
"""

from dataclasses import dataclass

import numpy as np

from accel.gpu.energy import LEAST_CLOCK, EnergyFit, device_byte_j, operation_j, square_volts
from accel.gpu.machine import GpuMachine
from dataflow.gpu.estimate import Estimate, Floats

FIXED = ("dram", "launch", "latency", "pcie")  # terms whose time does not follow the clock
HALVINGS = 40


@dataclass(frozen=True)
class Throttled:
    """Arrays [points]: seconds at the clock that the limit allows, that clock over the machine's, joules by part."""

    seconds: Floats
    clock: Floats
    joules: dict[str, Floats]

    @property
    def power_w(self) -> Floats:
        """Mean of the whole."""
        return np.asarray(sum(self.joules.values()) / self.seconds)


def energy(machine: GpuMachine, fit: EnergyFit, estimate: Estimate) -> dict[str, Floats]:
    """Joules of one call by part: "idle", "static", "dram", "l2" and the units of the operations; their sum is the
    total, without "idle" it is dynamic. At the clock that the power limit allows: never above it."""
    return throttled(machine, fit, estimate).joules


def throttled_seconds(machine: GpuMachine, fit: EnergyFit, estimate: Estimate) -> Floats:
    """Seconds of one call when the same work goes on for long enough that the power limit counts (some 10 ms)."""
    return throttled(machine, fit, estimate).seconds


def throttled(machine: GpuMachine, fit: EnergyFit, estimate: Estimate) -> Throttled:
    """The highest clock whose power is within the limit, by halving between LEAST_CLOCK and 1."""
    high = np.ones_like(estimate.seconds)
    low = np.full_like(high, LEAST_CLOCK)
    within = _over(machine, fit, estimate, high) <= 0
    for _ in range(0 if within.all() else HALVINGS):
        middle = (low + high) / 2
        over = _over(machine, fit, estimate, middle) > 0
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    clock = np.where(within, 1.0, low)
    seconds = slowed(estimate, clock)
    joules = at_clock(machine, fit, estimate, clock, seconds)
    # bytes alone could exceed the limit on a carried device: then memory waits too
    seconds = np.maximum(seconds, _moving(joules) / (machine.power.limit_w - _resting_w(machine, fit)))
    return Throttled(seconds, clock, at_clock(machine, fit, estimate, clock, seconds))


def _over(machine: GpuMachine, fit: EnergyFit, estimate: Estimate, clock: Floats) -> Floats:
    """Watts above the limit."""
    seconds = slowed(estimate, clock)
    return np.asarray(sum(at_clock(machine, fit, estimate, clock, seconds).values()) / seconds - machine.power.limit_w)


def slowed(estimate: Estimate, clock: Floats) -> Floats:
    """Seconds at a share of the clock: the longest term that follows the clock grows, the rest of the time stays."""
    largest = np.max([*(term for name, term in estimate.terms.items() if name not in FIXED), 0 * clock], axis=0)
    follows = np.minimum(largest, estimate.seconds)
    return np.asarray(estimate.seconds - follows + follows / clock)


def at_clock(
    machine: GpuMachine, fit: EnergyFit, estimate: Estimate, clock: Floats, seconds: Floats
) -> dict[str, Floats]:
    """Joules by part of a call that takes so long at a share of the machine's clock."""
    volts = square_volts(clock * machine.clock_hz) / square_volts(machine.clock_hz)
    moved = estimate.dram_read_bytes + estimate.dram_write_bytes
    parts = {
        "idle": machine.power.idle_w * seconds,
        "static": fit.active_share * machine.power.limit_w * seconds,
        "dram": (device_byte_j(machine) + 8e-12 * fit.path_pj_per_bit * volts) * moved,
        "l2": 8e-12 * fit.l2_pj_per_bit * estimate.l2_bytes * volts,
    }
    units = {unit: operation_j(machine, fit, unit) * count * volts for unit, count in estimate.operations.items()}
    return parts | units


def _moving(joules: dict[str, Floats]) -> Floats:
    return np.asarray(sum(values for name, values in joules.items() if name not in ("idle", "static")))


def _resting_w(machine: GpuMachine, fit: EnergyFit) -> float:
    return machine.power.idle_w + fit.active_share * machine.power.limit_w


def total_j(joules: dict[str, Floats]) -> Floats:
    """With idle."""
    return np.asarray(sum(joules.values()))


def dynamic_j(joules: dict[str, Floats]) -> Floats:
    """Without idle, as SpAtten reports it."""
    return np.asarray(sum(values for name, values in joules.items() if name != "idle"))
