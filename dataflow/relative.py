"""Planner "relative": a published ratio times the model of another machine. Data, no model of its own."""

from collections.abc import Mapping
from typing import Any

from accel.eager import EagerMachine
from accel.machine import load_machine
from accel.relative import RelativeMachine
from dataflow.eager import run_eager
from dataflow.lowering import planner
from sim.result import Result
from workloads.policy import Policy
from workloads.trace import Trace


@planner("relative")
def run_relative(
    machine: RelativeMachine, trace: Trace, policy: Policy | None, options: Mapping[str, Any] | None = None
) -> Result:
    """The reference's result, with latency and energy times the published ratios; `policy` is not used.

    Raises ValueError where the reference is no eager machine, or cannot run the trace.
    """
    reference = load_machine(machine.reference)
    if not isinstance(reference, EagerMachine):
        raise ValueError(f"{machine.name}: reference: must be an eager machine, got {reference.name}")
    of_reference = run_eager(reference, trace, policy, options or {})
    entry, ratio = machine.ratio(trace.name)
    latency_s = of_reference.latency_s * ratio.latency
    cycles = round(latency_s * machine.clock_hz)
    return Result(
        machine=machine.name,
        workload=trace.name,
        cycles=cycles,
        latency_s=latency_s,
        limited_by="published_ratio",
        dram_read_bytes=of_reference.dram_read_bytes,
        dram_write_bytes=of_reference.dram_write_bytes,
        dram_requested_bytes=of_reference.dram_requested_bytes,
        energy_j={"dynamic": sum(of_reference.energy_j.values()) * ratio.latency * ratio.power},
        area_mm2={},
        operations=of_reference.operations,
        effective_operations=of_reference.effective_operations,
        critical_path={"published_ratio": cycles},
        sequence_latency_s=tuple(seconds * ratio.latency for seconds in of_reference.sequence_latency_s),
        counts=of_reference.counts,
        left_out=(
            f"no model of its own: {reference.name} as modelled x published ratios (latency {ratio.latency:g}, power "
            f"{ratio.power:g}, entry {entry!r}); bytes and operators are those of {reference.name}",
            *of_reference.left_out,
        ),
    )
