"""The banks of one channel for the slow controller: which command is legal when, from the history of all commands."""

from sim.dram.spec import DramSpec

LONG_AGO = -(1 << 60)
COLUMNS = ("RD", "WR")


def nominal_distances(spec: DramSpec) -> dict[str, list[tuple[str, str, int]]]:
    """Command -> (scope, earlier command, memory cycles between the ends of the two); AUTO: a bank closes by itself."""
    written = spec.write_latency + spec.burst
    ccd_long_write = spec.ccd_long_write or spec.ccd_long
    ccd_short_write = spec.ccd_short_write or spec.ccd_short
    close = [("ACT", spec.ras), ("RD", spec.read_to_precharge), ("WR", written + spec.write_recovery)]
    apart = [("pseudo", "PRE", spec.precharge_to_precharge), ("pseudo", "PREA", spec.precharge_to_precharge)]
    return {
        "ACT": [
            ("bank", "ACT", spec.row_cycle),
            ("bank", "PRE", spec.precharge),
            ("bank", "AUTO", spec.precharge),
            ("bank", "REFB", spec.refresh_bank),
            ("group", "ACT", spec.rrd_long),
            ("pseudo", "ACT", spec.rrd_short),
            ("pseudo", "PREA", spec.precharge),
            ("pseudo", "REF", spec.refresh),
            ("pseudo", "REFB", spec.refresh_bank_gap),
        ],
        "RD": [
            ("bank", "ACT", spec.rcd_read),
            ("group", "RD", spec.ccd_long),
            ("group", "WR", written + spec.write_to_read_long),
            ("pseudo", "RD", max(spec.ccd_short, spec.burst)),
            ("pseudo", "WR", written + spec.write_to_read_short),
        ],
        "WR": [
            ("bank", "ACT", spec.rcd_write),
            ("group", "WR", ccd_long_write),
            ("pseudo", "WR", max(ccd_short_write, spec.burst)),
            ("pseudo", "RD", spec.read_to_write),
        ],
        "PRE": [("bank", before, cycles) for before, cycles in close] + apart,
        "AUTO": [("bank", before, cycles) for before, cycles in close],
        "PREA": [("pseudo", before, cycles) for before, cycles in close] + apart,
        "REF": [
            ("pseudo", "ACT", spec.row_cycle),
            ("pseudo", "PRE", spec.precharge),
            ("pseudo", "PREA", spec.precharge),
            ("pseudo", "AUTO", spec.precharge),
            ("pseudo", "REF", spec.refresh),
        ],
        "REFB": [
            ("bank", "ACT", spec.row_cycle),
            ("bank", "PRE", spec.precharge),
            ("bank", "AUTO", spec.precharge),
            ("pseudo", "ACT", spec.rrd_short),
            ("pseudo", "REFB", spec.refresh_bank_gap),
        ],
    }


class Device:
    """What the banks of one channel have seen; says whether a command is legal at a tick."""

    def __init__(self, spec: DramSpec) -> None:
        self.spec = spec
        row, column = spec.row_ticks, spec.column_ticks
        self.ticks = {"ACT": spec.activate_ticks, "RD": column, "WR": column} | dict.fromkeys(
            ("PRE", "PREA", "AUTO", "REF", "REFB"), row
        )
        self.rules = {
            after: [
                (scope, before, cycles * spec.edges + self.ticks[before] - self.ticks[after])
                for scope, before, cycles in rules
            ]
            for after, rules in nominal_distances(spec).items()
        }
        self.last: dict[tuple[str, object], int] = {}  # (command, where) -> tick
        self.activates: dict[int, list[int]] = {pseudo: [] for pseudo in range(spec.pseudo_channels)}
        self.bus_free = {"row": 0, "column": 0}
        self.open: dict[tuple[int, int], int] = {}  # (pseudo-channel, bank) -> row
        self.served: dict[tuple[int, int], int] = {}  # column commands since the bank's ACT

    def where(self, scope: str, pseudo: int, bank: int) -> object:
        if scope == "bank":
            return pseudo, bank
        return ("group", pseudo, bank // self.spec.banks_per_group) if scope == "group" else pseudo

    def bus(self, command: str) -> str:
        return "column" if command in COLUMNS and not self.spec.one_bus else "row"

    def earliest(self, command: str, pseudo: int, bank: int) -> int:
        places = {scope: self.where(scope, pseudo, bank) for scope in ("bank", "group", "pseudo")}
        return max(
            self.last.get((before, places[scope]), LONG_AGO) + distance
            for scope, before, distance in self.rules[command]
        )

    def legal(self, command: str, pseudo: int, bank: int, now: int) -> bool:
        if self.spec.edges == 2 and now % 2 == 0 and command not in ("PRE", "PREA"):
            return False
        if now < self.bus_free[self.bus(command)] or now < self.earliest(command, pseudo, bank):
            return False
        window = self.activates[pseudo][-4:]
        return command != "ACT" or len(window) < 4 or now >= window[0] + self.spec.faw * self.spec.edges

    def issue(self, command: str, pseudo: int, bank: int, now: int, row: int = -1) -> None:
        self.bus_free[self.bus(command)] = now + self.ticks[command]
        self.note(command, pseudo, bank, now)
        if command == "ACT":
            self.activates[pseudo].append(now)
            self.open[pseudo, bank], self.served[pseudo, bank] = row, 0
        elif command in COLUMNS:
            self.served[pseudo, bank] += 1
        elif command == "PRE":
            del self.open[pseudo, bank]
        elif command == "PREA":
            for place in self.open_banks(pseudo):
                del self.open[place]

    def note(self, command: str, pseudo: int, bank: int, now: int) -> None:
        for scope in ("bank", "group", "pseudo"):
            key = command, self.where(scope, pseudo, bank)
            self.last[key] = max(now, self.last.get(key, now))

    def close_by_itself(self, pseudo: int, bank: int) -> None:
        """At the first tick at which a precharge would have been legal."""
        del self.open[pseudo, bank]
        self.note("AUTO", pseudo, bank, self.earliest("AUTO", pseudo, bank))

    def open_banks(self, pseudo: int) -> list[tuple[int, int]]:
        return [place for place in self.open if place[0] == pseudo]
