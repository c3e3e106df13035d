"""Fits library products of a GPU to a published profile.

    python -m analysis.gpu.fit_published_gemm table.csv A100-80G-SXM a100_80g_sxm a100

The table has columns source, device, kernel (gemm), M, N, K, value (whole microseconds) of float16 products; which
tile ran is not known. `held_out.calibrates` says which points are fitted. bf16 has the unit and the tiles of float16.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from accel.gpu.fit import Error
from accel.gpu.gemm import GemmFit
from accel.gpu.machine import GpuMachine
from accel.machine import load_machine
from analysis.gpu.fit_gemm import fit_gemm
from analysis.gpu.fit_moving import FITS
from analysis.gpu.fits import add_section
from analysis.gpu.held_out import calibrates, error, held_out, said
from dataflow.gpu.gemm import gemm

FORMAT, SAME = "fp16", ("bf16", "fp16")


def read(table: Path, device: str) -> tuple[str, np.ndarray]:
    """(source, rows of M, N, K, microseconds) of one device. Raises ValueError where it has no products."""
    with table.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["device"] == device and row["kernel"] == "gemm"]
    if not rows:
        raise ValueError(f"{table}: no products of {device!r}")
    return rows[0]["source"], np.array([[float(row[name]) for name in ("M", "N", "K", "value")] for row in rows])


def fit_published(machine: GpuMachine, points: np.ndarray) -> tuple[GemmFit, Error, int]:
    """(section, held-out error, points fitted); `points` as `read` gives them."""
    mine, judges = (points[chosen(*points[:, :3].T)] for chosen in (calibrates, held_out))
    fit = fit_gemm(machine, FORMAT, *mine.T)
    *shape, us = judges.T
    return fit, error(gemm(machine, fit, FORMAT, *shape).seconds * 1e6, us), len(mine)


def main(table: str, device: str, name: str, fit_name: str) -> None:
    """Fit, put the section into the fit's file, print the error."""
    machine = load_machine(name)
    if not isinstance(machine, GpuMachine):
        raise ValueError(f"machine: must be a GPU of these models, got {name!r}")
    source, points = read(Path(table), device)
    fit, found, count = fit_published(machine, points)
    origin = f"{source}, {device}, {count} points; held out: {said(found)}"
    errors = {f"gemm_{form}": found for form in SAME}
    add_section(FITS / f"{fit_name}.yaml", "gemm", {"bf16": fit}, origin, errors, fit=fit_name)
    print(said(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
