"""What one trip of a main loop takes, and what surrounds the loop. Every term is a count over a rate or a latency.

A warp's products and its other instructions add up: `mma.sync` hides little (what our own kernel showed when parts were
left out, gpu_kernels/w4a8_portable/README.md: 93 to 87 % of the sum), and warps of a scheduler take turns. A stage is
issued half-way through a trip and must have arrived `stages - 2` trips later, with one trip of work in between: hence
(latency + work) / (stages - 1). Left out: queues in DRAM and L2, bank conflicts beyond those of the layout, misses of
instruction and address caches, the power limit.
"""

from dataclasses import dataclass

import numpy as np

from accel.gpu.machine import GpuMachine
from accel.gpu.microarchitecture import ARRIVE, HALF_RATE, SCHEDULERS, microarchitecture
from dataflow.gpu.estimate import Floats
from dataflow.gpu.published_kernels.loops import Loop

_LOADS = 2  # times a trip that a warp waits for operands from shared memory: depth of 64 a warp in steps of 32 (or 16)
_SLOW_START = 2.0  # cycles an instruction of code that one warp runs alone: integer arithmetic on the half-rate lanes


@dataclass(frozen=True)
class Trip:
    """Cycles of a trip of a block that is alone, by what it waits for; of several blocks all but `latency` add up.

    `arrive` is an array [points]: the last tile of tokens may be smaller.
    """

    tensor: float
    alu: float
    shared: float
    arrive: Floats
    chain: float
    latency: float
    ahead: int
    """stages less one"""

    def together(self, blocks: Floats) -> Floats:
        """Of each of so many blocks that share a multiprocessor."""
        work = np.maximum(blocks * (self.tensor + self.alu), self.chain)
        throughput = np.maximum(blocks * np.maximum(self.shared, self.arrive), work)
        return np.maximum(throughput, (self.latency + work) / self.ahead)


def product_cycles(machine: GpuMachine, bits: int) -> float:
    """Of one mma.sync of a warp on its own quarter: 8192 operations of s8, 4096 of float16."""
    rate = machine.rates.int8 if bits == 8 else machine.rates.fp16
    operations = 2 * 16 * 8 * 32 * 8 / bits
    return operations * SCHEDULERS / (rate * microarchitecture(machine.architecture).mma_sync)


def trip(machine: GpuMachine, loop: Loop, bits: int, stage_bytes: Floats) -> Trip:
    """`bits`: of an activation; `stage_bytes`: that arrive for a trip of a block, [points]."""
    micro = microarchitecture(machine.architecture)
    turns = loop.warps / SCHEDULERS
    products, others = loop.products * product_cycles(machine, bits), max(loop.others, HALF_RATE * loop.alu)
    return Trip(
        tensor=turns * products,
        alu=turns * others,
        shared=loop.warps * loop.wavefronts,
        arrive=stage_bytes / ARRIVE,
        chain=products + loop.alone + _LOADS * micro.shared_cycles + micro.barrier_cycles,
        latency=micro.last_load_cycles(machine.clock_hz),
        ahead=loop.stages - 1,
    )


def before_cycles(loop: Loop) -> float:
    """From the first instruction of a block to its first copy."""
    return _SLOW_START * loop.before


def output_cycles(machine: GpuMachine, loop: Loop) -> float:
    """Of a block after its loop: exchange, then guarded sections one after another, some of which miss every cache."""
    micro = microarchitecture(machine.architecture)
    missed = loop.missed * micro.last_load_cycles(machine.clock_hz)
    hits = (loop.sections - loop.missed) * micro.l1_cycles if loop.sections > 1 else 0.0
    meet = loop.exchange + (3 * (micro.shared_cycles + micro.barrier_cycles) if loop.exchange else 0.0)
    return meet + missed + hits + loop.sections * loop.section
