"""One DRAM channel cycle by cycle: the rules of `sim.dram` in the plainest form, to check the controller against.

Every cycle: the front end sends, the queues admit, then each pseudo-channel does what its commands' own
histories allow. Nothing is computed ahead: a command is legal if every earlier command is long enough ago.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from sim.dram import DramSpec

Request = tuple[int, bool, int, int]  # slice, write, bank, row
Segments = list[tuple[int, int]]


@dataclass
class Pseudo:
    """A pseudo-channel: what waits, which rows are open, and every command so far (cycle, bank, row)."""

    refresh_due: int
    fifo: deque[tuple[int, Request]] = field(default_factory=deque)
    queue: list[Request] = field(default_factory=list)
    rows: dict[int, int] = field(default_factory=dict)
    log: list[tuple[str, int, int, int]] = field(default_factory=list)
    closed: dict[int, int] = field(default_factory=dict)  # bank: first cycle of an activate after a refresh
    able: dict[int, int] = field(default_factory=dict)  # bank: since when its row command could go, but for the bus


class SlowDram:
    """`run(slices)` gives the cycles in which each slice is issued and returned; clocks must be equal."""

    def __init__(self, spec: DramSpec) -> None:
        assert spec.channels == 1
        assert spec.memory_ps == spec.core_ps
        self.spec = spec
        self.pseudo = [Pseudo(spec.refresh_interval or 1 << 60) for _ in range(spec.pseudo_channels)]
        self.port, self.bus = 0, 0
        self.left: dict[int, int] = {}
        self.returned: dict[int, int] = {}
        self.issued: dict[int, int] = {}

    def run(self, slices: list[tuple[int, bool, Segments]]) -> tuple[list[int], list[int]]:
        """slices: (earliest cycle, write, [(address, bytes)])"""
        self.waiting = deque(self._requests(slices))
        for number, *_ in self.waiting:
            self.left[number] = self.left.get(number, 0) + 1
        cycles = count()
        while any(self.left.values()):
            self._cycle(next(cycles))
        order = range(len(slices))
        return [self.issued[n] for n in order], [self.returned[n] for n in order]

    def _requests(self, slices: list[tuple[int, bool, Segments]]) -> Iterator[tuple[int, int, int, Request]]:
        """(slice, earliest cycle, pseudo-channel, request) of each burst, shared ones once."""
        for number, (start, write, segments) in enumerate(slices):
            last = -1
            for address, size in segments:
                first, end = address // self.spec.burst_bytes, (address + size - 1) // self.spec.burst_bytes
                for burst in range(first + (first == last), end + 1):
                    pseudo, bank, row = self._decode(burst)
                    yield number, start, pseudo, (number, write, bank, row)
                last = end

    def _decode(self, burst: int) -> tuple[int, int, int]:
        value = dict.fromkeys(("channel", "pseudo_channel", "bank_group", "bank", "column", "row"), 0)
        taken = dict.fromkeys(value, 0)
        for name, bits in self.spec.fields:
            value[name] |= burst % (1 << bits) << taken[name]
            taken[name] += bits
            burst >>= bits
        return value["pseudo_channel"], value["bank_group"] * self.spec.banks_per_group + value["bank"], value["row"]

    def _cycle(self, now: int) -> None:
        """Send and command in turn until nothing more can happen in this cycle."""
        lanes, busy = [self.spec.request_lanes], True
        for pseudo in self.pseudo:
            if pseudo.refresh_due == now:
                self._admit(pseudo, now)
        while busy:
            busy = self._send(now, lanes)
            busy = any(self._admit(p, now) or self._command(p, now) for p in self.pseudo) or busy

    def _send(self, now: int, lanes: list[int]) -> bool:
        """Requests into the FIFOs in order, one slice a cycle; True if any went."""
        sent = False
        while self.waiting and lanes[0]:
            number, start, target, request = self.waiting[0]
            fifo = self.pseudo[target].fifo
            first = number not in self.issued
            if now < start or (first and now < self.issued.get(number - 1, 0)) or len(fifo) == self.spec.fifo_depth:
                break
            self.waiting.popleft()
            arrives = max(now, self.port)
            self.port = arrives + 1
            fifo.append((arrives, request))
            self.issued[number] = now + 1
            lanes[0] -= 1
            sent = True
        return sent

    def _admit(self, pseudo: Pseudo, now: int) -> bool:
        admitted = False
        while pseudo.fifo and pseudo.fifo[0][0] <= now and len(pseudo.queue) < self.spec.queue_depth:
            pseudo.queue.append(pseudo.fifo.popleft()[1])
            admitted = True
        return admitted

    def _command(self, pseudo: Pseudo, now: int) -> bool:
        """Refresh, else the oldest legal hit, else the row command; True if anything happened."""
        if pseudo.refresh_due <= now:
            self._refresh(pseudo, now)
            return True
        hits = [r for r in pseudo.queue if pseudo.rows.get(r[2]) == r[3] and self._legal(pseudo, _column(r), r[2], now)]
        if hits:
            self._serve(pseudo, hits[0], now)
            return True
        wanted = self._row_command(pseudo, now)
        if wanted is None or now < self.bus:
            return False
        name, (_, _, bank, row) = wanted
        pseudo.log.append((name, now, bank, row))
        if name == "ACT":
            pseudo.rows[bank] = row
        else:
            del pseudo.rows[bank]
        pseudo.able.clear()
        self.bus = now + (self.spec.activate_bus if name == "ACT" else 1)
        return True

    def _row_command(self, pseudo: Pseudo, now: int) -> tuple[str, Request] | None:
        """For the oldest request of each bank, unless it is a hit: the one that could go first, ties by age.

        Looked at anew after each row command, refresh, and column command that other rows of the bank wait for.
        """
        seen, able = set(), []
        for request in pseudo.queue:
            bank, row = request[2:]
            if bank in seen:
                continue
            seen.add(bank)
            if pseudo.rows.get(bank) == row:
                continue
            name = "PRE" if bank in pseudo.rows else "ACT"
            if self._legal(pseudo, name, bank, now):
                able.append((pseudo.able.setdefault(bank, now), len(able), name, request))
        return min(able)[2:] if able else None

    def _serve(self, pseudo: Pseudo, request: Request, now: int) -> None:
        s, (number, write, bank, row) = self.spec, request
        pseudo.queue.remove(request)
        if any(bank == r[2] and row != r[3] for r in pseudo.queue):
            pseudo.able.clear()
        pseudo.log.append((_column(request), now, bank, row))
        back = now + (s.write_latency if write else s.read_latency) + s.burst
        self.returned[number] = max(self.returned.get(number, 0), back)
        self.left[number] -= 1

    def _refresh(self, pseudo: Pseudo, now: int) -> None:
        """All rows close as soon as each may, then the refresh; no activate before it is over."""
        s = self.spec
        close = now
        while not all(self._legal(pseudo, "PRE", bank, close) for bank in pseudo.rows):
            close += 1
        ready = close + s.precharge if pseudo.rows else now
        ended = [t + s.precharge for name, t, *_ in pseudo.log if name == "PRE"]
        cycled = [
            t + s.ras + s.precharge for name, t, bank, _ in pseudo.log if name == "ACT" and bank not in pseudo.rows
        ]
        ready = max([ready, *ended, *cycled, *pseudo.closed.values()])
        pseudo.rows.clear()
        pseudo.able.clear()
        for bank in range(s.bank_groups * s.banks_per_group):
            pseudo.closed[bank] = ready + s.refresh
        pseudo.refresh_due += s.refresh_interval
        pseudo.log.append(("REF", now, -1, -1))

    def _legal(self, pseudo: Pseudo, name: str, bank: int, now: int) -> bool:
        """Every earlier command is long enough ago."""
        if name == "ACT" and now < pseudo.closed.get(bank, 0):
            return False
        activates = [t for other, t, *_ in pseudo.log if other == "ACT"]
        if name == "ACT" and len(activates) >= 4 and now < activates[-4] + self.spec.faw:
            return False
        return all(now >= t + self._gap(other, at, name, bank) for other, t, at, _ in pseudo.log)

    def _gap(self, first: str, at: int, second: str, bank: int) -> int:
        """Cycles between a command to bank `at` and a later one to `bank`."""
        s = self.spec
        same_bank, same_group = at == bank, at // s.banks_per_group == bank // s.banks_per_group
        wrote = s.write_latency + s.burst
        anywhere = {
            ("ACT", "ACT"): s.rrd_long if same_group else s.rrd_short,
            ("RD", "RD"): s.ccd_long if same_group else s.ccd_short,
            ("WR", "WR"): s.ccd_long if same_group else s.ccd_short,
            ("WR", "RD"): wrote + (s.write_to_read_long if same_group else s.write_to_read_short),
            ("RD", "WR"): s.read_to_write,
        }
        in_bank = {
            ("ACT", "ACT"): s.ras + s.precharge,
            ("ACT", "RD"): s.rcd_read,
            ("ACT", "WR"): s.rcd_write,
            ("ACT", "PRE"): s.ras,
            ("PRE", "ACT"): s.precharge,
            ("RD", "PRE"): s.read_to_precharge,
            ("WR", "PRE"): wrote + s.write_recovery,
        }
        pair = first, second
        return max(anywhere.get(pair, 0), in_bank.get(pair, 0) if same_bank else 0)


def _column(request: Request) -> str:
    return "WR" if request[1] else "RD"
