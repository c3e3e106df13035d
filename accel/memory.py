"""DRAM as data: the standard (`standards/*.yaml`) and how a machine uses it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from accel.quantities import PowerOfTwo

Count = Annotated[int, Field(ge=1)]
Cycles = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
AddressField = Annotated[str, Field(pattern=r"^(channel|pseudo_channel|bank_group|bank|column|row)(:[1-9][0-9]?)?$")]


class Organisation(BaseModel):
    """One channel of a standard; `row_bytes` is one row of one pseudo-channel."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    pseudo_channels: PowerOfTwo
    bank_groups: Annotated[PowerOfTwo, Field(le=8)]  # the controller holds up to 64 banks of 2**18 rows
    banks_per_group: Annotated[PowerOfTwo, Field(le=8)]
    rows: Annotated[PowerOfTwo, Field(le=1 << 18)]
    row_bytes: PowerOfTwo
    burst_bytes: PowerOfTwo


class Timing(BaseModel):
    """Delays in cycles of the memory clock (nCK); names as in the JEDEC standards."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    burst_cycles: Count
    read_latency_cycles: Count
    write_latency_cycles: Count
    rcd_read_cycles: Count
    rcd_write_cycles: Count
    precharge_cycles: Count
    ras_cycles: Count
    ccd_short_cycles: Count
    ccd_long_cycles: Count
    rrd_short_cycles: Count
    rrd_long_cycles: Count
    faw_cycles: Count
    read_to_precharge_cycles: Count
    write_recovery_cycles: Count
    write_to_read_short_cycles: Count
    write_to_read_long_cycles: Count
    read_to_write_cycles: Count
    refresh_cycles: Count
    refresh_interval_cycles: Count
    activate_bus_cycles: Count

    @field_validator("refresh_interval_cycles")
    @classmethod
    def _leaves_time_between_refreshes(cls, interval: int, info: ValidationInfo) -> int:
        """A controller that refreshes without end serves nobody."""
        refresh = info.data.get("refresh_cycles", 0)
        if interval < 2 * refresh:
            raise PydanticCustomError("refresh", "must be at least twice refresh_cycles")
        return interval


class DramEnergy(BaseModel):
    """Energy by event; bits are data bits moved."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    activate_pj: Amount
    array_pj_per_bit: Amount
    transport_pj_per_bit: Amount
    io_pj_per_bit: Amount


class Standard(BaseModel):
    """A DRAM standard at one speed: `standards/<name>.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    source: str
    clock_hz: Annotated[int, Field(ge=1)]
    organisation: Organisation
    timing: Timing
    energy: DramEnergy


class Memory(BaseModel):
    """How a machine uses its DRAM.

    address_map lists the address fields above the byte-in-burst bits, lowest first: `column:2` takes the
    two lowest column bits that are left, `column` all that are left. Every field must be used up.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    standard: str
    channels: PowerOfTwo
    fifo_depth: Annotated[int, Field(ge=1, le=65536)]
    queue_depth: Annotated[int, Field(ge=1, le=64)]
    request_lanes: Count
    address_map: Annotated[tuple[AddressField, ...], Field(min_length=1)]


def _bits(count: int) -> int:
    return count.bit_length() - 1


def _available_bits(memory: Memory, standard: Standard) -> dict[str, int]:
    o = standard.organisation
    return {
        "channel": _bits(memory.channels),
        "pseudo_channel": _bits(o.pseudo_channels),
        "bank_group": _bits(o.bank_groups),
        "bank": _bits(o.banks_per_group),
        "column": _bits(o.row_bytes // o.burst_bytes),
        "row": _bits(o.rows),
    }


def address_fields(memory: Memory, standard: Standard) -> tuple[tuple[str, int], ...]:
    """(field, bits) from the lowest bit above the burst. Raises ValueError where the map does not fit the standard."""
    left = _available_bits(memory, standard)
    fields = []
    for entry in memory.address_map:
        name, _, wanted = entry.partition(":")
        bits = int(wanted) if wanted else left[name]
        if bits > left[name]:
            raise ValueError(f"{entry!r} takes {bits} bits, {left[name]} are left of {name}")
        left[name] -= bits
        fields.append((name, bits))
    unused = [f"{name}:{bits}" for name, bits in left.items() if bits]
    total = sum(bits for _, bits in fields)
    if total > 32:
        raise ValueError(f"must have at most 32 bits above the burst, got {total}")
    if unused:
        raise ValueError(f"must use every address bit, {', '.join(unused)} left over")
    return tuple(fields)
