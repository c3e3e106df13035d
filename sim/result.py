"""`Result`: what one simulated run came to."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Result:
    """Time, traffic, work, energy and area of one workload on one machine.

    cycles, latency_s      from the first request to the last result, summed over the sequences of the workload
    dram_read_bytes, dram_write_bytes   by operand ("query", "key", "key_lsb", "value", "output", ...), as moved
                           (whole bursts); `dram_requested_bytes` is what was asked for before rounding to bursts
    dram_commands          activates, precharges (banks closed), reads, writes, refreshes, ...
    dram_idle_cycles       memory cycles in which a data bus stood idle before a burst, summed over all data buses, by
                           what that burst had waited for last
    dram_energy_j          the DRAM's part of the energy, by operand
    sram_bytes             bytes read or written in on-chip memories, by memory and direction
    operations             executed operations by format ("int12", "float32", ...); a multiply-add counts two
    effective_operations   what the unpruned model would have taken (the paper's way of counting)
    energy_j, area_mm2     by component
    utilisation            busy share of the makespan, by unit
    critical_path          cycles of the makespan by what they were spent on; adds up to `cycles` exactly
    limited_by             the largest entry of critical_path
    sequence_latency_s     latency of each sequence
    counts                 other integer facts (rows, k_vectors, v_vectors, lsb_rows, topk_passes, ...)
    left_out               what the model does not contain, in words
    execution              how a pass of a model ran on a GPU ("graph", "eager", ...); "": there is only one way
    latency_low_s, latency_high_s   90 % of the measurements that were held out lie between; None: no such measurements
    latency_s_by_kind      device time by kind of operator
    """

    machine: str
    workload: str
    cycles: int
    latency_s: float
    limited_by: str
    dram_read_bytes: dict[str, int]
    dram_write_bytes: dict[str, int]
    energy_j: dict[str, float]
    area_mm2: dict[str, float]
    operations: dict[str, int]
    effective_operations: int
    critical_path: dict[str, int] = field(default_factory=dict)
    dram_requested_bytes: dict[str, int] = field(default_factory=dict)
    dram_commands: dict[str, int] = field(default_factory=dict)
    dram_idle_cycles: dict[str, int] = field(default_factory=dict)
    dram_energy_j: dict[str, float] = field(default_factory=dict)
    sram_bytes: dict[str, int] = field(default_factory=dict)
    utilisation: dict[str, float] = field(default_factory=dict)
    sequence_latency_s: tuple[float, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    execution: str = ""
    latency_low_s: float | None = None
    latency_high_s: float | None = None
    latency_s_by_kind: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Flat totals first (keys with units), then the breakdowns under `*_by_*`."""
        executed = sum(self.operations.values())
        read, write = sum(self.dram_read_bytes.values()), sum(self.dram_write_bytes.values())
        return {
            "machine": self.machine,
            "workload": self.workload,
            "cycles": self.cycles,
            "latency_s": self.latency_s,
            "dram_read_bytes": read,
            "dram_write_bytes": write,
            "energy_j": sum(self.energy_j.values()),
            "area_mm2": sum(self.area_mm2.values()),
            "limited_by": self.limited_by,
            "executed_operations": executed,
            "effective_operations": self.effective_operations,
            "executed_gops_per_s": executed / self.latency_s / 1e9,
            "effective_gops_per_s": self.effective_operations / self.latency_s / 1e9,
            "dram_bytes_per_s": (read + write) / self.latency_s,
            **self.counts,
            "dram_read_bytes_by_operand": self.dram_read_bytes,
            "dram_write_bytes_by_operand": self.dram_write_bytes,
            "dram_requested_bytes_by_operand": self.dram_requested_bytes,
            "dram_commands": self.dram_commands,
            "dram_idle_cycles_by_cause": self.dram_idle_cycles,
            "dram_energy_j_by_operand": self.dram_energy_j,
            "sram_bytes_by_memory": self.sram_bytes,
            "operations_by_format": self.operations,
            "energy_j_by_component": self.energy_j,
            "area_mm2_by_component": self.area_mm2,
            "utilisation_by_unit": self.utilisation,
            "critical_path_cycles_by_unit": self.critical_path,
            "left_out": list(self.left_out),
            **self._of_gpus(),
        }

    def _of_gpus(self) -> dict[str, Any]:
        """What only predictions of GPUs have."""
        if self.latency_low_s is None:
            return {}
        return {
            "execution": self.execution,
            "latency_low_s": self.latency_low_s,
            "latency_high_s": self.latency_high_s,
            "latency_s_by_kind": self.latency_s_by_kind,
        }
