"""Section of a fit: energy (`dataflow/gpu/energy.py`), and what carries it from one GPU to another.

A number of logic carries by the node and by the voltage that the clock needs; DRAM by the type of memory; the way from
memory to multiprocessors is wires, which hardly scale with the node: it falls with the voltage alone.
"""

from collections.abc import Container, Mapping
from math import exp, log
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from accel.gpu.machine import GpuMachine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_STRICT = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
Clock = TypeVar("Clock", float, "NDArray[np.float64]")
NotNegative = Annotated[float, Field(ge=0)]

# energy of logic relative to 45 nm, by node; +-30 %
_NODES = ((4, 0.10), (5, 0.10), (7, 0.14), (16, 0.28), (28, 0.50), (45, 1.0))  # recalled: surveys that scale Horowitz
# of the DRAM chips and their interface alone
DEVICE_PJ_PER_BIT: Mapping[str, float] = MappingProxyType(
    {
        "hbm2e": 6.0,  # verified: Micron's comparison of memories
        "hbm3": 4.0,  # recalled: 3.5 to 4.5
        "hbm3e": 4.0,  # recalled: 3.5 to 4.5
        "gddr5x": 8.5,  # recalled: 8 to 9
        "gddr6": 7.5,  # verified: Micron's comparison of memories
        "gddr6x": 7.25,  # verified: Micron's comparison of memories
        "gddr7": 5.5,  # recalled: 5 to 6
    }
)
_VOLTS, _VOLTS_PER_GHZ = 0.45, 0.25  # assumed: 0.8 V at 1.4 GHz, 0.95 V at 2 GHz; GPUs print no such table
LEAST_CLOCK = 0.2  # of `clock_hz`: power alone never lowers it further

# assumed: half the bits, half the energy; an instruction of a thread takes what a multiply-add does, an exponential two
LIKE: dict[str, tuple[tuple[str, float], ...]] = {
    "fp8": (("int8", 1.0), ("fp16", 0.5)),
    "int8": (("fp8", 1.0), ("fp16", 0.5)),
    "int4": (("int8", 0.5), ("fp16", 0.25)),
    "nvfp4": (("fp8", 0.5), ("fp16", 0.25)),
    "half2": (("fp32", 0.5),),
    "int32": (("fp32", 2.0),),
    "special": (("fp32", 4.0),),
}


class EnergyFit(BaseModel):
    """Of one device, in numbers that carry."""

    model_config = _STRICT
    active_share: NotNegative
    """of the board's limit: watts above idle while nothing runs, clocks up"""
    path_pj_per_bit: NotNegative
    """from the DRAM's interface to the L2, beyond what the chips of this type take (`DEVICE_PJ_PER_BIT`), at the
    machine's clock"""
    l2_pj_per_bit: NotNegative
    """from the L2 to a multiprocessor, at the machine's clock"""
    operation_pj: dict[str, NotNegative]
    """an operation of a unit (fields of `Rates`; a multiply-add counts two) on data that changes, at 45 nm and 1 V"""


def node_scale(process_nm: float) -> float:
    """Energy of logic relative to 45 nm; between nodes along a line in logarithms."""
    inside = min(max(process_nm, _NODES[0][0]), _NODES[-1][0])
    high = next(place for place, (size, _) in enumerate(_NODES) if place and inside <= size)
    (small, low), (large, top) = _NODES[high - 1 : high + 1]
    return exp(log(low) + log(top / low) * log(inside / small) / log(large / small))


def square_volts(clock_hz: Clock) -> Clock:
    """Of the voltage that a clock (a number or an array) needs: energy of logic is in proportion to it."""
    return (_VOLTS + _VOLTS_PER_GHZ * clock_hz / 1e9) ** 2


def operation_j(machine: GpuMachine, fit: EnergyFit, unit: str) -> float:
    """Joules of one operation at the machine's clock. What was not fitted takes half of twice the bits, the same as
    its like, or 0."""
    like, share = as_fitted(unit, fit.operation_pj)
    found = share * fit.operation_pj.get(like, 0.0)
    return 1e-12 * found * node_scale(machine.process_nm) * square_volts(float(machine.clock_hz))


def as_fitted(unit: str, fitted: Container[str]) -> tuple[str, float]:
    """The unit among `fitted` whose energy it takes, and how many of its operations: itself, or the first of LIKE."""
    like = ((unit, 1.0), *LIKE.get(unit, ()))
    return next(((other, share) for other, share in like if other in fitted), (unit, 0.0))


def device_byte_j(machine: GpuMachine) -> float:
    """Joules of one byte in DRAM chips and their interface: no clock of the GPU changes them."""
    return 8e-12 * DEVICE_PJ_PER_BIT[machine.memory.kind]


def byte_j(machine: GpuMachine, fit: EnergyFit) -> float:
    """Joules of one byte between DRAM and L2 at the machine's clock."""
    return device_byte_j(machine) + 8e-12 * fit.path_pj_per_bit
