"""Twin of `model`: Python integers and Fractions, an output at a time."""

from collections.abc import Sequence
from typing import Any

from gpu_kernels.exact_rounding import Exact, exact, flush, to_float32, to_form


def product(a: Exact, b: Exact) -> Exact:
    """A float32 multiplication that flushes subnormals."""
    return flush(to_float32(flush(a) * flush(b)))


def with_bias(r: Exact, bias: Any, form: str) -> Exact:
    """r in 16 bits, and the separate 16-bit addition of a bias that is not None."""
    y = to_form(r, form)
    return y if bias is None else to_form(y + exact(bias), form)


def output(sum_: int, scale: Any, token_scale: Any, bias: Any, form: str) -> Exact:
    """One element of y."""
    factor = product(exact(scale), exact(token_scale))
    return with_bias(product(factor, to_float32(exact(sum_))), bias, form)


def integer_sum(x: Sequence[Any], w: Sequence[Any]) -> int:
    """Of the products of two rows of codes."""
    return sum(int(a) * int(b) for a, b in zip(x, w, strict=True))


def gemm(
    x: Any, token_scale: Any, codes: Any, scale: Any, bias: Any = None, form: str = "float16"
) -> list[list[Exact]]:
    """y [M][N] of x codes [M, K], token_scale [M], codes [N, K], scale [N], bias [N]."""
    biases = [None] * len(scale) if bias is None else bias
    return [
        [output(integer_sum(row, w), s, a, b, form) for w, s, b in zip(codes, scale, biases, strict=True)]
        for row, a in zip(x, token_scale, strict=True)
    ]
