"""Twin of `exponential` in Fractions."""

from fractions import Fraction

from gpu_kernels.exact_rounding import Exact, to_float32

LOG2_E = to_float32(Fraction("1.4426950408889634"))
_LN2 = Fraction("0.693147180559945309417232121458")


def exponential(x: Exact) -> Exact:
    """exp of x <= 0 with all its roundings."""
    t = to_float32(x * LOG2_E)
    if t < -126:
        return Fraction(0)
    n = round(t)
    coefficients, power = [], Fraction(1)
    for i in range(8):
        coefficients.append(to_float32(power))
        power = power * _LN2 / (i + 1)
    p = coefficients.pop()
    while coefficients:
        p = to_float32((t - n) * p + coefficients.pop())
    return p * Fraction(2) ** n
