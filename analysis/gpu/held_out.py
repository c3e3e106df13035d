"""How far predictions are off: the statistics of every error table of the GPU models."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from accel.gpu.fit import Error


def error(predicted: ArrayLike, measured: ArrayLike) -> Error:
    """Of points that were not fitted: mean and 90th percentile of |predicted - measured| / measured, and signed mean.

    Raises ValueError where the two differ in length, where there is no point or a measured value is not above 0.
    """
    ours, theirs = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    if ours.shape != theirs.shape or not ours.size:
        raise ValueError(
            f"error: predicted and measured must pair one or more points, got {ours.shape}, {theirs.shape}"
        )
    if not (theirs > 0).all():
        raise ValueError(f"error: measured must be > 0, got {theirs.min()}")
    off = (ours - theirs) / theirs
    mean, p90, bias = np.abs(off).mean(), np.percentile(np.abs(off), 90), off.mean()
    return Error(mean=float(mean), p90=float(p90), bias=float(bias), points=ours.size)


def said(found: Error) -> str:
    """`4.1 % mean, 9.0 % at the 90th percentile, bias -0.4 %, 131 points`."""
    mean, p90, bias = (100 * value for value in (found.mean, found.p90, found.bias))
    return f"{mean:.1f} % mean, {p90:.1f} % at the 90th percentile, bias {bias:+.1f} %, {found.points} points"


def calibrates(m: ArrayLike, n: ArrayLike, k: ArrayLike) -> NDArray[np.bool_]:
    """Which products of a published set may be fitted; the rule was settled before the first fit, for every device.

    Of the (N, K) pairs, sorted by N K then N, and of the values of M, sorted, every second one is held out, starting
    with the second. Of a shape that was measured twice only the first row calibrates; the other is in neither set.
    """
    shapes = list(zip(*(np.asarray(axis).tolist() for axis in (m, n, k)), strict=True))
    pairs = set(sorted({(n, k) for _, n, k in shapes}, key=lambda pair: (pair[0] * pair[1], pair[0]))[::2])
    rows = set(sorted({m for m, _, _ in shapes})[::2])
    return np.array([m in rows and (n, k) in pairs for m, n, k in shapes], dtype=np.bool_) & _first(shapes)


def held_out(m: ArrayLike, n: ArrayLike, k: ArrayLike) -> NDArray[np.bool_]:
    """Which products judge a fit to those that `calibrates` names: all whose shape calibrates nothing."""
    shapes = list(zip(*(np.asarray(axis).tolist() for axis in (m, n, k)), strict=True))
    fitted = {shape for shape, yes in zip(shapes, calibrates(m, n, k), strict=True) if yes}
    return np.array([shape not in fitted for shape in shapes], dtype=np.bool_)


def _first(shapes: list[tuple[int, int, int]]) -> NDArray[np.bool_]:
    first = {shape: place for place, shape in reversed(list(enumerate(shapes)))}
    return np.array([first[shape] == place for place, shape in enumerate(shapes)], dtype=np.bool_)
