"""Energy of a DRAM part as data: currents of its data sheet, or energies by event."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Amount = Annotated[float, Field(ge=0)]
PjPerBit = Annotated[float, Field(ge=0)] | None  # null: no public source, left out


class Supply(BaseModel):
    """One supply of one device: its voltage and the data sheet's currents (JEDEC measurement loops)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    volts: Annotated[float, Field(gt=0)]
    idd0_ma: Amount  # activate and precharge, one bank, every tRC
    idd2n_ma: Amount  # all banks precharged
    idd3n_ma: Amount  # a bank open
    idd4r_ma: Amount  # reads without a gap
    idd4w_ma: Amount  # writes without a gap
    idd5b_ma: Amount  # refreshes without a gap


class Currents(BaseModel):
    """DRAMPower's method; `devices` answer to one pseudo-channel together, and their currents add up.

    left_out says in words what the figures do not hold.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    method: Literal["currents"]
    source: str
    devices: Annotated[int, Field(ge=1, le=64)]
    supplies: Annotated[tuple[Supply, ...], Field(min_length=1)]
    io_read_pj_per_bit: PjPerBit
    io_write_pj_per_bit: PjPerBit
    left_out: str


class Events(BaseModel):
    """Energy by event; bits are data bits moved, refresh (of all banks) and background are of a pseudo-channel.

    activate_pj holds the precharge that follows. left_out says in words what the figures do not hold.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    method: Literal["events"]
    source: str
    activate_pj: Amount
    array_pj_per_bit: Amount
    transport_pj_per_bit: Amount
    io_pj_per_bit: Amount
    refresh_pj: Amount | None
    background_active_w: Amount | None
    background_precharged_w: Amount | None
    left_out: str


DramEnergy = Annotated[Currents | Events, Field(discriminator="method")]
