"""Fit the model of library products (`dataflow/gpu/gemm.py`) to measured times of one device and format.

    section = fit_gemm(load_machine("h200"), "bf16", m, n, k, us)

What is maximised is the likelihood of a mixture: each candidate tile, by its chance, with a Laplace distribution around
the log of its time; and a prior on every number, wide where only measurements can tell (`PRIORS`). The tile that ran
need not be known; where a profiler told it (`ran`), only that candidate explains the point.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from accel.gpu.gemm import Choice, GemmFit, Tile
from accel.gpu.machine import GpuMachine
from analysis.gpu.library_tiles import Ran
from dataflow.gpu.estimate import Floats
from dataflow.gpu.gemm import candidate_times
from dataflow.gpu.problem import Problem
from dataflow.gpu.selector import chances
from dataflow.gpu.tiles import Blocks, Candidates

Vector = NDArray[np.float64]
Shape = tuple[int, int]
RESOLUTION_S = 0.35e-6  # of a measured time, added to it: published times come in whole microseconds
_UNLIKELY = 1e-3  # density of a point that no candidate explains
_RESIDENT, _SHARPNESS = 0.5, 8.0  # counters of an H200: activations of 0.45 L2 stay, of 0.65 leave

PRIORS = {  # middle, and spread of its log
    "start_cycles": (5000.0, 0.4),
    "wave_cycles": (1000.0, 0.5),
    "store_bytes": (32.0, 0.4),
    "end_cycles": (1000.0, 0.5),
    "split_cycles": (3000.0, 0.5),
    "memory_share": (0.87, 0.05),
    "cache_bytes": (34.0, 0.15),
    "port_bytes": (60.0, 0.15),
    "line_bytes": (30.0, 1.0),
    "slowing": (0.15, 0.5),
    "slowing_s": (5e-4, 0.7),
    "overlap": (5.0, 0.4),
}
CHOICE = {  # middle and spread
    "time": (2.5, 1.0),  # its log
    "idle": (0.0, 2.0),
    "padding": (0.0, 2.0),
    "split": (0.0, 2.0),
    "splits": (0.0, 2.0),
    "outputs": (0.0, 1.0),
    "depth": (0.0, 1.0),
}
_SPEED_SPREAD, _LIKING_SPREAD, _PEAK_SPREAD, _PERIMETER_SPREAD = 0.3, 1.5, 0.1, 0.5
_BEYOND = 10.0  # nats per square of the log of a speed above 1: a clock may differ from the data sheet's
AMPERE: tuple[Shape, ...] = ((64, 64), (64, 128), (128, 64), (128, 128), (64, 256), (256, 64), (128, 256), (256, 128))
SPLITS = (1, 2, 4)


@dataclass(frozen=True)
class Family:
    """What a fit starts from: tiles (rows, columns), parts of K, and how fast inner loops of tiles are thought to be.

    peak        speed of the inner loop of a very large tile
    perimeter   of a tile over its area, in 1 / outputs, at which the inner loop is half as fast
    cut_rows    tiles with more rows take K whole
    single      each tile has a speed and a liking of its own; else all follow one law, as many tiles need
    fixed       numbers that the points cannot tell: whole microseconds hide what a wave's parts take
    within      what a tile's own time may be off by: of the Laplace distribution
    taste       spread of the prior of a tile's taste for M, N and K: where kernels' names tell what ran; 0: none
    steady      times come from loops that repeat a call: the power limit acts at once
    """

    tiles: tuple[Shape, ...] = AMPERE
    parts: tuple[int, ...] = SPLITS
    peak: float = 0.9
    perimeter: float = 10.0
    cut_rows: int = 256
    single: bool = True
    fixed: tuple[tuple[str, float], ...] = ()
    within: float = 0.05
    taste: float = 0.0
    steady: bool = False
    least_rows: int = 1

    @property
    def tastes(self) -> int:
        """Numbers of a tile's taste that are fitted."""
        return 3 if self.taste else 0

    def parts_of(self, tile: Shape) -> tuple[int, ...]:
        """Of K."""
        return self.parts if tile[0] <= self.cut_rows else (1,)

    def speed(self, tile: Shape, peak: float | None = None, perimeter: float | None = None) -> float:
        """By the law, before any measurement unless its two numbers are given."""
        near, far = (self.peak if peak is None else peak), (self.perimeter if perimeter is None else perimeter)
        return near / (1 + far * (1 / tile[0] + 1 / tile[1]))


_UNSEEN = (("store_bytes", 1e4), ("line_bytes", 1e4))
FAMILIES = {
    "sm_80": Family(perimeter=9.0, fixed=_UNSEEN, within=0.08),
    "sm_90": Family(perimeter=14.0, fixed=_UNSEEN, within=0.08),
}
_SHAKEN = 0.5  # spreads of the prior between starts
_FARTHEST = 6.0  # spreads of a prior that a number may lie from its middle


class Vectors:
    """Between a `GemmFit` and the vector that an optimiser moves; `centre` and `spread` are those of the prior."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.fixed: dict[str, float] = {"slowing_s": 0.0} if family.steady else dict(family.fixed)
        self.free = [name for name in PRIORS if name not in self.fixed]
        speeds, likings = self._of_tiles(family)
        priors = [(np.log(PRIORS[name][0]), PRIORS[name][1]) for name in self.free]
        self.cuts = np.cumsum([len(priors), len(speeds), len(CHOICE)])
        self.centre, self.spread = np.array([*priors, *speeds, *CHOICE.values(), *likings]).T

    @staticmethod
    def _of_tiles(family: Family) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
        if not family.single:
            law = [(float(np.log(family.peak)), _PEAK_SPREAD), (float(np.log(family.perimeter)), _PERIMETER_SPREAD)]
            return law, []
        speeds = [(float(np.log(family.speed(tile))), _SPEED_SPREAD) for tile in family.tiles]
        return speeds, [(0.0, _LIKING_SPREAD), *[(0.0, family.taste)] * family.tastes] * len(family.tiles)

    def section(self, vector: Vector) -> GemmFit:
        """The numbers by name."""
        logs, speeds, choice, likings = np.split(vector, self.cuts)
        numbers: dict[str, Any] = dict(zip(self.free, np.exp(logs).tolist(), strict=True))
        numbers["memory_share"] = min(numbers["memory_share"], 1.0)
        numbers["overlap"] = max(numbers["overlap"], 1.0)
        taste = dict(zip(CHOICE, choice.tolist(), strict=True))
        taste["time"] = float(np.exp(taste["time"]))
        return GemmFit.model_construct(
            **self.fixed | numbers,
            resident=_RESIDENT,
            sharpness=_SHARPNESS,
            least_rows=self.family.least_rows,
            tiles=tuple(self._tiles(np.exp(speeds).tolist(), likings.tolist())),
            choice=Choice.model_construct(**taste),
        )

    def _tiles(self, speeds: list[float], likings: list[float]) -> Iterator[Tile]:
        family, each = self.family, 1 + self.family.tastes
        if not family.single:
            speeds, likings = [family.speed(tile, *speeds) for tile in family.tiles], [0.0] * each * len(family.tiles)
        for place, (rows, columns) in enumerate(family.tiles):
            liking, *taste = likings[each * place : each * (place + 1)]
            fitted: dict[str, Any] = {"speed": speeds[place], "liking": liking, "taste": tuple(taste or (0.0,) * 3)}
            yield Tile.model_construct(rows=rows, columns=columns, parts=family.parts_of((rows, columns)), **fitted)

    def doubt(self, vector: Vector) -> float:
        """Of the prior, in nats; a loop faster than the unit is next to impossible."""
        speeds = np.split(vector, self.cuts)[1][: None if self.family.single else 1]
        beyond = _BEYOND * np.sum(np.maximum(speeds, 0.0) ** 2)
        return float(0.5 * np.sum(((vector - self.centre) / self.spread) ** 2) + beyond)


def fit_gemm(
    machine: GpuMachine,
    format: str,
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    us: ArrayLike,
    *,
    ran: Sequence[Ran | None] = (),
    family: Family | None = None,
    resolution_s: float = RESOLUTION_S,
    steps: int = 150,
    starts: int = 4,
) -> GemmFit:
    """The section of a format from paired arrays of measured products. Takes about half a minute for 240 of them.

    `starts`: places that the search begins from, the middle of the prior first; the likeliest end counts.

    `ran`: the tile of each point, where known. `family` is that of the architecture unless given. Raises ValueError for
    an architecture without one, and where there are fewer points than tiles.
    """
    from scipy.optimize import minimize

    start = family or _family(machine)
    problem = Problem.of(format, m, n, k, 1, start.least_rows)
    vectors = Vectors(start)
    if len(problem.m) < len(vectors.centre) / 2:
        raise ValueError(f"fit_gemm: needs {len(vectors.centre) // 2 + 1} points or more, got {len(problem.m)}")
    measured = np.log(np.asarray(us, dtype=np.float64) * 1e-6)[:, None]
    width = start.within + resolution_s / np.exp(measured)
    possible = told(Candidates.of(vectors.section(vectors.centre)), ran, len(problem.m))

    def surprise(vector: Vector) -> float:
        logs, weight = mixture(machine, vectors.section(vector), problem)
        off = np.sqrt((logs - measured) ** 2 + 1e-5)
        density = (possible * weight * np.exp(-off / width) / width).sum(axis=1) + _UNLIKELY
        return vectors.doubt(vector) - float(np.log(density).sum())

    room = _FARTHEST * vectors.spread
    bounds = list(zip(vectors.centre - room, vectors.centre + room, strict=True))
    options = {"maxiter": steps, "maxfun": 10**6}
    shaken = np.random.default_rng(0).normal(0.0, _SHAKEN, (starts - 1, len(vectors.centre))) * vectors.spread
    ends = [
        minimize(surprise, vectors.centre + off, method="L-BFGS-B", bounds=bounds, options=options)
        for off in [np.zeros(len(vectors.centre)), *shaken]
    ]
    best = min(ends, key=lambda end: float(end.fun))
    return GemmFit.model_validate(vectors.section(best.x).model_dump())


def told(one: Candidates, ran: Sequence[Ran | None], points: int) -> NDArray[np.bool_]:
    """[points, candidates]: those that may have run; all where the tile is not known or no candidate."""
    possible = np.ones((points, one.rows.size), dtype=np.bool_)
    for row, tile in zip(possible, ran, strict=False):
        if tile is not None:
            same = (one.rows == tile.rows) & (one.columns == tile.columns) & ((one.parts > 1) == tile.cut)
            row &= same[0] | ~same.any()
    return possible


def _family(machine: GpuMachine) -> Family:
    name = machine.architecture.rstrip("a")
    if name not in FAMILIES:
        raise ValueError(f"fit_gemm: no tiles of a library known for {name}, only for {', '.join(FAMILIES)}")
    return FAMILIES[name]


def mixture(machine: GpuMachine, fit: GemmFit, problem: Problem) -> tuple[Floats, Floats]:
    """(log of seconds, chance), each [points, candidates]."""
    one = Candidates.of(fit)
    blocks = Blocks.of(one, problem.m, problem.n, problem.k, problem.batch, machine.multiprocessors)
    logs = np.log(candidate_times(machine, fit, problem, one, blocks).seconds)
    return logs, chances(fit.choice, one, blocks, logs, problem, machine.multiprocessors)


def folds(m: ArrayLike, n: ArrayLike, k: ArrayLike, count: int = 4) -> Sequence[NDArray[np.bool_]]:
    """Points left out in turn, for choosing a model by calibration points alone: whole (N, K) pairs and whole M."""
    rows = np.unique(np.asarray(m), return_inverse=True)[1]
    sizes = np.asarray(n, dtype=np.float64) * np.asarray(k)
    pairs = np.unique(sizes + np.asarray(n) / 1e9, return_inverse=True)[1]
    return [(pairs % count == fold) | (rows % count == (fold + 1) % count) for fold in range(count)]


def cross_validated(fit: Callable[[NDArray[np.bool_]], Floats], left_out: Sequence[NDArray[np.bool_]]) -> Floats:
    """Predicted seconds of each fold by a fit to the rest, one after another; `fit(kept)` predicts all points."""
    return np.concatenate([fit(~fold)[fold] for fold in left_out])
