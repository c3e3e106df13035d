"""Planner "eager": GPUs and CPUs that run the operators of a framework one after another, in closed form.

An operator takes max(flops / throughput, bytes / bandwidth) and a launch gap on the device, and `operator_s`
on the host; a view takes host time only.  An asynchronous host runs ahead of the device:

    issued(i) = issued(i-1) + operator_s;  finished(i) = max(issued(i), finished(i-1)) + gap + work(i)

and both meet at the end of a step (a sequence, or a generated token, whose choice needs the result).  A CPU
is its own host: the times add up.  DRAM bytes are the operator's, less what its predecessor has just written
if both fit in the last-level cache together; results are always written back.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.eager import EagerMachine
from dataflow.lowering import planner
from sim.result import Result
from workloads.policy import Policy
from workloads.trace import Trace

Floats = NDArray[np.float64]
Columns = Mapping[str, NDArray[Any]]
_COLD = ("cat",)  # reads K and V of an earlier step, which the other layers have evicted since
_LEFT_OUT = (
    "cache bandwidth; tiles, waves and kernel choice; changing clocks",
    "static power: energy is dynamic power x time",
    "area of a processor that also does other things",
    "pruning: eager baselines run the dense model",
)


@dataclass(frozen=True)
class Timing:
    """Times of a run, in seconds.

    steps         [steps] latency of each step, in order
    sequence      [steps] the sequence that a step belongs to
    operator      [operators] how far each operator moved the end of the run; adds up to the latency
    spent         seconds on the critical path by host, launch, bandwidth, throughput; adds up to the latency
    """

    steps: Floats
    sequence: NDArray[np.int64]
    operator: Floats
    spent: dict[str, float]

    @property
    def latency_s(self) -> float:
        """All steps, one after another."""
        return float(self.steps.sum())


@planner("eager")
def run_eager(machine: EagerMachine, trace: Trace, policy: Policy | None, options: Mapping[str, Any]) -> Result:
    """The dense operators of the trace; `policy` is not used.

    Option `parts` says which parts run, ("attention",) if absent; other options do not concern closed forms.
    Raises ValueError for a trace without such operators or with a format other than float32.
    """
    columns = select(trace.operators, options.get("parts", ("attention",)), trace.name)
    timing = time_operators(machine, columns)
    cycles = round(timing.latency_s * machine.clock_hz)
    reads, writes = dram_bytes(machine, columns)
    requested = int(columns["read_bytes"].sum() + columns["write_bytes"].sum())
    path = _whole_cycles(timing.spent, cycles)
    return Result(
        machine=machine.name,
        workload=trace.name,
        cycles=cycles,
        latency_s=timing.latency_s,
        limited_by=max(path, key=lambda name: path[name]),
        dram_read_bytes={"activations": int(reads.sum())},
        dram_write_bytes={"activations": int(writes.sum())},
        dram_requested_bytes={"activations": requested},
        energy_j={"dynamic": machine.power.dynamic_w * timing.latency_s},
        area_mm2={},
        operations={"float32": int(columns["flops"].sum())},
        effective_operations=int(columns["flops"][columns["kind"] == "bmm"].sum()),
        critical_path=path,
        sequence_latency_s=_by_sequence(timing),
        counts={"operators": len(columns["flops"]), "launches": int(columns["launches"].sum())},
        left_out=_LEFT_OUT,
    )


def select(operators: Columns, parts: tuple[str, ...], name: str) -> Columns:
    """The operators of `parts`, each as often as `repeat` says. Raises ValueError as `run_eager` does."""
    if not operators:
        raise ValueError(f"{name}: the trace records no operators, which eager machines need")
    chosen = np.flatnonzero(np.isin(operators["part"], parts))
    rows = np.repeat(chosen, np.asarray(operators["repeat"], np.int64)[chosen])
    if not len(rows):
        raise ValueError(f"{name}: no operators of the parts {', '.join(parts)}")
    columns = {column: np.asarray(values)[rows] for column, values in operators.items()}
    others = sorted(set(columns["format"].tolist()) - {"float32"})
    if others:
        raise ValueError(f"{name}: operators.format: must be float32 on eager machines, got {others[0]}")
    return columns


def dram_bytes(machine: EagerMachine, columns: Columns) -> tuple[Floats, Floats]:
    """Bytes read and written in DRAM by each operator."""
    reads, writes = np.asarray(columns["read_bytes"], float), np.asarray(columns["write_bytes"], float)
    warm = np.zeros(len(reads))
    rows = np.flatnonzero(columns["launches"])
    before, after = rows[:-1], rows[1:]
    together = writes[before] + reads[after] + writes[after]
    found = (together <= machine.memory.cache_bytes) & _same_step(columns, before, after)
    found &= ~np.isin(columns["kind"][after], _COLD)
    warm[after] = np.where(found, np.minimum(writes[before], reads[after]), 0.0)
    return reads - warm, writes


def _same_step(columns: Columns, before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.bool_]:
    same = columns["sequence"][before] == columns["sequence"][after]
    return same & (columns["step"][before] == columns["step"][after])


def work_seconds(machine: EagerMachine, columns: Columns) -> tuple[Floats, Floats]:
    """Seconds of each operator at the bandwidth and at the throughput of the device."""
    reads, writes = dram_bytes(machine, columns)
    flops = np.asarray(columns["flops"], float)
    return (reads + writes) / machine.bytes_per_s, flops / machine.flops_per_s


def time_operators(machine: EagerMachine, columns: Columns) -> Timing:
    """Run selected operators (see `select`) in order; they must be sorted by sequence and step."""
    bandwidth, throughput = work_seconds(machine, columns)
    gap = np.where(columns["launches"] > 0, machine.host.launch_gap_s, 0.0)
    run = _asynchronous if machine.host.asynchronous else _synchronous
    operator = np.zeros(len(gap))
    spent = dict.fromkeys(("host", "launch", "bandwidth", "throughput"), 0.0)
    ends, sequence = [], []
    for rows in _steps(columns):
        finished, device = run(machine.host.operator_s, gap[rows], bandwidth[rows], throughput[rows])
        operator[rows] = np.diff(finished, prepend=0.0)
        cause = _spent(finished[-1], gap[rows], bandwidth[rows], throughput[rows], device)
        spent = {name: seconds + cause[name] for name, seconds in spent.items()}
        ends.append(finished[-1])
        sequence.append(int(columns["sequence"][rows.start]))
    return Timing(np.array(ends), np.array(sequence), operator, spent)


def _steps(columns: Columns) -> Iterator[slice]:
    changes = np.diff(columns["sequence"]).astype(bool) | np.diff(columns["step"]).astype(bool)
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(columns["step"])]
    return (slice(first, last) for first, last in pairwise(edges))


def _asynchronous(
    operator_s: float, gap: Floats, bandwidth: Floats, throughput: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    """When each operator is over for host and device, and which are device work on the critical path."""
    issued = operator_s * np.arange(1, len(gap) + 1)
    device = gap + np.maximum(bandwidth, throughput)
    total = np.cumsum(device)
    slack = issued - (total - device)  # start of an unbroken chain of device work that waits for i
    finished = np.maximum(issued, total + np.maximum.accumulate(slack))
    if finished[-1] <= issued[-1]:
        return finished, np.zeros(len(gap), bool)
    return finished, np.arange(len(gap)) >= int(np.argmax(slack))


def _synchronous(
    operator_s: float, gap: Floats, bandwidth: Floats, throughput: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    seconds = operator_s + gap + np.maximum(bandwidth, throughput)
    return np.cumsum(seconds), np.ones(len(gap), bool)


def _spent(
    latency: float, gap: Floats, bandwidth: Floats, throughput: Floats, device: NDArray[np.bool_]
) -> dict[str, float]:
    """Device time on the critical path by cause; the rest is the host's."""
    by_bytes = bandwidth >= throughput
    parts = {
        "launch": float(gap[device].sum()),
        "bandwidth": float(bandwidth[device & by_bytes].sum()),
        "throughput": float(throughput[device & ~by_bytes].sum()),
    }
    return {"host": max(0.0, float(latency) - sum(parts.values())), **parts}


def _whole_cycles(spent: Mapping[str, float], cycles: int) -> dict[str, int]:
    """Seconds as cycles that add up to `cycles`: each boundary of the running sum is rounded."""
    total = sum(spent.values())
    edges = np.rint(np.cumsum(list(spent.values())) / total * cycles) if total else np.zeros(len(spent))
    return dict(zip(spent, np.diff(edges, prepend=0.0).astype(int).tolist(), strict=True))


def _by_sequence(timing: Timing) -> tuple[float, ...]:
    _, index = np.unique(timing.sequence, return_inverse=True)
    return tuple(np.bincount(index, timing.steps).tolist())


def fit_host_time(machine: EagerMachine, columns: Columns, latency_s: float) -> float:
    """`operator_s` for which the operators take `latency_s`, to a picosecond; the latency grows with it.

    Raises ValueError if the device alone takes longer.
    """
    low, high = 0.0, latency_s / len(columns["flops"])
    if _with_host_time(machine, low, columns) > latency_s:
        raise ValueError(f"{machine.name}: the device alone takes longer than {latency_s} s")
    while high - low > 1e-12:
        middle = (low + high) / 2
        shorter = _with_host_time(machine, middle, columns) < latency_s
        low, high = (middle, high) if shorter else (low, middle)
    return (low + high) / 2


def _with_host_time(machine: EagerMachine, operator_s: float, columns: Columns) -> float:
    host = machine.host.model_copy(update={"operator_s": operator_s})
    return time_operators(machine.model_copy(update={"host": host}), columns).latency_s
