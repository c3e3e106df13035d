"""The DRAM controller: one jitted state machine for plans (both engines) and for streams of requests.

A plan's slice (many bursts) enters through `submit`, which returns when its last request has been issued; its data
come back in time order through `next_return`. A stream enters through `sim.dram.stream`. Channels are advanced only
as far as no later request can interfere, so the result does not depend on how often that is done.

Of a channel's pseudo-channels each has a FIFO in front; the read and write queues, the command buses and the choice
are the channel's. A tick: refresh due, column slot, row slot (on one bus: one command), offers of the FIFOs.
Column slot: the oldest ready command among requests whose ACT went out, then among row hits. Row slot: a pending
refresh, else the oldest ready ACT or PRE. Which row commands are allowed is the scheduler's (`DramSpec.scheduler`).
While a refresh of all banks is pending its channel opens no row and serves no hit; one of a single bank withholds that.
Constraints: tRCD, tRP, tRAS, tRC, tCCD_S/L, tRRD_S/L, tFAW, tRTP, tWR, tWTR_S/L, read to write, tPPD, refresh of all
banks or one, the command buses with commands of several ticks and half cycles.
Left out: ranks that share a bus, forwarding of queued writes to reads, power-down, postponed refreshes.
"""

from sim.dram.controller import advance
from sim.dram.front import NO_TRACE, finish_memory, next_return, submit
from sim.dram.layout import COUNTED, FOREVER, MemoryState, start_memory
from sim.dram.spec import DramSpec, IdealSpec

__all__ = [
    "COUNTED",
    "FOREVER",
    "NO_TRACE",
    "DramSpec",
    "IdealSpec",
    "MemoryState",
    "advance",
    "finish_memory",
    "next_return",
    "start_memory",
    "submit",
]
