"""QServe's GEMMs: which loop runs for a problem, how many blocks of it, what a call takes. No block splits K."""

import numpy as np

from accel.gpu.machine import GpuMachine
from dataflow.gpu.estimate import Floats
from dataflow.gpu.published_kernels.loops import LOOPS, Loop
from dataflow.gpu.published_kernels.trips import before_cycles, output_cycles, trip

Parts = dict[str, Floats]


def pick(kernel: str, m: Floats, k: Floats) -> list[tuple[Loop, np.ndarray]]:
    """Each loop of the kernel with the points that it runs for."""
    if kernel == "qserve_w4a8_channel":
        large, small = m > 256, m < 128
        found = LOOPS["channel"]
        return [(found["large"], large), (found["small"], small), (found["middle"], ~large & ~small)]
    if kernel == "qserve_w4a8_group":
        large, small, deep = m > 128, m < 128, (m == 128) & (k > 4096)
        rest = ~large & ~small & ~deep
        found = LOOPS["group"]
        return [(found["large"], large), (found["small"], small), (found["deep"], deep), (found["middle"], rest)]
    return [(LOOPS["w8a8"]["large"], m > 128), (LOOPS["w8a8"]["small"], m <= 128)]


def run(rows: Floats) -> Floats:
    """Tiles along M that follow each other for one tile along N: 1, 2, 4 or 8."""
    return np.where(rows >= 6, 8.0, np.where(rows >= 3, 4.0, np.where(rows >= 2, 2.0, 1.0)))


def blocks(loop: Loop, m: Floats, n: Floats) -> Floats:
    """That are launched: tiles along M are filled up to whole runs, and those outside run their loop all the same."""
    rows = np.ceil(m / loop.rows)
    return np.ceil(n / loop.columns) * np.ceil(rows / run(rows)) * run(rows)


def bands(loop: Loop, m: Floats) -> Floats:
    """Times that the weights pass."""
    rows = np.ceil(m / loop.rows)
    return np.ceil(rows / run(rows))


def call(machine: GpuMachine, loop: Loop, bits: int, weight_bits: int, m: Floats, n: Floats, k: Floats) -> Parts:
    """Cycles by part; "body" is what they take together, from the first instruction to the last."""
    count, resident = blocks(loop, m, n), loop.resident(machine)
    trips = np.ceil(k / loop.depth)
    stage = _stage_bytes(loop, weight_bits, m)
    one = trip(machine, loop, bits, stage)
    places = float(machine.multiprocessors * resident)
    full = np.floor(count / places)
    last = np.ceil((count - full * places) / machine.multiprocessors)
    steps = trips * (full * one.together(np.full_like(m, resident)) + np.where(last > 0, one.together(last), 0.0))
    turns = np.ceil(count / machine.multiprocessors)
    around = before_cycles(loop) + output_cycles(machine, loop)
    again = np.maximum(full + (last > 0) - 1, 0.0) * (around + one.latency) if resident == 1 else np.zeros_like(m)
    return {
        "tensor": turns * trips * one.tensor,
        "alu": turns * trips * one.alu,
        "shared": turns * trips * one.shared,
        "latency": (full + (last > 0)) * trips * one.latency / one.ahead,
        "waves": around + again,
        "body": steps + around + again,
        "l2_bytes": count * trips * stage + 2.0 * m * n,
    }


def _stage_bytes(loop: Loop, weight_bits: int, m: Floats) -> Floats:
    """That arrive for a trip of a block: tokens that are there, weights, group scales and zeros."""
    scales = 2 * loop.columns if loop in LOOPS["group"].values() else 0
    return np.minimum(m, loop.rows) * loop.depth + loop.columns * loop.depth * weight_bits / 8 + scales
