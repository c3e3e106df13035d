"""From a machine's memory section and its DRAM standard to the controller's integers, and counts to energy."""

from accel.memory import Memory, Standard
from sim.dram import DramSpec

PICOSECONDS = 1_000_000_000_000


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
            raise ValueError(f"memory.address_map: {entry!r} takes {bits} bits, {left[name]} are left of {name}")
        left[name] -= bits
        fields.append((name, bits))
    unused = [f"{name}:{bits}" for name, bits in left.items() if bits]
    if unused:
        raise ValueError(f"memory.address_map: must use every address bit, {', '.join(unused)} left over")
    return tuple(fields)


def period_ps(clock_hz: int, where: str) -> int:
    """Clock period in picoseconds; raises ValueError unless it is a whole number of at least 1."""
    if PICOSECONDS % clock_hz:
        raise ValueError(f"{where}: the period must be a whole number of picoseconds, got {PICOSECONDS / clock_hz:g}")
    return PICOSECONDS // clock_hz


def dram_spec(memory: Memory, standard: Standard, core_clock_hz: int) -> DramSpec:
    """The controller of `sim.dram` for that memory, driven by a core at that clock."""
    o, t = standard.organisation, standard.timing
    return DramSpec(
        channels=memory.channels,
        pseudo_channels=o.pseudo_channels,
        bank_groups=o.bank_groups,
        banks_per_group=o.banks_per_group,
        burst_bytes=o.burst_bytes,
        fields=address_fields(memory, standard),
        fifo_depth=memory.fifo_depth,
        queue_depth=memory.queue_depth,
        request_lanes=memory.request_lanes,
        memory_ps=period_ps(standard.clock_hz, f"{standard.name}.clock_hz"),
        core_ps=period_ps(core_clock_hz, "clock_hz"),
        burst=t.burst_cycles,
        read_latency=t.read_latency_cycles,
        write_latency=t.write_latency_cycles,
        rcd_read=t.rcd_read_cycles,
        rcd_write=t.rcd_write_cycles,
        precharge=t.precharge_cycles,
        ras=t.ras_cycles,
        ccd_short=t.ccd_short_cycles,
        ccd_long=t.ccd_long_cycles,
        rrd_short=t.rrd_short_cycles,
        rrd_long=t.rrd_long_cycles,
        faw=t.faw_cycles,
        read_to_precharge=t.read_to_precharge_cycles,
        write_recovery=t.write_recovery_cycles,
        write_to_read_short=t.write_to_read_short_cycles,
        write_to_read_long=t.write_to_read_long_cycles,
        read_to_write=t.read_to_write_cycles,
        refresh=t.refresh_cycles,
        refresh_interval=t.refresh_interval_cycles,
        activate_bus=t.activate_bus_cycles,
    )


def peak_bytes_per_s(memory: Memory, standard: Standard) -> float:
    """Data-bus limit of all channels."""
    o = standard.organisation
    bursts = memory.channels * o.pseudo_channels / standard.timing.burst_cycles
    return bursts * o.burst_bytes * standard.clock_hz
