"""From a machine's memory section and its DRAM standard to the controller's integers."""

from typing import Any

from pydantic import ValidationError

from accel.address_map import MAP_NAMES
from accel.controller import Controller
from accel.fault import nearest, shown
from accel.machine import load_standard
from accel.memory import Memory, Standard, address_fields, address_xor
from accel.rules import words
from accel.standard import PICOSECONDS
from sim.dram.spec import DramSpec, IdealSpec

_CHOICES = ("channels", "fifo_depth", "address_map")
_SHORT = {"map": "address_map"}


def period_ps(clock_hz: int) -> int:
    """Clock period, rounded to whole picoseconds: clocks meet at integer times (at 1 GHz within 0.05 %)."""
    return max(1, round(PICOSECONDS / clock_hz))


def dram_spec(memory: Memory, standard: Standard, core_clock_hz: int) -> DramSpec:
    """The controller of `sim.dram` for that memory, driven by a core at that clock."""
    return _spec(memory, standard, period_ps(core_clock_hz))


def default_spec(standard_name: str, **overrides: Any) -> DramSpec:
    """The controller of a standard (`ddr4`, `ddr4:3200AA`) as its file configures it, driven at the memory's clock.

    overrides   channels, fifo_depth, address_map (or map: a name, or a list of fields), and the controller's:
                scheduler, page, refresh, row_hit_cap, read_queue, write_queue, write_high, write_low,
                outstanding_reads. Raises ValueError: where, rule, value, and the nearest name
    """
    standard = load_standard(standard_name)
    return _spec(default_memory(standard, **overrides), standard, standard.clock_period_ps)


def default_memory(standard: Standard, **overrides: Any) -> Memory:
    """The memory section that `default_spec` uses."""
    chosen = {_SHORT.get(name, name): value for name, value in overrides.items()}
    allowed = (*_CHOICES, *Controller.model_fields)
    unknown = [name for name in chosen if name not in allowed]
    if unknown:
        raise ValueError(f"no option {unknown[0]!r} of a DRAM ({nearest(unknown[0], allowed)})")
    if isinstance(chosen.get("address_map"), str) and chosen["address_map"] not in MAP_NAMES:
        raise ValueError(f"no address map {chosen['address_map']!r} ({nearest(chosen['address_map'], MAP_NAMES)})")
    default = standard.default.model_dump()
    default["controller"] |= {name: value for name, value in chosen.items() if name in Controller.model_fields}
    default |= {name: value for name, value in chosen.items() if name in _CHOICES}
    return _checked({"standard": standard.name, "configuration": "default", "request_lanes": 0, **default})


def _checked(values: dict[str, Any]) -> Memory:
    try:
        return Memory.model_validate(values)
    except ValidationError as error:
        raise ValueError("\n".join(_lines(error))) from None


def _lines(error: ValidationError) -> list[str]:
    """One line an option: of a union's members, the one that looked deepest says why."""
    names = {*_CHOICES, *Controller.model_fields}
    deepest = {}
    for entry in sorted(error.errors(), key=lambda entry: len(entry["loc"])):
        option = next(str(part) for part in reversed(entry["loc"]) if part in names)
        deepest[option] = f"{option}: {words(entry)}, got {shown(entry['input'])}"
    return list(deepest.values())


def _spec(memory: Memory, standard: Standard, core_ps: int) -> DramSpec:
    o, c = standard.organisation, memory.controller
    if c.refresh == "per_bank" and not standard.timing.refresh_bank_cycles:
        allowed = "allowed: all_bank, none"
        raise ValueError(f"refresh: {standard.name} has no refresh of single banks ({allowed}), got per_bank")
    delays = {name.removesuffix("_cycles"): value for name, value in standard.timing.model_dump().items()}
    return DramSpec(
        channels=memory.channels,
        pseudo_channels=o.pseudo_channels,
        bank_groups=o.bank_groups,
        banks_per_group=o.banks_per_group,
        burst_bytes=o.burst_bytes,
        fields=address_fields(memory, standard),
        xor=address_xor(memory, standard),
        memory_ps=standard.clock_period_ps,
        core_ps=core_ps,
        **delays,
        **standard.bus.model_dump(),
        **c.model_dump(exclude={"refresh"}),
        refresh_mode=c.refresh,
        fifo_depth=memory.fifo_depth,
        request_lanes=memory.request_lanes,
    )


def peak_bytes_per_s(memory: Memory, standard: Standard) -> float:
    """Data-bus limit of all channels."""
    o = standard.organisation
    bursts = memory.channels * o.pseudo_channels / standard.timing.burst_cycles
    return bursts * o.burst_bytes * PICOSECONDS / standard.clock_period_ps


def memory_of(memory: Memory, standard: Standard, clock_hz: int, kind: str) -> DramSpec | IdealSpec:
    """The controller ("dram"), or a memory of the same peak without banks ("ideal")."""
    if kind == "dram":
        return dram_spec(memory, standard, clock_hz)
    t = standard.timing
    latency = -(-(t.rcd_read_cycles + t.read_latency_cycles) * clock_hz // standard.clock_hz)
    return IdealSpec(int(peak_bytes_per_s(memory, standard)), latency, standard.organisation.burst_bytes, clock_hz)
