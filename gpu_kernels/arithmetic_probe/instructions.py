"""The instructions that are probed, by the name of their kernel. No torch, no CUDA."""

from dataclasses import dataclass

ROWS, COLUMNS = 64, 8  # of a tile


@dataclass(frozen=True)
class Product:
    """A matrix instruction. operand: format of A and B; depth: its K; sums: "float32", "float16", "int32";
    family: "mma" or "wgmma"; sm: the first architecture with it, 900 the only one with wgmma."""

    operand: str
    depth: int
    sums: str = "float32"
    family: str = "mma"
    sm: int = 800


PRODUCTS = {
    "mma_float16": Product("float16", 16),
    "mma_bfloat16": Product("bfloat16", 16),
    "mma_float16_k8": Product("float16", 8),
    "mma_bfloat16_k8": Product("bfloat16", 8),
    "mma_float16_sums": Product("float16", 16, sums="float16"),
    "mma_e4m3": Product("e4m3", 32, sm=890),
    "mma_e5m2": Product("e5m2", 32, sm=890),
    "wgmma_float16": Product("float16", 16, family="wgmma", sm=900),
    "wgmma_bfloat16": Product("bfloat16", 16, family="wgmma", sm=900),
    "wgmma_e4m3": Product("e4m3", 32, family="wgmma", sm=900),
    "wgmma_e5m2": Product("e5m2", 32, family="wgmma", sm=900),
    "mma_s8": Product("int8", 32, sums="int32"),
    "mma_s8_satfinite": Product("int8", 32, sums="int32"),
}
# scalar instructions: number of operands and their format: a 16-bit float, "32" for float32, "i" for int32
SCALARS = {
    "float16_of_float32": (1, "32"),
    "bfloat16_of_float32": (1, "32"),
    "e4m3_of_float32": (1, "32"),
    "e5m2_of_float32": (1, "32"),
    "s8_of_float32": (1, "32"),
    "u8_of_float32": (1, "32"),
    "s32_of_float32": (1, "32"),
    "float32_of_s32": (1, "i"),
    "fma_float32": (3, "32"),
    "fma_ftz_float32": (3, "32"),
    "multiply_ftz_float32": (2, "32"),
    "divide_float32": (2, "32"),
    "fma_float16": (3, "float16"),
    "fma_float16x2": (3, "float16"),
    "fma_bfloat16": (3, "bfloat16"),
    "fma_bfloat16x2": (3, "bfloat16"),
    "multiply_float16": (2, "float16"),
    "multiply_bfloat16": (2, "bfloat16"),
    "add_float16": (2, "float16"),
    "add_bfloat16": (2, "bfloat16"),
    "reciprocal_approximate": (1, "32"),
    "exp2_approximate": (1, "32"),
    "reciprocal_root_approximate": (1, "32"),
    "divide_float16": (2, "float16"),
}
