"""Power of whole models against recordings: an independent check of energies that loops of single kernels gave.

    python -m analysis.gpu.model_power h200

A pass's joules over its seconds, both measured, beside both predicted. Recordings that calibrate the framework's
section, and so the watts that a whole model takes beyond its kernels, are left out.
"""

import sys
from collections.abc import Sequence

from accel.gpu.fit import Error
from accel.gpu.machine import GpuMachine
from accel.machine import load_machine
from analysis.gpu.fit_framework import recordings
from analysis.gpu.held_out import error, said
from analysis.gpu.model_errors import Compared, compared

BELOW = 0.95  # of the power limit: above it the limit tells the power, whatever the model


def watts(one: Compared) -> tuple[float, float]:
    """(predicted, measured) mean of a pass. Raises ValueError where the recording has no joules."""
    if one.measured_j is None:
        raise ValueError(f"{one.recording}: {one.found.execution}: no energy was measured")
    return sum(one.found.power.joules.values()) / one.found.latency_s, one.measured_j / one.measured_s


def power_errors(machine: GpuMachine, points: Sequence[Compared]) -> dict[str, Error]:
    """By class: "model_power" over all passes whose energy was measured, and over those well below the limit alone."""
    pairs = [watts(one) for one in points if one.measured_j]
    below = [pair for pair in pairs if pair[1] < BELOW * machine.power.limit_w]
    named = {"model_power": pairs, "model_power: below the limit": below}
    return {name: error(*zip(*some, strict=True)) for name, some in named.items() if some}


def main(name: str) -> None:
    """Print the errors of a shipped machine."""
    machine = load_machine(name)
    assert isinstance(machine, GpuMachine)
    for kind, found in power_errors(machine, compared(machine, recordings(False))).items():
        print(f"{kind:36}{said(found)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
