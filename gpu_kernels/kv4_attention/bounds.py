"""How far our kernel's outputs may be from attention in float64 over the same cache: a worst case, errors all one way.

w = 2^-24 is a rounding to float32, u = 2^-11 one to float16. A product of depth 16 on the tensor cores has an error of
at most `CUT` times the sum of its magnitudes (`accel.tensor_core`; the worst is sm_80: two blocks of 8 products and the
accumulator; each of the 9 is cut by at most 2^-24 of the largest, the sum by 2^-23: 2 (9 2^-24 + 2^-23) = 11 2^-23).
`ex2.approx` is within 2^-22 (PTX ISA).

score    dot: D/16 CUT M, M = sum |q| |code + bias|; sum of q: (D/4 + 4) w, zero + bias and the difference w each; two
         products and the constant 3 w; x - top: w of its size
weight   e: its score's error, 2^-22, and twice for each time `top` moved or parts were joined; u once, and 2^-33 of the
         largest weight for those that are subnormal
output   sums of codes n/16 CUT, of zeros n/8 w, joins 2 w each; one rounding u
"""

import numpy as np
from numpy.typing import NDArray

from gpu_kernels.kv4_attention.config import CENTER, KEY_BIAS, LOG2_E
from gpu_kernels.kv4_attention.folded import Head

Wide = NDArray[np.float64]
U, W, TINY = 2.0**-11, 2.0**-24, 2.0**-25
CUT, POWER = 11 * 2.0**-23, 2.0**-22
JOINS = 80  # warps of a block and splits of a sequence, at most


def exact(head: Head) -> tuple[Wide, Wide]:
    """(shares [G, n + 1], outputs [G, D]) in float64; the new token, if there is one, is the last."""
    keys, values = ((codes - zero[:, None]) * scale[:, None] for codes, scale, zero in (head.keys, head.values))
    if head.key.size:
        keys, values = np.r_[keys, head.key[None]], np.r_[values, head.value[None]]
    if not len(keys):
        return np.zeros((len(head.query), 0)), np.zeros(head.query.shape)
    x = head.query @ keys.T / np.sqrt(head.query.shape[1])
    shares = np.exp(x - x.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return shares, shares @ values


def score_bound(head: Head, bits: int) -> Wide:
    """[G, n + 1], in units of bits."""
    codes, scale, zero = head.keys
    size, bias, factor = head.query.shape[1], KEY_BIAS[bits], LOG2_E / np.sqrt(head.query.shape[1])
    q = np.abs(head.query)
    dot, moved = q @ np.abs(codes + bias).T, q.sum(1)[:, None] * np.abs(zero + bias)
    error = size / 16 * CUT * dot + (size / 4 + 6) * W * moved + W * dot
    found: Wide = scale * factor * (error + 3 * W * (dot + moved))
    if head.key.size:
        found = np.c_[found, (size / 32 + 8) * W * factor * (q @ np.abs(head.key))]
    return found


def folded_bound(head: Head, bits: int) -> tuple[Wide, Wide]:
    """(float64 outputs, the largest error of each), [G, D]."""
    shares, output = exact(head)
    codes, scale, zero = head.values
    n, center = len(codes), CENTER[bits]
    if not shares.size:
        return output, np.zeros_like(output)
    steps = n / 16 + JOINS
    reach = np.minimum(-np.log2(np.maximum(shares / shares.max(1, keepdims=True), 2.0**-150)), 150) + 8
    off = score_bound(head, bits) + 2 * W * reach
    worst = np.minimum(off + off.max(1, keepdims=True), 300)
    moved = shares * (np.expm1(np.log(2) * worst) + steps * 2 * (POWER + 4 * W))
    p, coded, shifted = shares[:, :n] * scale, np.abs(codes - center), np.abs(center - zero)
    values = (codes - zero[:, None]) * scale[:, None]
    if head.key.size:
        values = np.r_[values, head.value[None]]
    rounded = (p * U + p.max(1, keepdims=True, initial=0) * 2.0**-33) @ coded + n / 16 * CUT * p @ coded
    zeros = ((n / 8 + 2 * JOINS + 8) * W) * (p @ shifted)[:, None] + 2 * JOINS * W * (p @ coded)
    spread = np.ptp(values, axis=0)  # outputs are means, whatever the shares
    bound: Wide = np.minimum(moved @ np.abs(values), spread) + rounded + zeros + (U + 2.0**-20) * np.abs(output) + TINY
    return output, bound
