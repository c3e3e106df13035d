"""Planner "gpu": whole models by the models of their kernels (`trace.py`), or float32 operators without shapes.

Traces that tell no shapes have eager float32 operators, one kernel each, replayed as one CUDA graph: the closed form of
`dataflow/eager.py` on the data sheet of the GPU: CUDA cores, bandwidth as a kernel that only reads reaches it, the L2,
and the gap between kernels of a graph.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from accel.eager import Compute, DeviceMemory, EagerMachine, Host, Power
from accel.gpu.machine import GpuMachine
from dataflow.eager import run_eager
from dataflow.gpu.passes import under_scheme
from dataflow.gpu.trace import run_trace
from dataflow.lowering import planner
from sim.result import Result
from workloads.policy import Policy
from workloads.trace import Trace

_LEFT_OUT = (
    "host time: the operators are replayed as a CUDA graph",
    "tensor cores: the recorded operators are float32",
    "energy is a bound: the board limit less its idle power, over the whole run",
)


@planner("gpu")
def run_gpu(machine: GpuMachine, trace: Trace, policy: Policy | None, options: Mapping[str, Any]) -> Result:
    """An exported trace, executed as `policy` says (as a graph without one); others as `run_eager` runs them.

    Raises ValueError for a trace without operators, and where no fit of the machine has a class that the trace needs.
    """
    if "op" in trace.operators:
        chosen = policy or Policy()
        return run_trace(machine, under_scheme(trace, chosen.scheme), chosen.execution)
    result = run_eager(eager(machine), trace, policy, options)
    return replace(result, left_out=(*_LEFT_OUT, *result.left_out))


def eager(machine: GpuMachine) -> EagerMachine:
    """The GPU as a machine that runs float32 operators one after another, without a host that could be late."""
    reached = machine.memory.read_bytes_per_s / machine.memory.peak_bytes_per_s
    return EagerMachine(
        name=machine.name,
        planner="eager",
        source=machine.source,
        clock_hz=machine.clock_hz,
        compute=Compute(float32_flops_per_cycle=machine.rates.fp32 * machine.multiprocessors, efficiency=1.0),
        memory=DeviceMemory(
            bandwidth_bytes_per_s=machine.memory.peak_bytes_per_s,
            efficiency=min(1.0, reached),
            cache_bytes=machine.cache.bytes,
        ),
        host=Host(asynchronous=True, operator_s=0.0, launch_gap_s=machine.launch.graph_s),
        power=Power(dynamic_w=machine.power.limit_w - machine.power.idle_w),
    )
