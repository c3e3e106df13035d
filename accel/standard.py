"""A DRAM standard as data: `standards/<name>.yaml`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from accel.address_map import AddressMap
from accel.controller import Controller
from accel.dram_energy import DramEnergy
from accel.fault import nearest
from accel.quantities import PowerOfTwo

Count = Annotated[int, Field(ge=1, le=1 << 24)]
Cycles = Annotated[int, Field(ge=0, le=1 << 24)]
Period = Annotated[int, Field(ge=1, le=1_000_000)]
PICOSECONDS = 1_000_000_000_000
MAX_BANKS = 64


class Organisation(BaseModel):
    """One channel of a standard; `row_bytes` is one row of one pseudo-channel."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    pseudo_channels: PowerOfTwo
    bank_groups: PowerOfTwo
    banks_per_group: PowerOfTwo
    rows: Annotated[PowerOfTwo, Field(le=1 << 18)]
    row_bytes: PowerOfTwo
    burst_bytes: PowerOfTwo

    @field_validator("banks_per_group")
    @classmethod
    def _banks_of_a_channel(cls, banks: int, info: ValidationInfo) -> int:
        groups = info.data.get("pseudo_channels", 1) * info.data.get("bank_groups", 1)
        if groups * banks > MAX_BANKS:
            text = f"must be at most {max(1, MAX_BANKS // groups)}: a channel has at most {MAX_BANKS} banks"
            raise PydanticCustomError("banks", "{text}", {"text": text})
        return banks

    @field_validator("burst_bytes")
    @classmethod
    def _within_a_row(cls, burst: int, info: ValidationInfo) -> int:
        if burst > info.data.get("row_bytes", burst):
            raise PydanticCustomError("burst", "must be at most row_bytes")
        return burst


class Bus(BaseModel):
    """Command buses of a channel; a tick is the memory cycle divided by `edges`.

    one_bus   row and column commands share one bus (DDR, GDDR, LPDDR); false: one bus each (HBM)
    edges     2 where precharges may use the falling edge (HBM3)
    *_ticks   how long an activate, another row command, a column command holds its bus
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    one_bus: bool
    edges: Literal[1, 2]
    activate_ticks: Annotated[int, Field(ge=1, le=8)]
    row_ticks: Annotated[int, Field(ge=1, le=8)]
    column_ticks: Annotated[int, Field(ge=1, le=8)]


class Timing(BaseModel):
    """Delays in cycles of the memory clock (nCK); names as in the JEDEC standards.

    write_to_read_* and write_recovery count from the end of the write data; refresh_bank is the refresh of one
    bank, refresh_bank_gap the delay from it to an activate or refresh of another bank.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    burst_cycles: Count
    read_latency_cycles: Count
    write_latency_cycles: Count
    ccd_short_cycles: Count
    ccd_long_cycles: Count
    ccd_short_write_cycles: Count
    ccd_long_write_cycles: Count
    read_to_write_cycles: Count
    write_to_read_short_cycles: Count
    write_to_read_long_cycles: Count
    rcd_read_cycles: Count
    rcd_write_cycles: Count
    precharge_cycles: Count
    ras_cycles: Count
    row_cycle_cycles: Count
    rrd_short_cycles: Count
    rrd_long_cycles: Count
    faw_cycles: Count
    read_to_precharge_cycles: Count
    write_recovery_cycles: Count
    precharge_to_precharge_cycles: Count
    refresh_cycles: Count
    refresh_interval_cycles: Count
    refresh_bank_cycles: Cycles
    refresh_bank_gap_cycles: Cycles

    @field_validator("refresh_interval_cycles")
    @classmethod
    def _leaves_time_between_refreshes(cls, interval: int, info: ValidationInfo) -> int:
        """A controller that refreshes without end serves nobody."""
        refresh = info.data.get("refresh_cycles", 0)
        if interval < 2 * refresh:
            raise PydanticCustomError("refresh", "must be at least twice refresh_cycles")
        return interval


def _delay(name: str) -> str:
    if name not in Timing.model_fields:
        raise PydanticCustomError("delay", "{text}", {"text": f"unknown key ({nearest(name, Timing.model_fields)})"})
    return name


class Speed(BaseModel):
    """Another speed grade: its clock, and the delays that differ from `timing`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    clock_period_ps: Period
    timing: dict[Annotated[str, AfterValidator(_delay)], Count]


class Default(BaseModel):
    """How the part is run where no machine says it; `fifo_depth` 0: unbounded."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    channels: Annotated[int, Field(ge=1, le=1024)]
    fifo_depth: Annotated[int, Field(ge=0, le=65536)]
    address_map: AddressMap
    controller: Controller


class Standard(BaseModel):
    """A DRAM part at one speed.

    nearest_preset   which public preset stands in where no public source holds the part; null: the part itself
    speed            name of the speed grade of `clock_period_ps` and `timing`; `speeds` holds others
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    source: str
    nearest_preset: str | None
    speed: str
    clock_period_ps: Period
    organisation: Organisation
    bus: Bus
    timing: Timing
    speeds: dict[str, Speed]
    energy: DramEnergy
    default: Default

    @model_validator(mode="after")
    def _every_speed_is_one(self) -> "Standard":
        for name in self.speeds:
            delays = self.timing.model_dump() | self.speeds[name].timing
            if delays["refresh_interval_cycles"] < 2 * delays["refresh_cycles"]:
                text = f"speed {name}: refresh_interval_cycles must be at least twice refresh_cycles"
                raise PydanticCustomError("speed", "{text}", {"text": text})
        return self

    @property
    def clock_hz(self) -> int:
        """The clock's frequency, rounded; the period is the exact fact."""
        return round(PICOSECONDS / self.clock_period_ps)

    @property
    def speed_names(self) -> tuple[str, ...]:
        """All speed grades, the default first."""
        return (self.speed, *self.speeds)

    def at(self, speed: str) -> "Standard":
        """The part at another speed grade. Raises ValueError with the nearest name."""
        if speed == self.speed:
            return self
        if speed not in self.speeds:
            raise ValueError(f"no speed {speed!r} of {self.name} ({nearest(speed, self.speed_names)})")
        other = self.speeds[speed]
        timing = self.timing.model_copy(update=other.timing)
        return self.model_copy(update={"speed": speed, "clock_period_ps": other.clock_period_ps, "timing": timing})
