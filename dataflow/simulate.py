"""The one door for everybody above: `simulate(machine, trace, policy) -> Result`."""

from pathlib import Path
from typing import cast

import dataflow.a3
import dataflow.eager
import dataflow.gpu.run
import dataflow.mnnfast
import dataflow.relative
import dataflow.spatten.run  # noqa: F401  (registers its planner)
from accel.machine import Machine
from dataflow.engines import ENGINES
from dataflow.lowering import find_planner
from sim.result import Result
from workloads.policy import Policy
from workloads.trace import Trace

MEMORIES = ("dram", "ideal")
PLANNED = ("a3", "mnnfast", "spatten")  # planners that run tasks on an engine


def simulate(
    machine: Machine,
    trace: Trace,
    policy: Policy | None,
    *,
    engine: str = "compiled",
    memory: str = "dram",
    timeline: str | Path | None = None,
    work: object = None,
) -> Result:
    """What the workload costs on the machine.

    policy     None for a trace that records what was pruned (the released SpAtten workloads)
    engine     "compiled", or "simpy": the readable reference, some hundred times slower, the same cycles
    memory     "dram": the controller; "ideal": its peak bandwidth without banks, rows, refresh
               or the energy of activates
    timeline   write the run as a Chrome/Perfetto trace to that path
    work       a list of AttentionWork to run instead of the replay of `policy` (pruning recorded in the loop)
    Raises ValueError where machine, workload and policy do not go together.
    """
    for name, value, allowed in (("engine", engine, ENGINES), ("memory", memory, MEMORIES)):
        if value not in allowed:
            raise ValueError(f"{name}: must be one of {', '.join(allowed)}, got {value!r}")
    if timeline and machine.planner not in PLANNED:
        raise ValueError(f"timeline: {machine.name} is a closed form, it has no tasks to show")
    options = {"engine": engine, "memory": memory, "timeline": timeline, "work": work}
    return cast(Result, find_planner(machine.planner)(machine, trace, policy, options))
