"""How the controller is compiled.

Without Numba's reference counting: an atomic increment and decrement of each array at each call took 40 % of the
time. Such functions may not allocate.
"""

from functools import partial

from numba import njit

jitted = partial(njit, cache=True, _nrt=False, error_model="numpy")()
inlined = partial(njit, cache=True, _nrt=False, error_model="numpy", forceinline=True)()


@inlined
def index(i):  # type: ignore[no-untyped-def]
    """The same index, for LLVM to see that it is not negative: it then drops Numba's check at every access."""
    return i & 0xFFFFFFFF
