"""Bytes that the models say beside those that the profiler's counters saw: part `counters` of a calibration record."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accel.gpu.attention import AttentionFit
from accel.gpu.fit import Error, Fit
from accel.gpu.machine import GpuMachine
from analysis.gpu.held_out import error
from dataflow.gpu.attention import decode_attention, prefill_attention
from dataflow.gpu.estimate import Estimate
from dataflow.gpu.gemm import gemm
from dataflow.gpu.w4 import w4_gemm

Row = Mapping[str, Any]
LEAST_BYTES = 1e6  # of a launch that is judged: below it stray lines of the profiler count
DECODE = {"kv4": ("ours", 4), "kv8": ("ours", 8), "kv16": ("ours", 16), "sdpa_flash": ("flash", 16)}


@dataclass(frozen=True)
class Counted:
    """One launch: bytes from and to DRAM, read from the L2; the models' and the counters'."""

    kind: str
    name: str
    dram_bytes: tuple[float, float]
    l2_bytes: tuple[float, float]
    held_out: bool


def counted(machine: GpuMachine, fit: Fit, record: Mapping[str, Any]) -> list[Counted]:
    """Launches whose class the fit has a section for, of LEAST_BYTES and more."""
    rows = [row for row in record["rows"] if row["part"] == "counters" and "dram_read_bytes" in row]
    return [_counted(row, made) for row, made in _estimates(machine, fit, rows) if _dram(row) >= LEAST_BYTES]


def _counted(row: Row, made: Estimate) -> Counted:
    dram = float(made.dram_read_bytes[0] + made.dram_write_bytes[0]), _dram(row)
    l2 = float(made.l2_bytes[0]), row["l2_read_bytes"] + row["l2_write_bytes"]
    return Counted(made.kind, row["name"], dram, l2, row["held_out"])


def _dram(row: Row) -> float:
    return float(row["dram_read_bytes"] + row["dram_write_bytes"])


def _estimates(machine: GpuMachine, fit: Fit, rows: Sequence[Row]) -> Iterator[tuple[Row, Estimate]]:
    for row in rows:
        part, _, form = row["of"].partition("_")
        if part == "gemm" and fit.gemm and form in fit.gemm:
            yield row, gemm(machine, fit.gemm[form], form, row["m"], row["n"], row["k"])
        elif part == "ours" and fit.w4:
            yield row, w4_gemm(machine, fit.w4, form, row["m"], row["n"], row["k"])
        elif part == "decode" and fit.attention and form in DECODE:
            yield row, _decode(machine, fit.attention, row, *DECODE[form])
        elif part == "prefill" and fit.attention:
            yield row, _prefill(machine, fit.attention, row, form.removeprefix("sdpa_"))


def _decode(machine: GpuMachine, fit: AttentionFit, row: Row, kernel: str, bits: int) -> Estimate:
    batch, context, heads, kv_heads, size = (row[name] for name in ("batch", "context", "heads", "kv_heads", "size"))
    return decode_attention(machine, fit, batch, context, heads, kv_heads, size, bits, kernel)


def _prefill(machine: GpuMachine, fit: AttentionFit, row: Row, kernel: str) -> Estimate:
    batch, heads, queries, keys, size = (row[name] for name in ("batch", "heads", "queries", "keys", "size"))
    return prefill_attention(machine, fit, batch, heads, heads, queries, keys, size, row["causal"], kernel)


def byte_errors(found: Sequence[Counted], held_out: bool | None = None) -> dict[str, Error]:
    """Of DRAM bytes by class and of all together ("all"); only held-out launches, or only others, where asked."""
    some = [one for one in found if held_out is None or one.held_out == held_out]
    kinds = ["all", *dict.fromkeys(one.kind for one in some)]
    groups = {kind: [one.dram_bytes for one in some if kind in ("all", one.kind)] for kind in kinds}
    return {kind: error(*zip(*pairs, strict=True)) for kind, pairs in groups.items() if pairs}
