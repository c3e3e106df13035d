"""DRAM as data: the standard (`standards/*.yaml`) and how a machine uses it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from accel.quantities import PowerOfTwo

Count = Annotated[int, Field(ge=1)]
Cycles = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
AddressField = Annotated[
    str, Field(pattern=r"^(channel|pseudo_channel|bank_group|bank|column|row)(:[1-9][0-9]?)?$")
]


class Organisation(BaseModel):
    """One channel of a standard; `row_bytes` is one row of one pseudo-channel."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    pseudo_channels: PowerOfTwo
    bank_groups: PowerOfTwo
    banks_per_group: PowerOfTwo
    rows: PowerOfTwo
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
    two lowest column bits that are left, `column` all that are left. Every field must be used up
    (checked when the machine meets the standard).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    standard: str
    channels: PowerOfTwo
    fifo_depth: Count
    queue_depth: Count
    request_lanes: Count
    address_map: Annotated[tuple[AddressField, ...], Field(min_length=1)]
