"""Number formats of 8 bits and fewer, recipes for their scales, packing, and the layouts that kernels read.

from accel.formats import number

e2m1 = number("e2m1")
codes = e2m1.encode(x)       # uint8, nearest, saturating
values = e2m1.decode(codes)  # float32
"""

from accel.formats.number import Number, names, number

__all__ = ["Number", "names", "number"]
