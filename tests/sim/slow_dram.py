"""The memory controller tick by tick, in the plainest form: what the fast one is checked against.

Nothing is skipped and nothing is computed ahead: every tick each queue is scanned whole, and a command is legal
if every earlier one is long enough ago. Written from the description of the controller, without a look at it.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from sim.dram.spec import COMMAND_NAMES, CommandTrace, DramSpec
from tests.sim.slow_device import COLUMNS, Device
from tests.sim.slow_requests import NEVER, Burst, cut, finish_burst, make_requests


@dataclass(frozen=True)
class SlowResult:
    """cycles of the memory clock; counts as in the fast controller; latency of each read burst in ticks"""

    cycles: float
    commands: dict[str, int]
    trace: CommandTrace
    latencies: list[int]


@dataclass(eq=False)
class Refresh:
    pseudo: int
    bank: int = -1  # -1: all


@dataclass(eq=False)
class Channel:
    """One controller: FIFOs in front of it, its queues, the requests whose activate is out, refreshes due."""

    spec: DramSpec
    number: int
    fifos: list[deque[Burst]] = field(init=False)
    reads: list[Burst] = field(default_factory=list)  # both in order of acceptance
    writes: list[Burst] = field(default_factory=list)
    active: list[Burst] = field(default_factory=list)
    refreshes: deque[Refresh] = field(default_factory=deque)
    returns: list[tuple[int, int, Burst]] = field(default_factory=list)  # (tick, latency, burst) of all reads
    trace: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    writing: bool = False
    closed: int = 0  # banks

    def __post_init__(self) -> None:
        self.device = Device(self.spec)
        self.fifos = [deque() for _ in range(self.spec.pseudo_channels)]
        self.out: list[list[int]] = [[] for _ in self.fifos]  # when the reads that are out come back; NEVER: not known
        self.age: dict[Burst, int] = {}

    # ---- what comes in ----

    def offer(self, now: int) -> None:
        for pseudo, fifo in enumerate(self.fifos):
            if fifo and fifo[0].request.available <= now and self.has_room(fifo[0], now):
                self.accept(fifo.popleft(), pseudo, now)

    def has_room(self, burst: Burst, now: int) -> bool:
        pooled = self.spec.pseudo_channels
        if burst.write:
            return len(self.writes) < self.spec.write_queue * pooled
        out = [back for back in self.out[burst.pseudo] if back > now]
        self.out[burst.pseudo] = out
        return len(self.reads) < self.spec.read_queue * pooled and len(out) < self.spec.outstanding_reads

    def accept(self, burst: Burst, pseudo: int, now: int) -> None:
        burst.accepted = now
        self.age[burst] = len(self.age)
        (self.writes if burst.write else self.reads).append(burst)
        if burst.write:
            finish_burst(burst, now + 1)
        else:
            self.out[pseudo].append(NEVER)

    # ---- what goes out ----

    def tick(self, now: int) -> None:
        self.refresh_due(now)
        if self.spec.one_bus:
            self.any_slot(now)
        else:
            self.column_slot(now)
            self.row_slot(now)

    def refresh_due(self, now: int) -> None:
        spec = self.spec
        banks = spec.bank_groups * spec.banks_per_group
        interval = spec.refresh_interval * spec.edges // (banks if spec.refresh_mode == "per_bank" else 1)
        if spec.refresh_mode == "none" or now % interval:
            return
        bank = (now // interval - 1) % banks if spec.refresh_mode == "per_bank" else -1
        self.refreshes.extend(Refresh(pseudo, bank) for pseudo in range(spec.pseudo_channels))

    def any_slot(self, now: int) -> None:
        if not self.serve_active(now) and not self.serve_refresh(now):
            self.serve_queue(now, lambda command: True)

    def column_slot(self, now: int) -> None:
        if self.spec.edges == 2 and now % 2 == 0:
            return
        if not self.serve_active(now) and not self.is_stopped():
            self.serve_queue(now, lambda command: command in COLUMNS)

    def row_slot(self, now: int) -> None:
        if not self.serve_refresh(now):
            self.serve_queue(now, lambda command: command not in COLUMNS)

    def is_stopped(self) -> bool:
        """Whether a refresh of all banks is due: nothing else is begun."""
        return bool(self.refreshes) and self.refreshes[0].bank < 0

    def due_now(self) -> list[Refresh]:
        """The oldest that is due; of single banks the oldest of each pseudo-channel."""
        if self.is_stopped():
            return [self.refreshes[0]]
        oldest = {due.pseudo: due for due in reversed(self.refreshes)}
        return [oldest[pseudo] for pseudo in sorted(oldest)]

    def serve_active(self, now: int) -> bool:
        for burst in sorted(self.active, key=self.age.__getitem__):
            command = "WR" if burst.write else "RD"
            if self.device.legal(command, *burst.place, now):
                self.active.remove(burst)
                self.transfer(burst, now)
                return True
        return False

    def serve_refresh(self, now: int) -> bool:
        """Whether the tick is taken: by a command for a refresh, or since a refresh of all banks stops the channel."""
        return any(self.advance_refresh(due, now) for due in self.due_now()) or self.is_stopped()

    def advance_refresh(self, due: Refresh, now: int) -> bool:
        """Close what is open of it, or refresh it; not while a request there is active."""
        whole = due.bank < 0
        opened = [p for p in self.device.open_banks(due.pseudo) if whole or p[1] == due.bank]
        if opened and any(burst.pseudo == due.pseudo and (whole or burst.bank == due.bank) for burst in self.active):
            return False
        command = ("PREA" if whole else "PRE") if opened else ("REF" if whole else "REFB")
        if not self.device.legal(command, due.pseudo, due.bank, now):
            return False
        if not opened:
            self.refreshes.remove(due)
        self.issue(command, due.pseudo, due.bank, now)
        return True

    def serve_queue(self, now: int, wanted: Callable[[str], bool]) -> None:
        self.choose_mode()
        queue = self.writes if self.writing else self.reads
        if self.spec.scheduler == "fcfs":
            queue = [] if self.active else queue[:1]
        waiting: set[tuple[int, int]] = set()  # banks with an older request for another row, as the scan goes on
        protected: set[tuple[int, int]] = set()  # banks with an older hit, as the scan goes on
        withheld = {(due.pseudo, due.bank) for due in self.due_now()}
        for burst in queue:
            if burst.place in withheld:
                continue
            command = self.needed(burst)
            hit = command in COLUMNS
            if hit and burst.place in waiting and self.is_tired(burst.place):
                continue
            if command == "PRE":
                waiting.add(burst.place)
            if hit and self.spec.scheduler == "fr_fcfs":
                protected.add(burst.place)
            kept = command == "PRE" and (burst.place in protected or any(a.place == burst.place for a in self.active))
            if wanted(command) and not kept and self.device.legal(command, *burst.place, now):
                self.serve(burst, command, now)
                return

    def choose_mode(self) -> None:
        capacity = self.spec.write_queue * self.spec.pseudo_channels
        if self.writing:
            self.writing = not (len(self.writes) < self.spec.write_low * capacity and self.reads)
        else:
            self.writing = len(self.writes) > self.spec.write_high * capacity or not self.reads

    def is_tired(self, place: tuple[int, int]) -> bool:
        """Whether the bank has served as many column commands of one activation as the cap allows."""
        return 0 < self.spec.row_hit_cap <= self.device.served[place]

    def needed(self, burst: Burst) -> str:
        row = self.device.open.get(burst.place)
        if row is None:
            return "ACT"
        return ("WR" if burst.write else "RD") if row == burst.row else "PRE"

    def serve(self, burst: Burst, command: str, now: int) -> None:
        if command == "PRE":
            self.issue("PRE", *burst.place, now)
            return
        (self.writes if burst.write else self.reads).remove(burst)
        if command == "ACT":
            self.active.append(burst)
            self.issue("ACT", *burst.place, now, burst.row)
        else:
            self.transfer(burst, now)

    def transfer(self, burst: Burst, now: int) -> None:
        """The column command of a request; it may close its bank."""
        command = "WR" if burst.write else "RD"
        closing = self.closes(burst)
        self.issue(command, *burst.place, now, burst.row, "A" if closing else "")
        if closing:
            self.closed += 1
            self.device.close_by_itself(*burst.place)
        if not burst.write:
            back = now + (self.spec.read_latency + self.spec.burst) * self.spec.edges
            self.out[burst.pseudo].remove(NEVER)
            self.out[burst.pseudo].append(back)
            self.returns.append((back, back - burst.accepted, burst))
            finish_burst(burst, back)

    def closes(self, burst: Burst) -> bool:
        if self.spec.page == "open" or any(other.place == burst.place for other in self.active):
            return False
        last = self.spec.row_hit_cap and self.device.served[burst.place] + 1 >= self.spec.row_hit_cap
        wanted = any(b.place == burst.place and b.row == burst.row for b in self.reads + self.writes)
        return bool(last) or not wanted

    def issue(self, command: str, pseudo: int, bank: int, now: int, row: int = -1, suffix: str = "") -> None:
        if command in ("PRE", "PREA"):
            self.closed += 1 if command == "PRE" else len(self.device.open_banks(pseudo))
        self.device.issue(command, pseudo, bank, now, row)
        self.trace.append((now, self.number, pseudo, COMMAND_NAMES.index(command + suffix), bank, row))


def run_slow(
    spec: DramSpec,
    mode: str,
    cycle: Sequence[int],
    address: Sequence[int],
    write: Sequence[bool],
    request_bytes: int = 64,
) -> SlowResult:
    """A stream of requests, address[i] written or read at cycle[i] (mode: asap, timed, chain), until its last read is
    back and its last write accepted; commands up to and with that tick.
    """
    count = max(1, request_bytes // spec.burst_bytes)
    requests = make_requests(spec, mode, cycle, count)
    stream = zip(requests, map(int, address), map(bool, write), strict=True)
    channels = [Channel(spec, number) for number in range(spec.channels)]
    for burst in cut(spec, stream, count):
        channels[burst.channel].fifos[burst.pseudo].append(burst)
    time = 0
    while True:
        for channel in channels:
            channel.offer(time)
        if not any(channel_busy(channel, time) for channel in channels):
            return summarise(spec, channels, time)
        time += 1
        for channel in channels:
            channel.tick(time)


def channel_busy(channel: Channel, now: int) -> bool:
    return any(channel.fifos) or any(back > now for out in channel.out for back in out)


def summarise(spec: DramSpec, channels: list[Channel], end: int) -> SlowResult:
    rows = sorted((entry for channel in channels for entry in channel.trace), key=lambda entry: entry[:2])
    trace = np.array(rows, np.int64).reshape(-1, 6)
    count = dict(zip(COMMAND_NAMES, np.bincount(trace[:, 3], minlength=len(COMMAND_NAMES)).tolist(), strict=True))
    commands = {
        "activates": count["ACT"],
        "precharges": sum(channel.closed for channel in channels),
        "precharge_alls": count["PREA"],
        "reads": count["RD"] + count["RDA"],
        "writes": count["WR"] + count["WRA"],
        "refreshes": count["REF"],
        "refreshes_bank": count["REFB"],
    }
    returns = sorted((entry[:2] for channel in channels for entry in channel.returns), key=lambda entry: entry[0])
    return SlowResult(end / spec.edges, commands, trace, [latency for _, latency in returns])
