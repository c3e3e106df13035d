"""Sections of library products from a calibration record: which tiles a format has, the fit, held-out errors.

A library with few tiles (CUTLASS in INT8, one kernel in FP8) gets a speed and a liking for each, and its choice is
learned from the kernels' names. One with scores of tiles (nvjet) is given a spread of them that follow one law.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from accel.gpu.fit import Error
from accel.gpu.gemm import GemmFit
from accel.gpu.machine import GpuMachine
from analysis.gpu.fit_gemm import SPLITS, Family, fit_gemm
from analysis.gpu.held_out import error
from analysis.gpu.library_tiles import Ran, tile_of
from dataflow.gpu.gemm import gemm

FORMATS = ("bf16", "int8", "fp8")
FEW = 8  # tiles of a library that are told apart
RESOLUTION_S = 5e-8  # of a median over a graph of calls
LEAST_ROWS = {"int8": 32}  # gpu_kernels/bench/gemm_peers.py pads to them
SPREAD = {  # columns of tiles with so many rows, about as nvjet has them
    8: (64, 128, 192, 384),
    16: (64, 128, 192),
    24: (64, 128),
    32: (64, 128),
    48: (64, 192),
    64: (8, 24, 48, 64, 96, 144, 192, 256),
    96: (128, 192),
    128: (80, 96, 112, 144, 176, 192, 256, 320),
    192: (128, 192),
}


def family_of(format: str, seen: Sequence[Ran | None]) -> Family:
    """What a fit starts from, by the tiles that ran."""
    tiles = sorted({(one.rows, one.columns) for one in seen if one})
    rows = LEAST_ROWS.get(format, 1)
    if tiles and len(tiles) <= FEW:
        parts = SPLITS if any(one.cut for one in seen if one) else (1,)
        return Family(tuple(tiles), parts, peak=0.7, perimeter=14.0, taste=1.0, steady=True, least_rows=rows)
    spread = tuple((size, columns) for size, widths in SPREAD.items() for columns in widths)
    return Family(spread, peak=0.85, perimeter=8.0, cut_rows=64, single=False, steady=True, least_rows=rows)


def fitted(machine: GpuMachine, rows: Sequence[Mapping[str, Any]], format: str) -> tuple[GemmFit, Error, int]:
    """(section, held-out error, points fitted) of the rows `gemm_<format>`. Raises ValueError without points."""
    mine = [row for row in rows if row["part"] == f"gemm_{format}"]
    used, judges = ([row for row in mine if row["held_out"] is side] for side in (False, True))
    if not used or not judges:
        raise ValueError(f"gemm_{format}: the record has {len(used)} points to fit and {len(judges)} held out")
    seen = [tile_of(row["kernel"]) for row in used]
    family = family_of(format, seen)
    known = seen if family.single else ()
    fit = fit_gemm(machine, format, *_columns(used), ran=known, family=family, resolution_s=RESOLUTION_S)
    *shape, us = _columns(judges)
    return fit, error(gemm(machine, fit, format, *shape).seconds * 1e6, us), len(used)


def _columns(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, ...]:
    """m, n, k, us."""
    return tuple(np.array([row[name] for row in rows], dtype=np.float64) for name in ("m", "n", "k", "us"))


def fit_library(
    machine: GpuMachine, rows: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, GemmFit], dict[str, Error], int]:
    """(sections by format, held-out errors by class, points fitted) of a record's rows; a format without rows has none.

    Raises ValueError where no format has any.
    """
    there = [one for one in FORMATS if any(row["part"] == f"gemm_{one}" for row in rows)]
    made = {one: fitted(machine, rows, one) for one in there}
    if not made:
        raise ValueError("gemm: the record has no products of a library")
    errors = {f"gemm_{one}": found for one, (_, found, _) in made.items()}
    return {one: section for one, (section, _, _) in made.items()}, errors, sum(used for _, _, used in made.values())
