"""Decode attention of others, one query a sequence: cuDNN's, and QServe's KV4 kernel without a number fitted to it."""

import numpy as np

from accel.gpu.attention import LibraryDecodeFit
from accel.gpu.machine import GpuMachine
from dataflow.gpu.attention_work import ISSUE, cudnn_splits, partly_hidden
from dataflow.gpu.estimate import Floats

CUDNN_KEYS = 128  # of a tile
CUDNN_RESIDENT = 2  # blocks of a multiprocessor: registers and shared memory of the recorded launches
# of QServe's kernel, sm_90 machine code: thread instructions an element of keys and of values, once a query head
QSERVE_KEYS = (451 / 64, 253 / 32)  # counted: contexts below 2048, others
QSERVE_VALUES = (235 / 32, 266 / 32)  # counted: the same
QSERVE_SHORT = 2048
QSERVE_THREADS = 256
QSERVE_RESIDENT = 4  # assumed: 64 registers a thread, no more than half of 2048 threads
# of the issue slots, what instructions other than products take: fitted to our own GEMMs with mma.sync on the H200
# (`w4.sync.issue` of accel/fits/h200.yaml), to nothing of QServe's
QSERVE_ISSUE = 0.70
LONE_CYCLES = 4.0  # recalled: from one instruction of a warp to the next that needs it
QSERVE_START_S = 3e-6  # assumed: vectors, block-wide sums, the output: as in other kernels of blocks of 256 threads


def cudnn_cycles(
    machine: GpuMachine, fit: LibraryDecodeFit, heads: Floats, context: Floats, size: Floats
) -> dict[str, Floats]:
    """By part; `heads`: K/V heads of all sequences (queries of a group are rows of one tile)."""
    splits = cudnn_splits(heads, context, machine.multiprocessors)
    turns = np.ceil(heads * splits / (CUDNN_RESIDENT * machine.multiprocessors))
    tiles = np.ceil(np.ceil(context / CUDNN_KEYS) / splits)
    step = fit.tile_cycles * size / 128
    latency = turns * (fit.block_cycles + tiles * step)
    seconds = 4.0 * heads * context * size / (machine.memory.read_bytes_per_s * fit.memory_share)
    dram = seconds * machine.clock_hz
    combine = np.where(splits > 1, fit.combine_cycles + fit.split_cycles * splits, 0.0)
    body = partly_hidden(dram, latency, fit.block_cycles + fit.exposed_tiles * step, fit.overlap)
    return {"dram": dram, "latency": latency, "exchange": combine, "whole": fit.start_cycles + body + combine}


def qserve_cycles(
    machine: GpuMachine, batch: Floats, context: Floats, heads: Floats, kv_heads: Floats, size: Floats
) -> dict[str, Floats]:
    """By part. A block is a query head of a sequence; every head widens all codes of its K/V head for itself."""
    short = context < QSERVE_SHORT
    element = np.where(short, QSERVE_KEYS[0] + QSERVE_VALUES[0], QSERVE_KEYS[1] + QSERVE_VALUES[1])
    blocks = batch * heads
    busiest = np.ceil(blocks / machine.multiprocessors)
    turns = np.ceil(blocks / (QSERVE_RESIDENT * machine.multiprocessors))
    alu = busiest * context * size * element / (ISSUE * QSERVE_ISSUE)
    latency = turns * context * size * element / QSERVE_THREADS * LONE_CYCLES / QSERVE_ISSUE
    read = batch * kv_heads * context * (size + 8)
    dram = read / machine.memory.read_bytes_per_s * machine.clock_hz
    special = busiest * context / machine.rates.special
    whole = QSERVE_START_S * machine.clock_hz + np.max([alu, latency, dram, special], axis=0)
    return {"dram": dram, "alu": alu, "latency": latency, "special": special, "whole": whole}
