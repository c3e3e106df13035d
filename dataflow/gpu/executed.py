"""What kernels execute beside useful products, for energy: padded products, and instructions of threads.

    operations = {"fp16": products with padding, "special": exponentials, "int32": instructions that are no products}

`mma.sync` takes its operands from registers: each is an instruction of 32 threads, and others load its operands;
`wgmma` takes them from shared memory, and has hardly any instruction of its own. Counts are those of the models of time
(`w4_counts`, `attention_ours`, `score_slots` of a fit). Left out: prologues, epilogues, spinning on barriers; of
products on CUDA cores, convolutions and others' published kernels all that is not useful: their models count no more.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from accel.gpu.attention import FlashFit
from accel.gpu.formats import find_format
from accel.gpu.machine import GpuMachine
from dataflow.gpu import attention_ours
from dataflow.gpu.estimate import Estimate, Floats

WARP = 32
PAIR_BITS = 2048  # operand bits a thread instruction of mma.sync: 128 operations of 16 bits (m16n8k16), 256 of 8
LOADS = 1.25  # assumed: an ldmatrix for four products, as in FlashAttention 2 and in tiles of 64 x 64 a warp
SYNC = ("int8",)  # formats whose library kernels are of mma.sync on Hopper too: names of recorded kernels
LEAST_ROWS = {"bf16": 8, "fp16": 8, "int8": 64, "fp8": 128}  # of a library's tile on Hopper: the same names
ROWS = 64  # elsewhere
PAIRED = 256  # rows, and columns, that two blocks of a cluster read together for each other (16 bits on Hopper)
GROUP_ROWS, SCORE_INSTRUCTIONS = 64, 3.0  # assumed: of cuDNN's decode kernel
COLUMNS = 8  # of a product of our decode kernel: query heads, padded


def sync_instructions(products: Floats, bits: float) -> Floats:
    """Of threads, for so many operations by mma.sync (a multiply-add counts two), loads of operands with them."""
    return LOADS * products * bits / PAIR_BITS


def of_library(
    machine: GpuMachine, found: Estimate, format: str, m: Floats, n: Floats, k: Floats, batch: Floats
) -> Estimate:
    """Products of a library with the rows of whole tiles, and what mma.sync takes for them.

    Tiles of 16-bit products on Hopper are of many sizes, and the model of time takes one as good as another: what they
    read from the L2 is that of clusters.
    """
    one, hopper = find_format(format), machine.architecture.startswith("sm_90")
    step = LEAST_ROWS.get(format, ROWS) if hopper else ROWS
    executed = 2.0 * batch * np.ceil(m / step) * step * n * k
    operations: dict[str, Floats] = {one.unit: executed}
    if not hopper or format in SYNC:
        operations["int32"] = sync_instructions(executed, one.x_bits)
    made = replace(found, operations=operations)
    if not hopper or one.x_bits < 16:
        return made
    return replace(made, l2_bytes=2.0 * batch * (k * (np.ceil(n / PAIRED) * m + np.ceil(m / PAIRED) * n) + m * n))


def flash_operations(
    machine: GpuMachine, fit: FlashFit, kernel: str, cycles: Mapping[str, Floats]
) -> dict[str, Floats]:
    """Of `flash_cycles`: tiles of the products as they run, softmax by the issue slots of a score."""
    executed, scores = cycles["executed"], cycles["scores"]
    sync = kernel == "flash" or not machine.architecture.startswith("sm_90")
    others = fit.score_slots * scores + (sync_instructions(executed, 16) if sync else 0.0)
    return {"fp16": executed, "special": scores, "int32": others}


def our_decode_operations(machine: GpuMachine, problem: attention_ours.Problem) -> dict[str, Floats]:
    """Query heads in eights; instructions of a tile as they were counted, products with them."""
    chosen = attention_ours.plan(machine, problem)
    heads = problem.batch * problem.kv_heads * chosen.chunks
    columns = np.ceil(chosen.block_heads / COLUMNS) * COLUMNS
    tiles = heads * np.ceil(problem.read / chosen.tokens)
    return {
        "fp16": 4.0 * heads * columns * problem.read * problem.size,
        "special": heads * columns * problem.read,
        "int32": WARP * tiles * attention_ours.tile_instructions(problem, chosen),
    }


def cudnn_decode_operations(heads: Floats, context: Floats, size: Floats) -> dict[str, Floats]:
    """Queries of a group are rows of a tile of the least that wgmma has; `heads`: K/V heads of all sequences. Its
    instructions were not counted: those of softmax alone, as our kernel has them."""
    scores = heads * GROUP_ROWS * context
    return {"fp16": 4.0 * scores * size, "special": scores, "int32": SCORE_INSTRUCTIONS * scores}
