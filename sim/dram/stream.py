"""A stream of requests straight into the controller, without a plan: what `tilewright dram run` runs.

Every pseudo-channel has a FIFO of bursts in the order of the stream, which offers its head once a tick. Unbounded ones
(`fifo_depth` 0) let no busy channel hold up another; channels are run as soon as no later request can interfere, so
memory stays flat however long the stream is, as long as it does not leave a pseudo-channel without requests. Finite
ones are filled in order, as in a plan: one that is full holds up everything behind it.
"""

from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

import sim.dram.layout as L
from sim.dram.controller import act, advance, next_time, step, trace_is_full
from sim.dram.front import decode, enter, none_runs_dry, pseudo_number
from sim.dram.jit import index, inlined, jitted
from sim.dram.layout import grow_fifos, pseudo_channels, start_memory
from sim.dram.queues import pseudo_at, push_fifo
from sim.dram.spec import CommandTrace, DramSpec

MODES = ("asap", "timed", "chain")
TRACE_ROOM = 1 << 16


@jitted
def _place(c, m, burst):  # type: ignore[no-untyped-def]
    """(channel's block, pseudo-channel, code) of a burst number."""
    code, channel = decode(c, m, burst)
    return index(c[L.CHANNEL_AT] + channel * c[L.CHANNEL_SIZE]), pseudo_number(c, code), code


@njit(cache=True)
def _longest(c, m, first, bursts):  # type: ignore[no-untyped-def]
    """Entries of the fullest FIFO if all those bursts were pushed now."""
    count = np.zeros(c[L.CHANNELS] * c[L.PSEUDO], np.int64)
    for channel in range(c[L.CHANNELS]):
        for p in range(c[L.PSEUDO]):
            ps = pseudo_at(c, c[L.CHANNEL_AT] + channel * c[L.CHANNEL_SIZE], p)
            count[channel * c[L.PSEUDO] + p] = m[ps + L.FIFO_COUNT]
    for i in range(len(first)):
        for burst in range(first[i], first[i] + bursts):
            code, channel = decode(c, m, burst)
            count[channel * c[L.PSEUDO] + pseudo_number(c, code)] += 1
    return count.max()


@jitted
def _push(c, m, first, bursts, available, write):  # type: ignore[no-untyped-def]
    for i in range(len(first)):
        for burst in range(first[i], first[i] + bursts):
            ch, p, code = _place(c, m, burst)
            push_fifo(c, m, ch, p, code | write[i], available[i] * c[L.EDGES])


@jitted
def _run_safely(c, m, trace, known):  # type: ignore[no-untyped-def]
    """Run each channel while its FIFOs hold requests, or up to `known`, before which no request arrives any more."""
    for channel in range(c[L.CHANNELS]):
        ch = index(c[L.CHANNEL_AT] + channel * c[L.CHANNEL_SIZE])
        while not trace_is_full(m, trace):
            t = next_time(c, m, ch)
            if t > known and not none_runs_dry(c, m, ch):
                break
            step(c, m, trace, ch, t, known)


@inlined
def _is_busy(c, m, ch):  # type: ignore[no-untyped-def]
    """Whether the channel has a read to serve or a request to accept."""
    if m[ch + L.QUEUED] > 0 or m[ch + L.ADMIT_TIME] < L.FOREVER:
        return True
    for p in range(c[L.PSEUDO]):
        ps = pseudo_at(c, ch, p)
        if m[ps + L.FIFO_COUNT] > 0 or m[ps + L.READS_QUEUED] > 0:
            return True
    return False


@jitted
def _finish(c, m, trace):  # type: ignore[no-untyped-def]
    """Run every channel until its last read has its command and its last write is accepted."""
    for channel in range(c[L.CHANNELS]):
        ch = index(c[L.CHANNEL_AT] + channel * c[L.CHANNEL_SIZE])
        while not trace_is_full(m, trace) and _is_busy(c, m, ch):
            step(c, m, trace, ch, next_time(c, m, ch), np.int64(L.FOREVER))


@jitted
def _chain(c, m, trace, first, bursts, write, spare, at, time):  # type: ignore[no-untyped-def]
    """Requests one at a time from number `at` on, the next at `time`; stops when the trace has no `spare` rows left."""
    for i in range(at, len(first)):
        if trace.shape[0]:
            advance(c, m, trace, time + 1)  # what idle channels had to do: refreshes, as many as came due
            if trace.shape[0] - m[L.TRACED] < spare:
                return i, time
        for burst in range(first[i], first[i] + bursts):
            ch, p, code = _place(c, m, burst)
            push_fifo(c, m, ch, p, code | write[i], time)
        for burst in range(first[i], first[i] + bursts):
            ch, p, code = _place(c, m, burst)
            while _is_busy(c, m, ch):
                act(c, m, trace, ch, next_time(c, m, ch))
            m[index(c[L.NEXT_AT] + m[ch + L.NUMBER])] = 0  # not known
        time = m[L.LAST_ACCEPTED] + 1 if write[i] else m[L.LAST_BACK]
    return len(first), time


@jitted
def _enter_in_order(c, m, trace, first, bursts, available, write, spare, at, g, lane):  # type: ignore[no-untyped-def]
    """Requests from number `at` on into finite FIFOs, from tick g on; stops when the trace has no `spare` rows left."""
    for i in range(at, len(first)):
        g = max(g, available[i] * c[L.EDGES])
        if trace.shape[0]:
            _run_safely(c, m, trace, g)  # so that entering issues few commands
            if trace.shape[0] - m[L.TRACED] < spare:
                return i, g, lane
        for burst in range(first[i], first[i] + bursts):
            if lane == c[L.LANES] > 0:
                g, lane = g + c[L.EDGES], 0
            entered = enter(c, m, trace, burst, write[i], g)
            if entered > g:
                g, lane = entered, 0
            lane += 1
    return len(first), g, lane


@dataclass(frozen=True)
class StreamResult:
    """What a stream cost.

    cycles             memory cycles from 0 to the last read's data back or the last write accepted
    commands           by name, until then; a queue of writes may be left undrained
    active_cycles      with a row open or a refresh under way, summed over pseudo-channels
    idle               memory cycles in which a data bus stood idle before a burst or after its last, by cause,
                       summed over pseudo-channels
    latency_histogram  read bursts by latency in whole memory cycles (accepted by the controller to last data)
    last_arrival       memory cycle of the last request in "timed" mode, else 0
    ignored_cycles     whether requests had cycles that the mode does not use
    trace              the commands (`sim.dram.spec.TRACE_COLUMNS`), none unless asked for
    """

    cycles: float
    requests: int
    read_bursts: int
    write_bursts: int
    commands: dict[str, int]
    active_cycles: float
    idle: dict[str, float]
    latency_histogram: NDArray[np.int64]
    mean_read_latency_cycles: float
    trace: CommandTrace
    last_arrival: int = 0
    ignored_cycles: bool = False

    @property
    def row_hit_rate(self) -> float:
        """Share of column commands that needed no activate of their own."""
        columns = self.commands["reads"] + self.commands["writes"]
        return max(0.0, 1 - self.commands["activates"] / columns) if columns else 0.0

    @property
    def undrained_writes(self) -> int:
        """Write bursts that the controller had accepted but not sent when the run ended."""
        return self.write_bursts - self.commands["writes"]

    def latency_percentile(self, percent: float) -> int:
        """Latency in cycles that this share of the read bursts does not exceed."""
        total = self.latency_histogram.sum()
        if not total:
            return 0
        return int(np.searchsorted(np.cumsum(self.latency_histogram), total * percent / 100))


class RequestStream:
    """Feed chunks of requests in order, then `finish()`.

    mode   "asap": as fast as they are accepted; "timed": not before their memory cycle; "chain": each waits for the
           data of the one before (a write for its acceptance)
    Raises ValueError for an unknown mode.
    """

    def __init__(self, spec: DramSpec, mode: str = "asap", request_bytes: int = 64, trace: bool = False) -> None:
        if mode not in MODES:
            raise ValueError(f"mode: must be one of {', '.join(MODES)}, got {mode!r}")
        if mode == "chain":
            spec = replace(spec, fifo_depth=0)  # one request at a time fills none
        self.spec, self.mode = spec, mode
        self._bursts = max(1, request_bytes // spec.burst_bytes)
        self._memory = start_memory(spec, 1, fifo_room=1024, histogram=True)
        c = self._config
        slots = c[L.READ_ROOM] + c[L.WRITE_ROOM] + (c[L.PSEUDO] << c[L.BANK_SHIFT]) + c[L.PSEUDO] * spec.fifo_depth
        self._spare = self._bursts * 4 * (int(slots) + 16)  # commands until every burst of a request has entered
        self._trace = np.zeros((max(TRACE_ROOM, 4 * self._spare) if trace else 0, 6), np.int64)
        self._kept: list[CommandTrace] = []
        self._ignored = False
        self._requests = self._written = self._time = self._lane = self._last = 0

    def feed(self, cycle: NDArray[np.int64], address: NDArray[np.int64], write: NDArray[np.bool_]) -> None:
        """The next requests: memory cycle (used by "timed", must not decrease), byte address, whether it writes."""
        if not len(address):
            return
        self._ignored = self._ignored or (self.mode != "timed" and bool(np.any(cycle)))
        writes = np.ascontiguousarray(write, np.int64)
        first = np.asarray(address, np.int64) >> self._config[L.BURST_SHIFT]
        self._requests += len(first)
        self._written += int(writes.sum())
        if self.mode == "chain":
            self._feed_chain(first, writes)
            return
        available = np.asarray(cycle, np.int64) if self.mode == "timed" else np.zeros(len(first), np.int64)
        self._last = int(available[-1])
        if self.spec.fifo_depth:
            self._feed_in_order(first, available, writes)
            return
        longest = int(_longest(self._config, self._memory.state, first, self._bursts))
        if longest > self._config[L.FIFO_ROOM]:
            self._memory = grow_fifos(self._memory, 2 * longest)
        _push(self._config, self._memory.state, first, self._bursts, available, writes)
        known = int(available[-1]) * self.spec.edges if self.mode == "timed" else 0
        self._keep_running(lambda: _run_safely(self._config, self._memory.state, self._trace, known))

    @property
    def _config(self) -> NDArray[np.int64]:
        return self._memory.config

    def _feed_chain(self, first: NDArray[np.int64], writes: NDArray[np.int64]) -> None:
        at, m = 0, self._memory.state
        while at < len(first):
            at, self._time = _chain(
                self._config, m, self._trace, first, self._bursts, writes, self._spare, at, self._time
            )
            self._keep_trace()

    def _feed_in_order(
        self, first: NDArray[np.int64], available: NDArray[np.int64], writes: NDArray[np.int64]
    ) -> None:
        at, m = 0, self._memory.state
        while at < len(first):
            at, self._time, self._lane = _enter_in_order(
                self._config, m, self._trace, first, self._bursts, available, writes, self._spare, at, self._time,
                self._lane,
            )  # fmt: skip
            self._keep_trace()

    def _keep_trace(self) -> bool:
        """Empty the buffer of commands; returns whether it was full, so that the run has stopped."""
        count = int(self._memory.state[L.TRACED])
        if count > len(self._trace):
            raise AssertionError(f"{count} commands in a buffer of {len(self._trace)}")
        if len(self._trace) and count:
            self._kept.append(self._trace[:count].copy())
        self._memory.state[L.TRACED] = 0
        return len(self._trace) > 0 and count == len(self._trace)

    def _keep_running(self, run: "object") -> None:
        run()  # type: ignore[operator]
        while self._keep_trace():
            run()  # type: ignore[operator]

    def finish(self) -> StreamResult:
        """Serve what is left; everything is counted up to the end of the run."""
        c, m = self._config, self._memory.state
        self._keep_running(lambda: _finish(c, m, self._trace))
        end = max(int(m[L.LAST_BACK]), int(m[L.LAST_ACCEPTED]))
        self._keep_running(lambda: advance(c, m, self._trace, end + 1))
        return self._result(end)

    def _result(self, end: int) -> StreamResult:
        c, m, memory = self._config, self._memory.state, self._memory
        histogram = m[c[L.LATENCY_AT] : c[L.FIFO_AT]].reshape(-1, c[L.EDGES]).sum(axis=1)
        reads = memory.commands["reads"]
        parts = pseudo_channels(c, m)
        idle = memory.idle
        idle["no_requests"] += float(np.maximum(0, end - parts[:, :, L.BUS_FREE]).sum() / c[L.EDGES])
        return StreamResult(
            cycles=end / self.spec.edges,
            requests=self._requests,
            read_bursts=(self._requests - self._written) * self._bursts,
            write_bursts=self._written * self._bursts,
            commands=memory.commands,
            active_cycles=memory.active_cycles(end),
            idle=idle,
            latency_histogram=np.trim_zeros(histogram, "b"),
            mean_read_latency_cycles=float(m[L.LATENCY_SUM] / c[L.EDGES] / reads) if reads else 0.0,
            last_arrival=self._last,
            ignored_cycles=self._ignored,
            trace=self._sorted_trace(),
        )

    def _sorted_trace(self) -> CommandTrace:
        """Channels ran one after the other; put their commands side by side."""
        trace = np.concatenate(self._kept) if self._kept else np.zeros((0, 6), np.int64)
        return trace[np.lexsort((trace[:, 1], trace[:, 0]))]
