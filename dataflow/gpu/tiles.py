"""Tiles and splits that a library may take, as arrays: blocks, and turns of the busiest multiprocessor."""

from dataclasses import dataclass

import numpy as np

from accel.gpu.gemm import GemmFit
from dataflow.gpu.estimate import Floats

STEP = 64  # inputs of one turn of the inner loop, at least
_FULL = 2.0  # blocks a multiprocessor up to which cutting K may pay
_LEAST_PART = 256  # inputs of a part of K


@dataclass(frozen=True)
class Candidates:
    """Arrays [1, candidates]; `taste` [3, candidates]."""

    rows: Floats
    columns: Floats
    parts: Floats
    speed: Floats
    liking: Floats
    taste: Floats

    @classmethod
    def of(cls, fit: GemmFit) -> "Candidates":
        """Each tile with each split."""
        rows = [(t.rows, t.columns, part, t.speed, t.liking, *t.taste) for t in fit.tiles for part in t.parts]
        size, width, part, speed, liking, *taste = np.array(rows, dtype=np.float64).T
        return cls(size[None], width[None], part[None], speed[None], liking[None], np.stack(taste))


@dataclass(frozen=True)
class Blocks:
    """Arrays [points, candidates].

    tiles    of the output
    count    blocks: tiles times parts of K
    turns    blocks that the busiest multiprocessor takes, one after another
    inputs   of K that a block walks through, in whole steps
    allowed  whether a library would consider it: K is cut only where tiles leave multiprocessors idle
    """

    tiles: Floats
    count: Floats
    turns: Floats
    inputs: Floats
    allowed: np.ndarray

    @classmethod
    def of(cls, one: Candidates, m: Floats, n: Floats, k: Floats, batch: Floats, multiprocessors: int) -> "Blocks":
        """Counts of products [points, 1]."""
        tiles = batch * np.ceil(m / one.rows) * np.ceil(n / one.columns)
        count = tiles * one.parts
        inputs = np.ceil(k / one.parts / STEP) * STEP
        idle = (tiles <= multiprocessors) & (count <= _FULL * multiprocessors) & (inputs >= _LEAST_PART)
        return cls(tiles, count, np.ceil(count / multiprocessors), inputs, (one.parts == 1) | idle)
