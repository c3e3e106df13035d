"""Exact non-dominated filter for any number of objectives."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def non_dominated(values: ArrayLike, senses: Sequence[str]) -> NDArray[np.bool_]:
    """Which rows of `values` [points, objectives] no other row dominates.

    senses   "min" or "max", one per objective
    A row dominates another when it is nowhere worse and somewhere better, so equal rows stay together.
    A row with a NaN is never kept and dominates nothing.  Points are visited in lexical order: what
    dominates a point comes before it, so each is compared with the front found so far only.
    Raises ValueError when the shapes do not match or a sense is unknown.
    """
    costs = _as_costs(np.asarray(values, dtype=np.float64), senses)
    keep = np.zeros(len(costs), dtype=np.bool_)
    valid = np.flatnonzero(~np.isnan(costs).any(axis=1))
    order = valid[np.lexsort(costs[valid].T[::-1])]
    front = np.empty_like(costs)
    size = 0
    for index in order:
        if not _dominated(costs[index], front[:size]):
            front[size] = costs[index]
            size += 1
            keep[index] = True
    return keep


def _as_costs(values: NDArray[np.float64], senses: Sequence[str]) -> NDArray[np.float64]:
    if values.ndim != 2 or values.shape[1] != len(senses) or not senses:
        raise ValueError(f"values: must be [points, {len(senses)}] for {len(senses)} senses, got {values.shape}")
    unknown = sorted(set(senses) - {"min", "max"})
    if unknown:
        raise ValueError(f"senses: must be min or max, got {unknown[0]!r}")
    return values * np.array([1.0 if sense == "min" else -1.0 for sense in senses])


def _dominated(point: NDArray[np.float64], front: NDArray[np.float64]) -> bool:
    no_worse = (front <= point).all(axis=1)
    return bool((no_worse & (front < point).any(axis=1)).any())
