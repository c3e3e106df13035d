"""Heads whose K or V does not fit one buffer: how their rows are cut into tiles.

K comes in tiles of one buffer each. The scores of a block of queries wait in the score buffer until their row is
whole; softmax, local top-k and importance then see all of it, as they must (an online softmax would not do). V follows
in tiles. The block is as many whole query tokens (all vectors of their group) as fit the Q registers and, twice over,
the score buffer, so that the next block's scores can be written while the last one's are used. A prompt with more
queries than that fetches K and V again for each block.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accel.spatten import SpattenMachine
from workloads.attention import AttentionWork

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Tiling:
    """For each row of a work, int64 [R] each.

    block        query vectors whose scores are held together; 0: the row fits and is not cut
    blocks       how many blocks: how often K and V are fetched
    key_tiles, value_tiles   tiles of one fetch
    """

    block: Ints
    blocks: Ints
    key_tiles: Ints
    value_tiles: Ints


def vectors_of_a_buffer(machine: SpattenMachine, head_size: int) -> tuple[int, int]:
    """K and V vectors that one buffer holds, `element_bits` an element."""
    size = -(-head_size * machine.element_bits // 8)
    key, value = (sram.bytes // sram.buffers // size for sram in (machine.units.key_sram, machine.units.value_sram))
    return key, value


def scores_of_the_buffer(machine: SpattenMachine) -> int:
    """Scores that the score buffer holds; 0 without one."""
    buffer = machine.units.score_buffer
    return buffer.bytes * 8 // machine.element_bits if buffer else 0


def tiling(machine: SpattenMachine, work: AttentionWork) -> Tiling:
    """How each row is cut. Raises ValueError where a row cannot be: without a score buffer, with one that does not
    hold the scores of one token's group, or where queries would need their LSBs (their tiles are gone by then).
    """
    key, value = vectors_of_a_buffer(machine, work.head_size)
    cut = work.keys > min(key, value)
    if not cut.any():
        zeros = np.zeros(work.rows, np.int64)
        return Tiling(zeros, zeros + 1, zeros + 1, zeros + 1)
    _check_buffers(machine, work, key, value)
    _check_group(machine, work)
    vectors = work.queries * work.group
    rows = scores_of_the_buffer(machine) // work.keys
    most = np.where(rows >= vectors, rows, np.maximum(rows // 2, work.group))
    most = np.minimum(most, machine.units.fetcher.query_block) // work.group * work.group
    block = np.minimum(vectors, most)
    fetched = np.where(work.queries > 1, work.keys, work.values)
    return Tiling(
        np.where(cut, block, 0),
        np.where(cut, -(-vectors // np.maximum(block, 1)), 1),
        np.where(cut, -(-work.keys // key), 1),
        np.where(cut, -(-fetched // value), 1),
    )


def _check_buffers(machine: SpattenMachine, work: AttentionWork, key: int, value: int) -> None:
    if machine.units.score_buffer is None:
        size, most = -(-work.head_size * machine.element_bits // 8), int(work.keys.max())
        name, sram = ("key_sram", machine.units.key_sram) if most > key else ("value_sram", machine.units.value_sram)
        raise ValueError(
            f"{machine.name}: units.{name}.bytes: one of {sram.buffers} buffers must hold the {most * size} bytes of "
            f"{most} vectors of {work.head_size} elements, got {sram.bytes // sram.buffers}"
        )
    if min(key, value) < 1:
        raise ValueError(f"{machine.name}: units: a buffer of K and V must hold a vector of {work.head_size} elements")
    if work.key_lsb_bits and work.needs_lsb.any():
        raise ValueError(
            f"{machine.name}: {work.name}: key_lsb_bits must be 0 for more than {key} keys (LSBs would need K tiles "
            f"that have left the buffer), got {work.key_lsb_bits}"
        )


def _check_group(machine: SpattenMachine, work: AttentionWork) -> None:
    """All query heads of a token's group together: their importance is summed."""
    longest, held = int(work.keys.max()), scores_of_the_buffer(machine)
    needed = -(-work.group * longest * machine.element_bits // 8)
    if held < work.group * longest:
        raise ValueError(
            f"{machine.name}: units.score_buffer.bytes: must hold the scores of {work.group} queries of {longest} "
            f"keys, {needed} bytes, got {held * machine.element_bits // 8}"
        )
    if machine.units.fetcher.query_block < work.group:
        raise ValueError(
            f"{machine.name}: units.fetcher.query_block: must hold the {work.group} queries of a group, "
            f"got {machine.units.fetcher.query_block}"
        )
