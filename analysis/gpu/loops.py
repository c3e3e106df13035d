"""Loops of part `energy` of a calibration record, described by the models that predict time: one `Estimate` each.

What repeats nothing that the models know (reads, chains in registers) is described by the data sheet: its bytes and
operations over their rates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from accel.gpu.fit import Fit
from accel.gpu.machine import GpuMachine
from dataflow.gpu.attention import decode_attention, prefill_attention
from dataflow.gpu.estimate import Estimate
from dataflow.gpu.executed import PAIR_BITS
from dataflow.gpu.gemm import gemm
from dataflow.gpu.memory_bound import by_rows
from dataflow.gpu.w4 import w4_gemm

BATCH, HEADS, KV_HEADS, SIZE, CONTEXT = 64, 32, 8, 128, 4096  # of the decode loops
PREFILL_TOKENS, ROW = 16384, 8192  # of all sequences together; elements of a row
LIBRARY = ("bf16", "int8", "fp8")
ATTENTION = {"sdpa_flash": "flash", "sdpa_cudnn": "cudnn"}
CHAINS = {"multiply-add": "fp32", "exponentials": "special", "int8 by wgmma": "int8", "int8 by mma.sync": "int8"}


@dataclass(frozen=True)
class Loop:
    """One loop as it was measured, and the model's estimate [1] of a call."""

    name: str
    power_w: float
    seconds: float
    clock: float
    """over the machine's"""
    held_out: bool
    estimate: Estimate


def loops(machine: GpuMachine, fit: Fit, rows: Sequence[Mapping[str, Any]]) -> list[Loop]:
    """Of a record; left out: what was refused, whose power the counter did not tell, whose model has no section."""
    told = [row for row in rows if row["part"] == "energy" and row.get("power_w")]
    made = ((row, described(machine, fit, row)) for row in told)
    return [_loop(machine, row, estimate) for row, estimate in made if estimate is not None]


def _loop(machine: GpuMachine, row: Mapping[str, Any], estimate: Estimate) -> Loop:
    clock = 1e6 * row["sm_mhz"] / machine.clock_hz
    return Loop(row["name"], row["power_w"], 1e-6 * row["us"], clock, row["held_out"], estimate)


def described(machine: GpuMachine, fit: Fit, row: Mapping[str, Any]) -> Estimate | None:
    """One call of a loop; None where the fit lacks the section of its kernel."""
    words = row["name"].split()
    if words[-1].count("x") == 2:
        return _product(machine, fit, words[0], *map(int, words[-1].split("x")))
    if row["name"] in CHAINS or words[1] == "read":
        return _limit(machine, row)
    if words[0] in ("decode", "prefill"):
        return _attention(machine, fit, words)
    if fit.memory_bound is None:
        return None
    elements = 1 << (27 if words[0] == "dram" else 21)
    return by_rows(machine, fit.memory_bound, words[1], elements // ROW, ROW)


def _product(machine: GpuMachine, fit: Fit, format: str, m: int, n: int, k: int) -> Estimate | None:
    if format not in LIBRARY:
        return None if fit.w4 is None else w4_gemm(machine, fit.w4, OURS.get(format, format), m, n, k)
    if fit.gemm is None or format not in fit.gemm:
        return None
    return gemm(machine, fit.gemm[format], format, m, n, k)


OURS = {"w4a8_channel": "w4a8"}


def _attention(machine: GpuMachine, fit: Fit, words: Sequence[str]) -> Estimate | None:
    if fit.attention is None:
        return None
    kernel = ATTENTION.get(words[1], "ours")
    if words[0] == "decode":
        bits = int(words[1].removeprefix("kv")) if kernel == "ours" else 16
        return decode_attention(machine, fit.attention, BATCH, CONTEXT, HEADS, KV_HEADS, SIZE, bits, kernel)
    length, causal = int(words[-1]), "causal" in words
    batch = PREFILL_TOKENS // length
    return prefill_attention(machine, fit.attention, batch, HEADS, HEADS, length, length, SIZE, causal, kernel)


def _limit(machine: GpuMachine, row: Mapping[str, Any]) -> Estimate:
    """Bytes over the rate of reads, operations over that of their unit."""
    unit, work, none = CHAINS.get(row["name"], "fp32"), row["operations"], np.zeros(1)
    operations = {unit: np.array([work])} if work else {}
    if row["name"].endswith("mma.sync"):
        operations["int32"] = np.array([work * 8 / PAIR_BITS])
    moved = np.array([float(row["l2_bytes"])])
    terms = {"dram": np.array([row["dram_bytes"] / machine.memory.read_bytes_per_s])}
    terms |= {"l2": moved / machine.cache.bytes_per_s, "tensor": np.array([work / machine.per_s(unit)])}
    seconds = np.max(list(terms.values()), axis=0)
    dram = np.array([float(row["dram_bytes"])])
    return Estimate("limit", seconds, none, dram, none, moved, operations, terms)
