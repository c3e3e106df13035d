"""What the DRAM controller is told, as plain integers, and the form of its command trace."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SCHEDULERS = ("fr_fcfs", "fr_fcfs_unprotected", "fcfs")
PAGES = ("open", "closed")
REFRESHES = ("all_bank", "per_bank", "none")
# a command trace is an int64 array, a row per command in the order of issue within each channel:
TRACE_COLUMNS = ("tick", "channel", "pseudo_channel", "command", "bank", "row")
# "command" is an index into COMMAND_NAMES; "bank" counts within the pseudo-channel, group by group (-1: all banks);
# "row" is the row opened, read or written (-1 for the others)
COMMAND_NAMES = ("ACT", "PRE", "PREA", "RD", "WR", "RDA", "WRA", "REF", "REFB")
ACT, PRE, PREA, RD, WR, RDA, WRA, REF, REFB = range(len(COMMAND_NAMES))
CommandTrace = NDArray[np.int64]


@dataclass(frozen=True)
class DramSpec:
    """A DRAM and its controller; all timings in cycles of the memory clock (nCK).

    The controller counts in ticks: `edges` of them a memory cycle (2 where commands may use the falling edge: HBM3).

    fields      (name, bits) from the lowest address bit above the burst; names channel, pseudo_channel, bank_group,
                bank, column, row. A number of channels that is no power of two is taken out by division where
                ("channel", 0) stands
    xor         (field, bit, other, other_bit): that bit of the field is inverted where the other one's bit is set
    one_bus     row and column commands share one command bus (DDR, GDDR, LPDDR); False: one bus each (HBM).
                Pseudo-channels of a channel share its buses
    *_ticks     how long a command holds its bus
    """

    channels: int
    pseudo_channels: int
    bank_groups: int
    banks_per_group: int
    burst_bytes: int
    fields: tuple[tuple[str, int], ...]
    memory_ps: int
    core_ps: int
    # data and column commands
    burst: int
    read_latency: int
    write_latency: int
    ccd_short: int
    ccd_long: int
    read_to_write: int
    write_to_read_short: int  # from the end of the write data
    write_to_read_long: int
    # row commands
    rcd_read: int
    rcd_write: int
    precharge: int
    ras: int
    row_cycle: int
    rrd_short: int
    rrd_long: int
    faw: int
    read_to_precharge: int
    write_recovery: int  # from the end of the write data
    refresh: int
    refresh_interval: int
    ccd_short_write: int = 0  # 0: as for reads
    ccd_long_write: int = 0
    precharge_to_precharge: int = 1
    refresh_bank: int = 0  # REFB of one bank to ACT of that bank
    refresh_bank_gap: int = 0  # REFB to ACT or REFB of another bank
    # command buses
    one_bus: bool = False
    edges: int = 1
    activate_ticks: int = 1
    row_ticks: int = 1
    column_ticks: int = 1
    xor: tuple[tuple[str, int, str, int], ...] = ()
    # controller
    scheduler: str = "fr_fcfs"
    page: str = "open"
    refresh_mode: str = "all_bank"
    row_hit_cap: int = 0  # column commands of one activation while an older request waits for another row; 0: no limit
    read_queue: int = 64  # a pseudo-channel, pooled over those of a channel
    write_queue: int = 32
    write_high: float = 0.8  # writes are drained when their queue is fuller than this ...
    write_low: float = 0.2  # ... until it is emptier than this and reads wait
    outstanding_reads: int = 64  # a pseudo-channel: accepted, data not yet returned
    fifo_depth: int = 0  # bursts in front of each pseudo-channel; 0: unbounded
    request_lanes: int = 0  # bursts that enter the FIFOs a memory cycle, in order (plans only)


@dataclass(frozen=True)
class IdealSpec:
    """A memory without banks or bursts: `transfer_bytes` in `transfer_cycles` core cycles, after `latency_cycles`."""

    transfer_bytes: int
    latency_cycles: int
    burst_bytes: int
    transfer_cycles: int = 1
