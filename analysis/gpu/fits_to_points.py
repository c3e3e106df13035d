"""Least squares over positive parameters with bounds, in logarithms; scipy is in the extra `fit`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataflow.gpu.estimate import Floats


class Parameter(NamedTuple):
    """A positive number: where to begin, and the range that is physically meant."""

    start: float
    low: float
    high: float


def fitted(
    parameters: Mapping[str, Parameter],
    residuals: Callable[[Mapping[str, float]], Floats],
    touched: NDArray[np.bool_] | None = None,
    rounds: int = 60,
) -> dict[str, float]:
    """Values that make the residuals (logarithms of predicted / measured) small; outliers beyond 10 % count less.

    touched   [residuals, parameters]: which depend on which, where most do not; all do unless given
    Raises ImportError that names the extra where scipy is missing.
    """
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise ImportError("fitting needs scipy: install tilewright[fit]") from None
    names = list(parameters)
    start, low, high = (np.log([getattr(parameters[name], field) for name in names]) for field in Parameter._fields)

    def of(x: Floats) -> Floats:
        return residuals(dict(zip(names, np.exp(x).tolist(), strict=True)))

    more: dict[str, Any] = {} if touched is None else {"jac_sparsity": touched.astype(np.int8), "tr_solver": "lsmr"}
    found = least_squares(of, start, bounds=(low, high), loss="soft_l1", f_scale=0.1, max_nfev=rounds, **more)
    return dict(zip(names, np.exp(found.x).tolist(), strict=True))
