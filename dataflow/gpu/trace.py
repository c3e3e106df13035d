"""Whole models on GPUs: exported traces, timed ones, decode steps, traces under a number scheme.

    time_pass(load_machine("h200"), load_workload("flux_dev"), "compiled_graph") -> Pass

Each operator goes to the model of its class (`products.py`, `kernels.py`), all of a pass to one clock that the power
limit allows, and the way of execution adds gaps and host time (`host.py`). Passes follow each other without end, as in
generation; a result is of one of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from accel.gpu.host import FrameworkFit
from accel.gpu.loading import has_section, section
from accel.gpu.machine import GpuMachine
from dataflow.gpu.estimate import Floats
from dataflow.gpu.host import EXECUTIONS, Execution, is_compiled, launching
from dataflow.gpu.kernels import Costs, Kernels, kernel_costs
from dataflow.gpu.operators import read_operators
from dataflow.gpu.pass_power import Sustained, Work, pass_energy, sustained
from dataflow.gpu.passes import pass_kernels
from dataflow.gpu.prediction import band
from sim.result import Result
from workloads.trace import Trace

LEFT_OUT = (
    "what the memory allocator does; transfers from and to the host; several streams at once",
    "area of a processor that also does other things",
    "pruning: the operators are those of the dense model",
)
_HOST = "masks that are given as tensors; kernels that a compiler cuts or puts side by side"


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass of a model, arrays [kernels].

    costs        of the kernels in a graph at the highest clock
    power        their seconds at the clock that the limit allows, and joules of the pass
    gaps_s       of each kernel, beyond those of a graph
    host_s       of the pass; `latency_s` is the longer of host and device
    share        of the band: 90 % of held-out passes lie within it
    """

    machine: GpuMachine
    trace: str
    execution: Execution
    kernels: Kernels
    costs: Costs
    power: Sustained
    gaps_s: Floats
    host_s: float
    share: float

    @property
    def kernel_s(self) -> Floats:
        """Of each kernel, as often as it runs, with its gap."""
        return (self.power.seconds + self.gaps_s) * self.kernels.repeat

    @property
    def device_s(self) -> float:
        """Of all of them."""
        return float(self.kernel_s.sum())

    @property
    def latency_s(self) -> float:
        """From one pass to the next."""
        return max(self.device_s, self.host_s)

    @property
    def floor_s(self) -> float:
        """No implementation of these kernels takes less."""
        return float((self.costs.estimate.floor_s * self.kernels.repeat).sum())

    def band_s(self) -> tuple[float, float]:
        """A measurement m with |p - m| / m <= share lies between; never below the floor."""
        return max(self.floor_s, self.latency_s / (1 + self.share)), self.latency_s / (1 - self.share)

    def by_kind(self, values: Floats) -> dict[str, float]:
        """Sums of an array [kernels] by kind of operator, the largest first; each kernel as often as it runs."""
        found: dict[str, float] = {}
        for name, value in zip(self.kernels.names, (values * self.kernels.repeat).tolist(), strict=True):
            found[name] = found.get(name, 0.0) + value
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def time_pass(machine: GpuMachine, trace: Trace, execution: Execution = "graph") -> Pass:
    """Raises ValueError for another execution, a trace without exported operators, and where no fit has a class."""
    if execution not in EXECUTIONS:
        raise ValueError(f"execution: must be one of {', '.join(EXECUTIONS)}, got {execution!r}")
    fit: FrameworkFit
    fit, owner, own = section(machine, "framework")
    kernels = pass_kernels(trace, is_compiled(execution))
    costs = kernel_costs(machine, kernels, fit)
    launched = launching(machine, fit.host, kernels, float(read_operators(trace).repeat.sum()), execution)
    scale = machine.scale.get(f"model_{execution}", 1.0)
    seconds = np.maximum(costs.estimate.seconds * scale, costs.estimate.floor_s)
    costs = replace(costs, estimate=replace(costs.estimate, seconds=seconds))
    device_s = float(((costs.estimate.seconds + launched.gaps_s) * kernels.repeat).sum())
    waiting = float((launched.gaps_s * kernels.repeat).sum()) + max(0.0, launched.host_s - device_s)
    kind = error_class(execution, launched.host_s > device_s)
    return Pass(
        machine=machine,
        trace=trace.name,
        execution=execution,
        kernels=kernels,
        costs=costs,
        power=_power(machine, fit, costs, kernels, waiting),
        gaps_s=launched.gaps_s,
        host_s=launched.host_s,
        share=band(machine, machine.trust(kind, own), kind, owner.error.get(kind)),
    )


def error_class(execution: str, waits_for_host: bool) -> str:
    """Class of the error table: passes that wait for the host are one of their own."""
    return f"model_{execution}_host" if waits_for_host else f"model_{execution}"


def _power(machine: GpuMachine, fit: FrameworkFit, costs: Costs, kernels: Kernels, waiting_s: float) -> Sustained:
    """Without a fit of energy: the highest clock, joules unknown."""
    if not has_section(machine, "energy"):
        return Sustained(costs.estimate.seconds, 1.0, {})
    work = Work(costs.estimate, kernels.repeat, waiting_s)
    return sustained(machine, *pass_energy(machine, fit), work)


def run_trace(machine: GpuMachine, trace: Trace, execution: Execution) -> Result:
    """The pass as a `Result`."""
    found = time_pass(machine, trace, execution)
    estimate, repeat = found.costs.estimate, found.kernels.repeat
    spent = critical_path(found)
    cycles = round(found.latency_s * machine.clock_hz)
    path = whole_cycles(spent, cycles)
    low, high = found.band_s()
    return Result(
        machine=machine.name,
        workload=trace.name,
        cycles=cycles,
        latency_s=found.latency_s,
        limited_by=max(path, key=lambda name: path[name]),
        dram_read_bytes=_integers(found.by_kind(estimate.dram_read_bytes)),
        dram_write_bytes=_integers(found.by_kind(estimate.dram_write_bytes)),
        dram_requested_bytes=_integers(found.by_kind(estimate.dram_read_bytes + estimate.dram_write_bytes)),
        sram_bytes={"l2": round(float((estimate.l2_bytes * repeat).sum()))},
        energy_j=dict(found.power.joules),
        area_mm2={},
        operations=_integers({unit: float((v * repeat).sum()) for unit, v in estimate.operations.items()}),
        effective_operations=int((read_operators(trace).flops * read_operators(trace).repeat).sum()),
        critical_path=path,
        sequence_latency_s=(found.latency_s,),
        utilisation={"device": found.device_s / found.latency_s, "host": found.host_s / found.latency_s},
        counts={
            "operators": int(read_operators(trace).repeat.sum()),
            "launches": int((found.kernels.launches * repeat).sum()),
        },
        left_out=(*warnings(machine, trace, found), *([_HOST] if is_compiled(execution) else []), *LEFT_OUT),
        execution=execution,
        latency_low_s=low,
        latency_high_s=high,
        latency_s_by_kind=found.by_kind(found.power.seconds + found.gaps_s),
    )


def warnings(machine: GpuMachine, trace: Trace, found: Pass) -> tuple[str, ...]:
    """Formats that fall back, and a model that the memory cannot hold."""
    held = int(np.asarray(trace.weights["bytes"]).sum()) if trace.weights else 0
    if held <= machine.memory.bytes:
        return found.costs.warnings
    too_large = f"does not fit: {held / 1e9:.1f} GB of weights, {machine.name} has {machine.memory.bytes / 1e9:.1f} GB"
    return (too_large, *found.costs.warnings)


def critical_path(found: Pass) -> dict[str, float]:
    """Seconds by what limited each kernel; "launch" are gaps, and what is left of kernels that nothing keeps busy.

    Where the host is late, all that the device does is hidden behind it.
    """
    if found.host_s > found.device_s:
        return {"host": found.host_s}
    spent: dict[str, float] = {"launch": float((found.gaps_s * found.kernels.repeat).sum())}
    seconds = found.power.seconds * found.kernels.repeat
    for name, value in zip(limits(found.costs), seconds.tolist(), strict=True):
        spent[name] = spent.get(name, 0.0) + value
    return spent


def limits(costs: Costs) -> Sequence[str]:
    """Name of the largest term of each kernel."""
    return costs.estimate.limited_by()


def whole_cycles(spent: Mapping[str, float], cycles: int) -> dict[str, int]:
    """Seconds as cycles that add up to `cycles`: each boundary of the running sum is rounded."""
    total = sum(spent.values())
    edges = np.rint(np.cumsum(list(spent.values())) / total * cycles)
    return dict(zip(spent, np.diff(edges, prepend=0.0).astype(int).tolist(), strict=True))


def _integers(values: Mapping[str, Any]) -> dict[str, int]:
    """Whole numbers, what rounds to none left out."""
    return {name: round(value) for name, value in values.items() if round(value)}
