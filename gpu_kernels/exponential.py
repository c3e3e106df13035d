"""exp(x) for x <= 0 in float32, every rounding stated: no approximate instruction of a GPU. Numba.

`gpu_kernels/common/exponential.cuh` is the same in CUDA, `exact_exponential.py` in Fractions.
"""

import math

import numpy as np
from numba import njit

from accel.arithmetic import float_of32, fma

LOG2_E = np.float32(1.4426950408889634)
ORDER = 7
POWER = np.array([math.log(2) ** i / math.factorial(i) for i in range(ORDER + 1)], np.float32)  # of 2^f, |f| <= 1/2


@njit(cache=True)
def exponential(x):  # type: ignore[no-untyped-def]
    """exp of a float32 x <= 0, from t = rn(x log2 e): 2^t within 2^-23.5, relative, as 2^n P(f), 7 fma."""
    t = np.float32(x * LOG2_E)
    if not t >= -126:
        return np.float32(0)  # results below the normal range are flushed
    n = np.rint(t)
    f = np.float32(t - n)  # exact
    p = POWER[ORDER]
    for i in range(ORDER - 1, -1, -1):
        p = fma(f, p, POWER[i])
    return np.float32(p * float_of32(np.int32(n + 127) << np.int32(23)))
