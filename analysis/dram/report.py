"""A request trace through a DRAM controller, and what is told about it: time, hits, latency, energy, the limit."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from accel.machine import load_standard
from accel.standard import PICOSECONDS, Standard
from dataflow.dram_energy import dram_energy
from dataflow.memory import default_spec
from sim.dram.spec import COMMAND_NAMES, CommandTrace, DramSpec
from sim.dram.stream import RequestStream, StreamResult
from workloads.request_trace import REQUEST_BYTES, Requests

PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
BUSY = 0.9  # from this share on, the data bus itself is named as the limit
LEFT_OUT = (
    "ranks, power-down, self-refresh, temperature, ECC, refresh management, clock-domain crossings in the controller",
    "writes are done when the controller has taken them, never merged, never forwarded to reads",
    "the way from the requester to the FIFOs; unbounded ones (fifo_depth 0) let no busy channel hold up another",
)
# cause -> (what happened, what would help)
CAUSES = {
    "row_conflicts": (
        "banks were busy closing a row and opening another",
        "keep neighbours in one row, spread them over more banks, or read larger pieces",
    ),
    "bank_groups": (
        "bursts followed each other within one bank group, where the gap (tCCD_L) is longer than a burst",
        "place the bank-group bits below the upper column bits (--mapping bgi)",
    ),
    "activate_window": (
        "rows were to be opened faster than tRRD and the four-activate window allow",
        "read more of each opened row, or use more channels",
    ),
    "refresh": ("banks were being refreshed", "refresh of single banks (--refresh per_bank), if the part has it"),
    "turnaround": (
        "the data bus was turning between reads and writes",
        "a longer write queue, and watermarks further apart, make it turn less often",
    ),
    "queue_depth": (
        "waiting requests could not enter the controller",
        "a longer queue (--read-queue, --write-queue) or more outstanding reads (--outstanding)",
    ),
    "head_of_line": (
        "requests waited behind one whose channel was busy",
        "deeper FIFOs, or a map that spreads neighbours over the channels",
    ),
    "command_bus": (
        "the command bus was taken, so that ready commands had to wait",
        "more bytes for each opened row, or more channels",
    ),
    "no_requests": ("there was nothing to serve", ""),
}
_NOTHING = {  # mode -> why there was nothing to serve, in a name and a sentence
    "asap": ("uneven channels", "they did not get the same work: a map or a stride that spreads requests would help"),
    "timed": ("slow arrivals", "requests came more slowly than the memory could serve them"),
    "chain": ("dependent requests", "each waited for the one before: a shorter latency, or fewer of them, would help"),
}
_DRAIN_CYCLES = 500  # after the last arrival: a refresh and a row, no queue that had built up


@dataclass(frozen=True)
class DramRun:
    """A finished run: `standard` as resolved with its speed grade, the controller, and what came out."""

    standard: Standard
    spec: DramSpec
    mode: str
    result: StreamResult

    @cached_property
    def latency_s(self) -> float:
        """Seconds from the first cycle to the last data."""
        return self.result.cycles * self.spec.memory_ps / PICOSECONDS

    @property
    def peak_bytes_per_s(self) -> float:
        """All data buses, always busy."""
        s = self.spec
        return s.channels * s.pseudo_channels * s.burst_bytes / s.burst * PICOSECONDS / s.memory_ps

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Bytes of all requests over time, without writes that were still waiting at the end."""
        moved = self.result.requests * REQUEST_BYTES - self.result.undrained_writes * self.spec.burst_bytes
        return moved / self.latency_s if self.latency_s else 0.0

    @cached_property
    def energy_j(self) -> dict[str, float]:
        """By component."""
        r = self.result
        return dram_energy(self.standard, r.commands, r.cycles, r.active_cycles, self.spec.channels)

    @cached_property
    def limits(self) -> dict[str, float]:
        """Share of the data buses' time that each cause took, the largest first; the rest of it data moved."""
        time = self.result.cycles * self.spec.channels * self.spec.pseudo_channels
        shares = {cause: lost / time if time else 0.0 for cause, lost in self.result.idle.items()}
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    @property
    def notes(self) -> list[str]:
        """About the configuration, and about what of the trace was not used."""
        ignored = f"the cycles of the trace are ignored (--mode {self.mode}); --mode timed keeps them"
        left, all_writes = self.result.undrained_writes, self.result.write_bursts
        waiting = f"{left} of {all_writes} write bursts were still in the controller; their energy is not counted"
        return notes(self.spec) + [ignored] * self.result.ignored_cycles + [waiting] * (20 * left > all_writes)

    def to_dict(self) -> dict[str, Any]:
        """All that `tilewright dram run --json` says; cycles are of the memory clock (nCK)."""
        r, standard = self.result, self.standard
        return {
            "cycles": r.cycles,
            "latency_s": self.latency_s,
            "requests": r.requests,
            "bandwidth_bytes_per_s": self.bandwidth_bytes_per_s,
            "peak_bytes_per_s": self.peak_bytes_per_s,
            "share_of_peak": self.bandwidth_bytes_per_s / self.peak_bytes_per_s,
            "row_hit_rate": r.row_hit_rate,
            "mean_read_latency_cycles": r.mean_read_latency_cycles,
            "read_latency_cycles": {name: r.latency_percentile(p) for name, p in PERCENTILES.items()},
            "energy_j": sum(self.energy_j.values()),
            "energy_j_by_component": self.energy_j,
            "limited_by": self.limits,
            "limit": limit(self),
            "commands": r.commands,
            "read_bursts": r.read_bursts,
            "write_bursts": r.write_bursts,
            "undrained_write_bursts": r.undrained_writes,
            "configuration": configuration(self.spec, standard, self.mode),
            "source": standard.source,
            "nearest_preset": standard.nearest_preset,
            "energy_source": standard.energy.source,
            "notes": self.notes,
            "left_out": [*LEFT_OUT, f"energy: {standard.energy.left_out}"],
        }


def run_requests(
    standard_name: str, requests: Iterable[Requests], mode: str = "asap", trace: bool = False, **overrides: Any
) -> DramRun:
    """Drive requests of 64 bytes into the memory that `default_spec(standard_name, **overrides)` describes.

    Raises ValueError for a name, an option or a mode that does not exist, and what the requests raise.
    """
    standard = load_standard(standard_name)
    spec = default_spec(standard_name, **overrides)
    stream = RequestStream(spec, mode, REQUEST_BYTES, trace)
    for block in requests:
        stream.feed(*block)
    return DramRun(standard, spec, mode, stream.finish())


def capacity_bytes(spec: DramSpec) -> int:
    """Bytes that the memory holds."""
    divided = spec.channels if ("channel", 0) in spec.fields else 1
    return divided * spec.burst_bytes << sum(bits for _, bits in spec.fields)


def address_map(spec: DramSpec) -> str:
    """The address bits above the burst, lowest first, as `--mapping` takes them."""
    return ",".join(f"{name}:{bits}" if bits else name for name, bits in spec.fields)


def configuration(spec: DramSpec, standard: Standard, mode: str) -> dict[str, Any]:
    """Everything resolved: the part, its delays in memory cycles, the controller."""
    return {
        "standard": standard.name,
        "speed": standard.speed,
        "mode": mode,
        "request_bytes": REQUEST_BYTES,
        "capacity_bytes": capacity_bytes(spec),
        "address_map": address_map(spec),
        **{name: value for name, value in asdict(spec).items() if name not in ("fields", "core_ps", "request_lanes")},
    }


def notes(spec: DramSpec) -> list[str]:
    """What a designer should know about the configuration before reading the figures."""
    names = [name for name, _ in spec.fields]
    said = []
    if "bank_group" in names and "column" in names[:-1] and spec.ccd_long > spec.burst:
        last_column = len(names) - 1 - names[::-1].index("column")
        if names.index("bank_group") > last_column:
            said.append("the bank-group bits lie above all column bits: neighbouring bursts meet in one bank group")
    return said


def limit(run: DramRun) -> str:
    """One sentence: what limited the run, what that means, what would help."""
    busy, last = max(0.0, 1 - sum(run.limits.values())), run.result.last_arrival
    if last and run.result.cycles <= 1.02 * last + _DRAIN_CYCLES:
        return (
            f"arrivals: all requests were served as they came, the last at cycle {last}; the data buses were busy "
            f"{busy:.0%} of the time"
        )
    (cause, share), (other, next_share) = list(run.limits.items())[:2]
    if busy >= BUSY or share == 0:
        return f"the data bus: it moved data {busy:.0%} of the time; more channels or a faster part would help"
    also = f", almost as much as {other.replace('_', ' ')} ({next_share:.0%})" if share - next_share < 0.02 else ""
    what, help_ = CAUSES[cause]
    if cause == "no_requests":
        name, what = _NOTHING[run.mode]
        return f"{name}: data buses had nothing to serve for {share:.0%} of the time{also}; {what}"
    return f"{cause.replace('_', ' ')}: for {share:.0%} of the data buses' time {what}{also}; to help: {help_}"


def write_commands(path: Path, trace: CommandTrace, spec: DramSpec) -> None:
    """The commands as CSV: cycle (memory cycles), place, name; empty where a command has no bank or row."""
    import pyarrow as pa
    from pyarrow import csv

    tick, channel, pseudo_channel, command, bank, row = trace.T
    columns = {
        "cycle": pa.array(tick / spec.edges if spec.edges > 1 else tick),
        "channel": pa.array(channel),
        "pseudo_channel": pa.array(pseudo_channel),
        "command": pa.array(np.array(COMMAND_NAMES, object)[command], pa.string()),
        "bank_group": pa.array(bank // spec.banks_per_group, mask=bank < 0),
        "bank": pa.array(bank % spec.banks_per_group, mask=bank < 0),
        "row": pa.array(row, mask=row < 0),
    }
    with path.open("wb") as file:
        file.write((",".join(columns) + "\n").encode())  # Arrow would put quotes around the names
        csv.write_csv(pa.table(columns), file, csv.WriteOptions(include_header=False, quoting_style="none"))
