"""The kernels of a pass by how it is executed: eager operators, or compiled blocks (`fusion.py`)."""

from weakref import WeakKeyDictionary

import numpy as np

from dataflow.gpu.fusion import fused_kernels
from dataflow.gpu.kernels import Kernels
from dataflow.gpu.operators import Operators, read_operators
from dataflow.gpu.residency import Touches
from workloads.trace import Trace

_UNDER: "WeakKeyDictionary[Trace, dict[str, Trace]]" = WeakKeyDictionary()
_MADE: "WeakKeyDictionary[Trace, dict[bool, Kernels]]" = WeakKeyDictionary()


def pass_kernels(trace: Trace, compiled: bool) -> Kernels:
    """Kernels of an exported trace, kept as long as the trace lives. Raises ValueError as `read_operators` does."""
    made = _MADE.setdefault(trace, {})
    if compiled not in made:
        operators = read_operators(trace)
        made[compiled] = fused_kernels(operators) if compiled else eager_kernels(operators)
    return made[compiled]


def under_scheme(trace: Trace, scheme: str) -> Trace:
    """The trace as it runs under a number scheme, kept as long as the trace lives; "": itself.

    Raises ValueError for an unknown scheme, and where it cannot hold for the trace.
    """
    if not scheme:
        return trace
    from workloads.schemes import annotate

    made = _UNDER.setdefault(trace, {})
    if scheme not in made:
        made[scheme] = annotate(trace, scheme)
    return made[scheme]


def eager_kernels(operators: Operators) -> Kernels:
    """One entry for each operator that is more than a view."""
    rows = np.array([row for row in range(len(operators)) if operators.launches(row)], np.int64)
    number = np.full(len(operators), -1, np.int64)
    number[rows] = np.arange(len(rows))
    touches = Touches(number[operators.operator], operators.tensor, operators.bytes, operators.written)
    return Kernels(
        names=[operators.kinds[row] for row in rows],
        products=[operators.products[row] for row in rows],
        moving=[operators.moving[row] for row in rows],
        repeat=operators.repeat[rows],
        touches=touches,
    )
