"""What a planned machine asks of its DRAM, as a file: for `tilewright dram run`, or for Ramulator 2."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from accel.machine import load_machine, load_standard
from accel.spatten import SpattenMachine
from analysis.api import policy_for
from dataflow.spatten.run import lower
from sim.plan import Plan
from workloads.replay import attention_work
from workloads.request_trace import REQUEST_BYTES, Requests, bursts, write_load_store, write_requests
from workloads.trace import load_workload


def export_requests(
    machine: str,
    workload: str,
    settings: Mapping[str, Any],
    policy: Mapping[str, Any],
    path: Path,
    as_csv: bool,
    origins: tuple[str, str] = ("settings", "policy"),
) -> int:
    """Write the requests of every sequence, in the order of the plan; returns the lines.

    A line covers what one segment of a slice touches: 64 bytes in CSV, one burst in a load/store trace. When each
    is made depends on the machine's units, which neither format knows: all cycles of the CSV are 0.
    """
    hardware = {key.removeprefix("machine."): value for key, value in settings.items()}
    loaded = load_machine(machine, hardware, origins[0])
    if not isinstance(loaded, SpattenMachine):
        raise ValueError(f"{loaded.name} is a closed form: it makes no requests (a planned machine: spatten)")
    trace = load_workload(workload)
    chosen = policy_for(trace.made, policy, origins[1])
    standard = load_standard(loaded.memory.standard)
    plans = (lowered.plan for _, lowered in lower(loaded, standard, attention_work(trace, chosen)))
    if as_csv:
        return write_requests(path, (plan_requests(plan, REQUEST_BYTES) for plan in plans))
    burst = standard.organisation.burst_bytes
    return write_load_store(path, (plan_requests(plan, burst) for plan in plans), burst, burst)


def plan_requests(plan: Plan, request_bytes: int) -> Requests:
    """The requests of a plan's slices, cut at multiples of `request_bytes`."""
    slices = plan.slices
    write = np.repeat(slices.write.astype(np.bool_), np.diff(slices.ptr))
    address, write = bursts(slices.address, slices.size_bytes, write, request_bytes)
    return Requests(np.zeros(len(address), np.int64), address, write)
