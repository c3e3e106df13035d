"""What the rules say the probed instructions give, bit for bit: `accel.tensor_core`, `accel.arithmetic`. No CUDA."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from accel.tensor_core import Accumulation, matmul, rule
from gpu_kernels.arithmetic_probe.instructions import PRODUCTS, Product
from gpu_kernels.arithmetic_probe.operands import Bits, values

NAN32, NAN16 = 0x7FFFFFFF, 0x7FFF  # the NaN that tensor cores write
Words = NDArray[np.uint32]


def accumulation(product: Product, architecture: str) -> Accumulation:
    """The rule of an instruction: no more products at once than one instruction has."""
    found = rule(architecture, product.operand, product.family)
    found = replace(found, width=min(found.width, product.depth))
    return replace(found, sums="float16", result_bits=0) if product.sums == "float16" else found


def products(name: str, a: Bits, b: Bits, c: Words, architecture: str) -> Words:
    """D of tiles: A [tiles, 64, K], B [tiles, 8, K], C uint32 [tiles, 64, 8]; a NaN as the tensor core writes it."""
    product = PRODUCTS[name]
    if product.operand == "int8":
        return _integers(product, a, b, c, saturate=name.endswith("satfinite"))
    one = accumulation(product, architecture)
    left, right, start = values(product.operand, a), values(product.operand, b), values(product.sums, c)
    found = np.stack([matmul(*tile, one) for tile in zip(left, right, start, strict=True)])
    return _bits(product.sums, found)


def _bits(sums: str, found: NDArray[np.float32]) -> Words:
    if sums == "float16":
        with np.errstate(over="ignore"):
            bits = found.astype(np.float16).view(np.uint16).astype(np.uint32)
        return np.where(np.isnan(found), NAN16, bits).astype(np.uint32)
    return np.where(np.isnan(found), NAN32, found.view(np.uint32)).astype(np.uint32)


def _integers(product: Product, a: Bits, b: Bits, c: Words, saturate: bool) -> Words:
    """Exact sums of each instruction, modulo 2^32 or saturated."""
    left, right = a.view(np.int8).astype(np.int64), b.view(np.int8).astype(np.int64)
    total = c.view(np.int32).astype(np.int64)
    for k in range(0, a.shape[2], product.depth):
        part = slice(k, k + product.depth)
        total = total + np.einsum("tmk,tnk->tmn", left[:, :, part], right[:, :, part])
        if saturate:
            total = np.clip(total, -(2**31), 2**31 - 1)
    return (total & 0xFFFFFFFF).astype(np.uint32)
