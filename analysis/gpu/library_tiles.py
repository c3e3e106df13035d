"""Tiles of library kernels by their names: what a profiler tells of a choice.

    tile_of("nvjet_sm90_tst_64x8_64x16_4x1_v_bz_splitK_TNT")    # Ran(rows=8, columns=64, cut=True)

cuBLAS computes y^T, column by column, so that the first number of its names counts columns of y and the second rows
(cross-checked with the grids of one-wave launches on an H200).
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

_NAMES = (
    re.compile(r"nvjet_\w+?_(\d+)x(\d+)_\d+x\d+_"),
    re.compile(r"tensorop_\w+?gemm_\w+?_(\d+)x(\d+)_"),
    re.compile(r"tilesize(\d+)x(\d+)x\d+"),
)


class Ran(NamedTuple):
    """Outputs of a block, rows of M and columns of N, and whether K was cut."""

    rows: int
    columns: int
    cut: bool


def tile_of(kernels: str | Sequence[str]) -> Ran | None:
    """Of a call's kernels; None where no name tells."""
    names = [kernels] if isinstance(kernels, str) else list(kernels)
    for name in names:
        for pattern in _NAMES:
            if found := pattern.search(name):
                columns, rows = map(int, found.groups())
                return Ran(rows, columns, any("split" in one.lower() for one in names))
    return None
