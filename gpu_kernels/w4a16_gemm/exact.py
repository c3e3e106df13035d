"""Twin of `model`: Fractions, one number at a time; `gemv` thread by thread. Finite numbers only."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from accel.tensor_core import exact as tensor_core
from accel.tensor_core import rule
from gpu_kernels.exact_rounding import Exact, exact, to_float32, to_form

NF4 = (  # QLoRA, arXiv 2305.14314, appendix E
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
Row = Sequence[Any]


def group_weight(code: Any, scale: Any, zero: Any, real: bool, form: str) -> Exact:
    """One weight; `real`: the zero is added to the product, else subtracted from the code."""
    s, z = exact(scale), exact(zero)
    return to_form(int(code) * s + z if real else (int(code) - z) * s, form)


def group_weights(codes: Any, scale: Any, zero: Any, real: bool, form: str) -> list[list[Exact]]:
    """w [N][K] of codes [N][K], scale and zero [N][G]."""
    rows = []
    for row, scales, zeros in zip(codes, scale, zero, strict=True):
        group = len(row) // len(scales)
        rows.append([group_weight(q, scales[k // group], zeros[k // group], real, form) for k, q in enumerate(row)])
    return rows


def nf4_weights(codes: Any, absmax: Row, form: str) -> list[list[Exact]]:
    """w [N][K] of codes [N][K] and absmax over 64 numbers in memory order."""
    size = len(codes[0])
    return [
        [
            to_form(to_float32(to_float32(exact(NF4[int(q)])) * exact(absmax[(n * size + k) // 64])), form)
            for k, q in enumerate(row)
        ]
        for n, row in enumerate(codes)
    ]


def _dot(a: Row, b: Row, start: Exact, form: str) -> Exact:
    first, second = [Fraction(exact(v)) for v in a], [Fraction(exact(v)) for v in b]
    return to_form(tensor_core.dot(first, second, Fraction(start), rule("sm_90", form)), form)


def gemm(x: Any, weights: Any, bias: Any, form: str) -> list[list[Exact]]:
    """y [M][N] of x [M][K], weights [N][K], bias [N] or None."""
    biases = [0] * len(weights) if bias is None else bias
    return [
        [to_form(_dot(row, w, Fraction(0), form) + exact(b), form) for w, b in zip(weights, biases, strict=True)]
        for row in x
    ]


def add_branch(y: Any, x: Any, down: Any, up: Any, form: str) -> list[list[Exact]]:
    """y [M][N] with (x down^T) up^T on top; down [r][K], up [N][r]."""
    hidden = [[_dot(row, a, Fraction(0), form) for a in down] for row in x]
    return [
        [_dot(h, b, start, form) for b, start in zip(up, starts, strict=True)]
        for h, starts in zip(hidden, y, strict=True)
    ]


def _threads(x: Row, w: Row, row: int, form: str) -> list[Exact]:
    """Float32 sums of the 256 threads of a block for output `row` (0..3) of its four; 0 for threads of the others."""
    sums: list[Exact] = [Fraction(0)] * 256
    for thread in range(256):
        if thread // 2 % 4 == row:
            for start in range(thread // 8 * 64 + thread % 2 * 32, len(x), 2048):
                for k in range(start, start + 32):
                    product = to_form(exact(w[k]) * exact(x[k]), form)
                    sums[thread] = to_float32(sums[thread] + product)
    return sums


def _gemv_one(x: Row, w: Row, row: int, form: str) -> Exact:
    total: Exact = Fraction(0)
    sums = _threads(x, w, row, form)
    for warp in range(8):
        lanes = sums[warp * 32 : warp * 32 + 32]
        for distance in (16, 8, 1):
            lanes = [to_float32(lanes[i] + lanes[i ^ distance]) for i in range(32)]
        total = to_float32(total + lanes[2 * row])
    return to_form(total, form)


def gemv(x: Any, weights: Any, bias: Any, form: str) -> list[list[Exact]]:
    """y [M][N] as `gemm`, in the order of the kernel for few tokens."""
    biases = [0] * len(weights) if bias is None else bias
    return [
        [
            to_form(_gemv_one(row, w, n % 4, form) + exact(b), form)
            for n, (w, b) in enumerate(zip(weights, biases, strict=True))
        ]
        for row in x
    ]
