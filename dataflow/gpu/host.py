"""How a pass is executed: who launches its kernels, and what that costs on top of them.

    graph            kernels of eager operators, replayed as one CUDA graph
    eager            launched one by one from Python: a longer gap between kernels, and a host that may be late
    compiled         repeated blocks compiled (`fusion.py`), launched by the host
    compiled_graph   the same, replayed

A host that launches runs ahead of the device from pass to pass: the longer of both counts. Left out: how far it runs
ahead within one pass, and what waits for a result on the host.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from accel.gpu.host import HostFit
from accel.gpu.machine import GpuMachine
from dataflow.gpu.estimate import Floats
from dataflow.gpu.kernels import Kernels

Execution = Literal["graph", "eager", "compiled", "compiled_graph"]
EXECUTIONS: tuple[Execution, ...] = get_args(Execution)


@dataclass(frozen=True)
class Launching:
    """Seconds a pass: gaps [kernels] beyond those of a graph, and the host's time, 0 where it only starts a replay."""

    gaps_s: Floats
    host_s: float


def is_compiled(execution: Execution) -> bool:
    """Whether repeated blocks are compiled."""
    return execution in ("compiled", "compiled_graph")


def launching(machine: GpuMachine, fit: HostFit, kernels: Kernels, operators: float, execution: Execution) -> Launching:
    """`operators`: of the eager pass, views included."""
    if execution in ("graph", "compiled_graph"):
        return Launching(np.zeros(len(kernels)), 0.0)
    gaps = kernels.launches * max(0.0, machine.launch.stream_s - machine.launch.graph_s)
    launched = float(kernels.repeat.sum()) * fit.compiled_s if execution == "compiled" else operators * fit.operator_s
    return Launching(gaps, launched)
