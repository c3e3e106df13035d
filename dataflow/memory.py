"""From a machine's memory section and its DRAM standard to the controller's integers, and counts to energy."""

from accel.memory import Memory, Standard, address_fields
from sim.dram import DramSpec

PICOSECONDS = 1_000_000_000_000


def period_ps(clock_hz: int) -> int:
    """Clock period, rounded to whole picoseconds: clocks meet at integer times (at 1 GHz within 0.05 %)."""
    return max(1, round(PICOSECONDS / clock_hz))


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
        memory_ps=period_ps(standard.clock_hz),
        core_ps=period_ps(core_clock_hz),
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
