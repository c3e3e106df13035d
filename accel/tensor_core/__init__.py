"""How tensor cores add: the rule of each architecture as data, and products computed by it bit for bit.

from accel.tensor_core import matmul, rule

d = matmul(a, b, c, rule("sm_90", "float16"))   # float32 [M, N] = c + a b^T, as mma.sync adds it
"""

from accel.tensor_core.product import matmul
from accel.tensor_core.rules import Accumulation, architectures, rule

__all__ = ["Accumulation", "architectures", "matmul", "rule"]
