"""Twin of `model`: Python integers and Fractions, a word and an output at a time."""

from collections.abc import Sequence
from typing import Any

from gpu_kernels.exact_rounding import Exact, exact, flush, to_float32, to_form
from gpu_kernels.w8a8_gemm import exact as w8a8


def word_weights(codes: Sequence[Any], scale: int, zero: int) -> list[int]:
    """Four codes to four 8-bit weights, as one 32-bit word."""
    word = sum(int(q) << (8 * i) for i, q in enumerate(codes))
    product = (word * scale) % 2**32
    entry = (-zero * scale) % 256
    found = [((product >> (8 * i)) + entry) % 256 for i in range(4)]
    return [byte - 256 if byte > 127 else byte for byte in found]


def group_weights(codes: Any, group_scale: Any, group_zero: Any) -> list[list[int]]:
    """8-bit weights [N][K] of codes [N, K] and group_scale, group_zero [N, K / 128]."""
    rows = []
    for row, scales, zeros in zip(codes, group_scale, group_zero, strict=True):
        words = [(row[k : k + 4], k // 128) for k in range(0, len(row), 4)]
        rows.append([w for four, g in words for w in word_weights(four, int(scales[g]), int(zeros[g]))])
    return rows


def group_gemm(
    x: Any, token_scale: Any, codes: Any, group_scale: Any, group_zero: Any, scale: Any, bias: Any, form: str
) -> list[list[Exact]]:
    """y [M][N] of x codes [M, K]; the epilogue is that of W8A8."""
    weights = group_weights(codes, group_scale, group_zero)
    return w8a8.gemm(x, token_scale, weights, scale, bias, form)


def output(sum_: int, scale: Any, zero: Any, token_scale: Any, token_sum: Any, bias: Any, form: str) -> Exact:
    """One element of y, per channel."""
    scaled_zero = to_form(int(zero) * exact(scale), form)
    first = w8a8.product(exact(scale), to_float32(exact(sum_)))
    second = w8a8.product(scaled_zero, exact(token_sum))
    r = flush(to_float32(flush(exact(token_scale)) * first - second))
    return w8a8.with_bias(r, bias, form)


def channel_gemm(
    x: Any, token_scale: Any, token_sum: Any, codes: Any, scale: Any, zero: Any, bias: Any, form: str
) -> list[list[Exact]]:
    """y [M][N] of x codes [M, K], token_scale and token_sum [M], codes [N, K], scale, zero, bias [N]."""
    biases = [None] * len(scale) if bias is None else bias
    channels = list(zip(codes, scale, zero, biases, strict=True))
    return [
        [output(w8a8.integer_sum(row, q), s, z, a, t, b, form) for q, s, z, b in channels]
        for row, a, t in zip(x, token_scale, token_sum, strict=True)
    ]
