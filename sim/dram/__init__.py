"""The DRAM controller: one jitted state machine for both engines.

A slice (many bursts) enters through `submit`, which returns when its last request has been issued; its data
come back in time order through `next_return`. Both advance the channels only as far as no later request can
interfere, so the result does not depend on how often they are called.

Front end: one slice at a time, `request_lanes` bursts a cycle in order into one FIFO per pseudo-channel, at most
one request per channel a cycle; a full FIFO holds up everything behind it (head of line).
Controller: each pseudo-channel picks from the `queue_depth` oldest requests: first the oldest row hit that can
go soonest, then row commands for the oldest request of each bank; a row is not closed while an older request
hits it (FR-FCFS, open page). ACT holds the row-command bus that the pseudo-channels of a channel share.
The row command that could go soonest is chosen before the bus is looked at, and stays chosen until a command changes
what the banks need.
Constraints: tRCD, tRP, tRAS, tCCD_S/L, tRRD_S/L, tFAW, tRTP, tWR, tWTR_S/L, read-to-write, all-bank refresh.
Left out: separate write queue and watermarks, the shared column-command bus, per-bank refresh, power-down.
"""

from sim.dram.controller import advance
from sim.dram.front import finish_memory, next_return, submit
from sim.dram.layout import COMMANDS, FOREVER, DramSpec, IdealSpec, MemoryState, start_memory

__all__ = [
    "COMMANDS",
    "FOREVER",
    "DramSpec",
    "IdealSpec",
    "MemoryState",
    "advance",
    "finish_memory",
    "next_return",
    "start_memory",
    "submit",
]
