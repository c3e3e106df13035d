"""How far predictions are off: the statistics of every error table of the GPU models."""

import numpy as np
from numpy.typing import ArrayLike

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
