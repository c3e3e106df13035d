"""DRAM bytes of GPU models beside a profiler's counters: part `counters` of a calibration record.

    byte_errors(load_machine("h200"), load_fit("h200"), record)     # {"gemm_bf16": Error, ...}

Bytes are not fitted, so all points count, held out or not; small ones (below LEAST_BYTES) do not: there the counter
sees other traffic. What is compared are bytes that were read: how much of the outputs has left the L2 when a kernel
ends is a matter of what runs next.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from accel.gpu.fit import Error, Fit
from accel.gpu.machine import GpuMachine
from analysis.gpu.held_out import error
from dataflow.gpu.attention import decode_attention, prefill_attention
from dataflow.gpu.estimate import Estimate
from dataflow.gpu.gemm import gemm
from dataflow.gpu.w4 import w4_gemm

Row = Mapping[str, Any]
Model = Callable[[GpuMachine, Fit, Row], Estimate | None]
LEAST_BYTES = 1e6  # below it counters see what else runs: 256 bytes of a prefill whose operands are all in the L2


def byte_errors(machine: GpuMachine, fit: Fit, record: Mapping[str, Any]) -> dict[str, Error]:
    """By class, of kernels that the fit has a section for."""
    found: dict[str, list[tuple[float, float]]] = {}
    for kind, ours, counted in byte_points(machine, fit, record["rows"]):
        found.setdefault(kind, []).append((ours, counted))
    return {kind: error(*np.transpose(pairs)) for kind, pairs in sorted(found.items())}


def byte_points(machine: GpuMachine, fit: Fit, rows: Sequence[Row]) -> Iterator[tuple[str, float, float]]:
    """(class, predicted bytes read, counted ones)."""
    for row in rows:
        if row["part"] != "counters" or row.get("dram_read_bytes", 0.0) < LEAST_BYTES:
            continue
        model = next(one for prefix, one in _MODELS.items() if row["of"].startswith(prefix))
        made = model(machine, fit, row)
        if made is not None:
            yield made.kind, float(made.dram_read_bytes[0]), row["dram_read_bytes"]


def _library(machine: GpuMachine, fit: Fit, row: Row) -> Estimate | None:
    form = row["of"].removeprefix("gemm_")
    section = (fit.gemm or {}).get(form)
    return None if section is None else gemm(machine, section, form, row["m"], row["n"], row["k"])


def _ours(machine: GpuMachine, fit: Fit, row: Row) -> Estimate | None:
    kind = row["of"].removeprefix("ours_")
    return None if fit.w4 is None else w4_gemm(machine, fit.w4, kind, row["m"], row["n"], row["k"])


def _decode(machine: GpuMachine, fit: Fit, row: Row) -> Estimate | None:
    library = row["of"].rpartition("_")[2]
    kernel = library if library in ("flash", "cudnn") else "ours"
    names = {"head_size": "size", "kv_bits": "bits"} | {one: one for one in ("batch", "context", "heads", "kv_heads")}
    shape = {argument: row[name] for argument, name in names.items()}
    return None if fit.attention is None else decode_attention(machine, fit.attention, **shape, kernel=kernel)


def _prefill(machine: GpuMachine, fit: Fit, row: Row) -> Estimate | None:
    if fit.attention is None:
        return None
    b, h, queries, keys, size = (row[name] for name in ("batch", "heads", "queries", "keys", "size"))
    kernel = row["of"].rpartition("_")[2]
    return prefill_attention(machine, fit.attention, b, h, h, queries, keys, size, row["causal"], kernel=kernel)


_MODELS: dict[str, Model] = {"gemm_": _library, "ours_": _ours, "decode_": _decode, "prefill_": _prefill}
