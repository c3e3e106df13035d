"""Fits FlashAttention 3 to published throughputs, as nobody measured it here.

    python -m analysis.gpu.fit_published_attention table.csv h100_sxm h200

The table has columns kernel, batch, heads, head_dim, seq_q, seq_kv, causal, value (TFLOPS); rows of `attention_fwd:FA3`
count. Few numbers are fitted; the others stay as the fit of cuDNN's kernel has them, which walks over the same tiles
with the same instructions. Rule, settled before the first fit: of the lengths, sorted, every second one is held out,
from the second on.
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from accel.gpu.attention import AttentionFit, FlashFit
from accel.gpu.fit import Error
from accel.gpu.loading import find_fit, load_fit
from accel.gpu.machine import GpuMachine
from accel.machine import load_machine
from analysis.gpu.fit_attention import Points, judged
from analysis.gpu.fits import add_section
from analysis.gpu.fits_to_points import Parameter, fitted
from analysis.gpu.held_out import said
from dataflow.gpu.attention import prefill_attention

KERNEL = "attention_fwd:FA3"
PARAMETERS = {
    "tensor": Parameter(0.9, 0.6, 1.0),
    "within": Parameter(2.0, 1.0, 12.0),
    "tile_cycles": Parameter(200.0, 10.0, 3000.0),
    "block_cycles": Parameter(1000.0, 10.0, 8000.0),
    "tail": Parameter(0.8, 0.05, 1.5),
}


def points(machine: GpuMachine, rows: Sequence[Mapping[str, str]]) -> list[Points]:
    """Causal rows and others apart."""
    lengths = sorted({float(row["seq_q"]) for row in rows})
    return [_points(machine, [row for row in rows if row["causal"] == text], lengths[1::2]) for text in ("0", "1")]


def _points(machine: GpuMachine, rows: Sequence[Mapping[str, str]], held: Sequence[float]) -> Points:
    causal = rows[0]["causal"] == "1"
    names = "batch", "heads", "seq_q", "seq_kv", "head_dim", "value"
    b, h, queries, keys, size, teraflops = (np.array([float(row[name]) for row in rows]) for name in names)
    work = 4 * b * h * queries * keys * size / (2 if causal else 1)

    def estimate(fit: AttentionFit) -> Any:
        return prefill_attention(machine, fit, b, h, h, queries, keys, size, causal, "fa3")

    return Points("prefill_fa3", 1e-12 * work / teraflops, np.isin(queries, held), estimate)


def fit_fa3(found: Sequence[Points], fit: AttentionFit) -> AttentionFit:
    """The fit with one more kernel."""
    base = fit.prefill["cudnn"].model_dump()

    def made(values: Mapping[str, float]) -> AttentionFit:
        return fit.model_copy(update={"prefill": fit.prefill | {"fa3": FlashFit(**(base | dict(values)))}})

    return made(
        fitted(PARAMETERS, lambda one: np.concatenate([some.residuals(made(one)) for some in found]), rounds=200)
    )


def main(table: str, machine: str, name: str) -> dict[str, Error]:
    """Add it to the fit of a name, and say how far held-out lengths are off."""
    loaded, fit = load_machine(machine), load_fit(name)
    if not isinstance(loaded, GpuMachine) or fit.attention is None:
        raise ValueError(f"{machine}: must be a GPU, and {name} a fit with attention")
    with Path(table).open(encoding="utf-8", newline="") as file:
        found = points(loaded, [row for row in csv.DictReader(file) if row["kernel"] == KERNEL])
    made = fit_fa3(found, fit.attention)
    off = judged(found, made)
    origin = "calibration_h200.json of 2026-12-01; fa3: printed labels of FlashAttention-3's figure on an H100"
    add_section(find_fit(name), "attention", made, origin, off)
    return off


if __name__ == "__main__":
    for kind, one in main(*sys.argv[1:]).items():
        print(f"{kind}: held out {said(one)}")
