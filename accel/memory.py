"""How a machine uses its DRAM; the part itself is a `Standard`."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from accel.address_map import AddressMap, Xor, XorRule, check_xor, named_map, parse_xor, resolved
from accel.controller import Controller
from accel.standard import Organisation, Standard, Timing

__all__ = ["Controller", "Memory", "Organisation", "Standard", "Timing", "address_fields", "address_xor"]


class Memory(BaseModel):
    """DRAM of a machine.

    standard       name of a DRAM standard, with a speed grade where it is not the default one: `ddr4:3200AA`
    configuration  a name for these choices, shown beside results
    compare_with   a machine with the same parts and another DRAM configuration: results show it beside this one
    channels       any number; one that is no power of two is taken out of the address by division
    fifo_depth     bursts that wait in front of each pseudo-channel; a full FIFO holds up those behind it
    request_lanes  bursts that enter the FIFOs a memory cycle
    address_map    a list of fields, lowest first, or the name of a map (`accel.address_map`)
    xor            rules like `bank_group:0 ^ row:2`, besides those of a named map
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    standard: str
    configuration: Annotated[str, Field(min_length=1)]
    compare_with: str | None = None
    channels: Annotated[int, Field(ge=1, le=1024)]
    fifo_depth: Annotated[int, Field(ge=0, le=65536)]
    request_lanes: Annotated[int, Field(ge=0, le=65536)]
    address_map: AddressMap
    xor: tuple[XorRule, ...] = ()
    controller: Controller


def _bits(count: int) -> int:
    return count.bit_length() - 1


def _available_bits(channels: int, o: Organisation) -> dict[str, int]:
    return {
        "channel": 0 if channels & (channels - 1) else _bits(channels),
        "pseudo_channel": _bits(o.pseudo_channels),
        "bank_group": _bits(o.bank_groups),
        "bank": _bits(o.banks_per_group),
        "column": _bits(o.row_bytes // o.burst_bytes),
        "row": _bits(o.rows),
    }


def _entries(memory: Memory, standard: Standard) -> tuple[tuple[str, ...], tuple[Xor, ...]]:
    bits = _available_bits(memory.channels, standard.organisation)
    if isinstance(memory.address_map, str):
        return named_map(memory.address_map, bits, standard.organisation.burst_bytes)
    return memory.address_map, ()


def address_fields(memory: Memory, standard: Standard) -> tuple[tuple[str, int], ...]:
    """(field, bits) from the lowest bit above the burst; ("channel", 0) where channels are divided out.

    Raises ValueError where the map does not fit the standard.
    """
    bits = _available_bits(memory.channels, standard.organisation)
    return resolved(_entries(memory, standard)[0], bits, memory.channels)


def address_xor(memory: Memory, standard: Standard) -> tuple[Xor, ...]:
    """(field, bit, other, other_bit) of the map; raises ValueError where they do not fit the standard."""
    rules = (*_entries(memory, standard)[1], *map(parse_xor, memory.xor))
    check_xor(rules, _available_bits(memory.channels, standard.organisation))
    return rules
