"""What every function of `dataflow.gpu.predict` does first and last: load the machine, check counts, take a section."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from accel.gpu.loading import section
from accel.gpu.machine import GpuMachine
from accel.machine import load_machine
from dataflow.gpu.estimate import Estimate, Floats
from dataflow.gpu.prediction import Prediction, predicted

AnyMachine = GpuMachine | str | Path
LEFT_OUT_MOVING = (
    "operands are those of the call before, in the L2 as far as they fit",
    "the last, partly filled wave of blocks; clocks that the power limit lowers",
)


def gpu(machine: AnyMachine) -> GpuMachine:
    """A machine that these models describe, as it is or loaded. Raises ValueError for another kind."""
    loaded = machine if isinstance(machine, GpuMachine) else load_machine(machine)
    if not isinstance(loaded, GpuMachine):
        raise ValueError(f"machine: {loaded.name} is no GPU of these models (its planner is {loaded.planner})")
    return loaded


def counts(**given: ArrayLike) -> dict[str, Floats]:
    """Arrays [points] of whole numbers >= 1, paired. Raises ValueError with the name of one that is not."""
    arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(one, dtype=np.float64)) for one in given.values()))
    named = dict(zip(given, arrays, strict=True))
    for name, values in named.items():
        if not ((values >= 1) & (values == np.floor(values))).all():
            worst = values[~((values >= 1) & (values == np.floor(values)))][0]
            raise ValueError(f"{name}: must be whole numbers >= 1, got {worst:g}")
    return named


def told(
    machine: GpuMachine,
    name: str,
    model: Callable[[GpuMachine, Any], Estimate],
    problem: Mapping[str, Floats],
    key: str | None = None,
    **more: Any,
) -> Prediction:
    """The model on the section `name` (or its entry `key`) of the machine's fits."""
    found, fit, own = section(machine, name, key)
    return predicted(machine, fit, own, model(machine, found), problem, **more)
