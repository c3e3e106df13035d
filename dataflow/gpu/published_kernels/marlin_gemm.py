"""Marlin's W4A16 GEMM: one block a multiprocessor, each an equal stripe of tiles that runs down the weight's columns.

Blocks that share a column add their parts one after another through the output in the L2, behind a lock. More than 64
tokens go as several problems of 64 that lie side by side (at most 16 in a launch); what is left over of M has a launch
of its own.
"""

from dataclasses import dataclass

import numpy as np

from accel.gpu.machine import GpuMachine
from accel.gpu.microarchitecture import ARRIVE, microarchitecture
from dataflow.gpu.estimate import Floats
from dataflow.gpu.published_kernels.loops import LOOPS, Loop
from dataflow.gpu.published_kernels.qserve_gemm import Parts
from dataflow.gpu.published_kernels.trips import before_cycles, output_cycles, trip

GROUP = 128  # inputs that share a scale
_SIDE_BY_SIDE = 16  # problems of 64 tokens in a launch: default of its Python operator
_ROUND_TRIPS = 3  # to the L2, from one block's lock to the next's: lock, partial output, fence


@dataclass(frozen=True)
class Launches:
    """Arrays [points]: of one loop, `times` launches, each of `beside` problems of `tokens` tokens; 0 times: none."""

    loop: Loop
    times: Floats
    beside: Floats
    tokens: Floats


def launches(m: Floats) -> list[Launches]:
    """That calls with m tokens make."""
    marlin, ones = LOOPS["marlin"], np.ones_like(m)
    small = m <= 16
    whole: Floats = np.where(small, 0.0, m // 64)
    full, left = np.floor(whole / _SIDE_BY_SIDE), np.asarray(whole % _SIDE_BY_SIDE, dtype=np.float64)
    rest = np.where(small, 0.0, m % 64)
    found = [
        Launches(marlin["one"], small.astype(np.float64), ones, m),
        Launches(marlin["64"], full, float(_SIDE_BY_SIDE) * ones, 64.0 * ones),
        Launches(marlin["64"], (left > 0).astype(np.float64), left, 64.0 * ones),
    ]
    for rows in (16, 32, 48, 64):
        found.append(Launches(marlin[str(rows)], 1.0 * (np.ceil(rest / 16) * 16 == rows), ones, rest))
    return [one for one in found if one.times.any()]


def call(machine: GpuMachine, m: Floats, n: Floats, k: Floats) -> Parts:
    """Cycles by part, all launches of a call; "launches": how many."""
    found: dict[str, Floats] = {"launches": np.zeros_like(m)}
    for made in launches(m):
        where = made.times > 0
        times = made.times[where]
        found["launches"][where] += times
        parts = _launch(machine, made.loop, made.beside[where], made.tokens[where], n[where], k[where])
        for name, value in parts.items():
            found.setdefault(name, np.zeros_like(m))[where] += times * value
    return found


def _launch(machine: GpuMachine, loop: Loop, beside: Floats, tokens: Floats, n: Floats, k: Floats) -> Parts:
    deep, wide = np.ceil(k / loop.depth), np.ceil(n / loop.columns)
    together = GROUP // loop.depth  # tiles of a group stay together
    stripe = np.ceil(np.ceil(deep * wide * beside / machine.multiprocessors) / together) * together
    stage = (2.0 * tokens + loop.columns / 2) * loop.depth + 2.0 * loop.columns / together
    one = trip(machine, loop, 16, stage)
    uneven = np.maximum(stripe, deep) % np.minimum(stripe, deep) > 0
    columns = np.ceil(stripe / deep) + uneven  # that a stripe touches, at most
    sharing = np.ceil(deep / stripe) + uneven  # stripes that touch a column, at most
    ends = columns * (_add_up(machine, loop) + output_cycles(machine, loop)) + (columns - 1) * one.latency
    hops = np.maximum(sharing - 1, 0.0) * _hop(machine, loop, tokens)
    around = before_cycles(loop) + ends + hops
    return {
        "tensor": stripe * one.tensor,
        "alu": stripe * one.alu,
        "shared": stripe * one.shared,
        "latency": stripe * one.latency / one.ahead,
        "waves": around,
        "body": stripe * one.together(np.ones_like(n)) + around,
        "l2_bytes": deep * wide * beside * stage + 4.0 * sharing * beside * tokens * n,
    }


def _add_up(machine: GpuMachine, loop: Loop) -> float:
    """Sums of warps that share a tile along K, in shared memory: 2 or 4 of them, a block of 16 tokens after another."""
    micro = microarchitecture(machine.architecture)
    levels = 1 if loop.columns == 256 else 2
    return loop.rows / 16 * levels * (3 * 128 + 2 * micro.barrier_cycles + 2 * micro.shared_cycles)


def _hop(machine: GpuMachine, loop: Loop, tokens: Floats) -> Floats:
    """A block adds its part to the output of the one before: latencies, then bytes in and out."""
    moved = 2 * 2.0 * tokens * loop.columns / ARRIVE
    return _ROUND_TRIPS * microarchitecture(machine.architecture).l2_cycles + moved
