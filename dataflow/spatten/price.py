"""Energy and area of a SpAtten run: counters x the machine's energy per action, first-order (see spatten.yaml)."""

import numpy as np
from numpy.typing import NDArray

from accel.spatten import Cost, SpattenMachine
from dataflow.spatten.draft import (
    ACCUMULATIONS,
    COMPARISONS,
    K_READ,
    K_WRITE,
    MACS_PV,
    MACS_QK,
    SCORE_READ,
    SCORE_WRITE,
    SCORES,
    V_READ,
    V_WRITE,
)

PJ = 1e-12


def sram_bytes(machine: SpattenMachine, counters: NDArray[np.int64], head_size: int) -> dict[str, int]:
    """Bytes in and out of the K and V memories; on chip every element has `element_bits`."""
    vector = -(-head_size * machine.element_bits // 8)
    names = {"key_write": K_WRITE, "key_read": K_READ, "value_write": V_WRITE, "value_read": V_READ}
    moved = {name: int(counters[i]) * vector for name, i in names.items()}
    if machine.units.score_buffer:
        scores = {"score_write": SCORE_WRITE, "score_read": SCORE_READ}
        moved |= {name: -(-int(counters[i]) * machine.element_bits // 8) for name, i in scores.items()}
    return moved


def on_chip_energy_j(
    machine: SpattenMachine, counters: NDArray[np.int64], sram: dict[str, int], dram_bytes: int
) -> dict[str, float]:
    """Energy of each part: actions x picojoules an action."""
    u = machine.units
    actions: dict[str, tuple[int, Cost]] = {
        "query_key": (int(counters[MACS_QK]), u.query_key.cost),
        "prob_value": (int(counters[MACS_PV]), u.prob_value.cost),
        "softmax": (int(counters[SCORES]), u.softmax.cost),
        "topk": (int(counters[COMPARISONS]), u.topk.cost),
        "accumulator": (int(counters[ACCUMULATIONS]), u.accumulator.cost),
        "fetcher": (dram_bytes, u.fetcher.cost),
        "key_sram": (sram["key_write"] + sram["key_read"], u.key_sram.cost),
        "value_sram": (sram["value_write"] + sram["value_read"], u.value_sram.cost),
    }
    if u.score_buffer:
        actions["score_buffer"] = (sram["score_write"] + sram["score_read"], u.score_buffer.cost)
    return {name: count * cost.energy_pj * PJ for name, (count, cost) in actions.items()}


def area_mm2(machine: SpattenMachine) -> dict[str, float]:
    """Area of each part of all pipelines, linear in its lanes, bytes or channels; DRAM is off chip."""
    u = machine.units
    sizes: dict[str, tuple[float, Cost]] = {
        "fetcher": (machine.memory.channels, u.fetcher.cost),
        "query_key": (u.query_key.multipliers, u.query_key.cost),
        "softmax": (u.softmax.lanes, u.softmax.cost),
        "topk": (u.topk.comparators * u.topk.engines / 2, u.topk.cost),
        "prob_value": (u.prob_value.multipliers, u.prob_value.cost),
        "accumulator": (u.softmax.lanes, u.accumulator.cost),
        "key_sram": (u.key_sram.bytes, u.key_sram.cost),
        "value_sram": (u.value_sram.bytes, u.value_sram.cost),
    }
    if u.score_buffer:
        sizes["score_buffer"] = (u.score_buffer.bytes, u.score_buffer.cost)
    copies = dict.fromkeys(sizes, machine.pipelines) | {"fetcher": 1}
    return {name: copies[name] * size / cost.at * cost.area_mm2 for name, (size, cost) in sizes.items()}
