"""Is a trace of DRAM commands legal? Proved from the spec alone, by tables that read as the standards' do.

Knows nothing of a controller: a rule says how far a command must stay from an earlier one of the same bank, bank
group or pseudo-channel; beside these stand the four-activate window, the buses, the state of the rows and the
refreshes due. Left out: ranks, power down, mode registers, temperature.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.dram.rules import AUTO, CLOSES, COLUMNS, NAMES, READS, Rule, timing_rules
from sim.dram.spec import ACT, PRE, PREA, RDA, REF, REFB, TRACE_COLUMNS, WRA, CommandTrace, DramSpec

MOST = 100  # violations reported
NONE = -(1 << 60)  # a distance that is always kept
TICK, CHANNEL, PSEUDO, COMMAND, BANK, ROW = range(6)
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Violation:
    """One command that breaks a rule. `what` tells what `required` and `actual` are: ticks from the earlier command,
    or a row, an edge, a number of refreshes. Bank -1: all of the pseudo-channel; tick -1: no such command.
    """

    rule: str
    what: str
    tick: int
    channel: int
    pseudo_channel: int
    bank: int
    command: str
    earlier_tick: int
    earlier_command: str
    required: int
    actual: int

    def __str__(self) -> str:
        where = f"tick {self.tick}: channel {self.channel}.{self.pseudo_channel}"
        bank = f" bank {self.bank}" if self.bank >= 0 else ""
        since = f" (after {self.earlier_command} at tick {self.earlier_tick})" if self.earlier_tick >= 0 else ""
        return f"{where}{bank}: {self.command}: {self.rule}: {self.required} {self.what}, found {self.actual}{since}"


def check_commands(spec: DramSpec, trace: CommandTrace, until_tick: int | None = None) -> list[Violation]:
    """The first violations of a trace ((n, 6) int64, columns TRACE_COLUMNS, ticks rising within a channel), by tick.

    until_tick  when the run ended, for the refreshes due (None: at the last command)
    Raises ValueError for a row that names a command or a place that the spec does not have.
    """
    _refuse_strangers(spec, trace)
    end = int(trace[:, TICK].max(initial=0)) if until_tick is None else until_tick
    tables = _tables(spec, trace)
    found = [v for rule in timing_rules(spec) for v in _too_close(spec, tables[rule.scope], rule)]
    found += _window(spec, tables["pseudo-channel"]) + _command_buses(spec, trace) + _data_bus(spec, trace)
    found += _row_state(tables["bank"]) + _edges(spec, trace) + _refreshes(spec, tables, end)
    return sorted(found, key=lambda violation: violation.tick)[:MOST]


def _refuse_strangers(spec: DramSpec, trace: CommandTrace) -> None:
    if trace.ndim != 2 or trace.shape[1] != len(TRACE_COLUMNS):
        raise ValueError(f"a command trace has the columns {', '.join(TRACE_COLUMNS)}; got shape {trace.shape}")
    banks = spec.bank_groups * spec.banks_per_group
    limits = ((CHANNEL, spec.channels), (PSEUDO, spec.pseudo_channels), (COMMAND, AUTO), (BANK, banks))
    for column, limit in limits:
        values = trace[:, column]
        lowest = np.where(_among(trace, (PREA, REF)), -1, 0) if column == BANK else 0
        bad = np.flatnonzero((values < lowest) | (values >= limit))
        if bad.size:
            name = TRACE_COLUMNS[column]
            raise ValueError(f"command {bad[0]}: {name} must be in 0..{limit - 1}, got {values[bad[0]]}")


# ---- events by place ----


def _among(events: CommandTrace, commands: tuple[int, ...]) -> Mask:
    """(n,): is it one of these commands?"""
    meant = np.zeros(len(NAMES), np.bool_)
    meant[list(commands)] = True
    return meant[events[:, COMMAND]]


@dataclass(frozen=True)
class Table:
    """Events sorted by place, then time. place: (n,) number of the bank, group or pseudo-channel"""

    events: CommandTrace
    place: Index

    def marks(self, commands: tuple[int, ...]) -> Mask:
        return _among(self.events, commands)

    def latest(self, commands: tuple[int, ...], itself: bool = False) -> Index:
        """Where the last of these commands stood in the same place before each event (-1: nowhere); or at it."""
        number = np.arange(len(self.place))
        last = np.maximum.accumulate(np.where(self.marks(commands), number, -1))
        if not itself:
            last = np.concatenate(([-1], last[:-1]))[: len(last)]
        return np.where((last >= 0) & (self.place[last] == self.place), last, -1)


def _sorted(events: CommandTrace, place: Index) -> Table:
    order = np.lexsort((events[:, TICK], place))
    return Table(events[order], place[order])


def _tables(spec: DramSpec, trace: CommandTrace) -> dict[str, Table]:
    pseudo = trace[:, CHANNEL] * spec.pseudo_channels + trace[:, PSEUDO]
    single = trace[:, BANK] >= 0
    group = pseudo * spec.bank_groups + trace[:, BANK] // spec.banks_per_group
    return {
        "bank": _bank_table(spec, trace),
        "bank group": _sorted(trace[single], group[single]),
        "pseudo-channel": _sorted(trace, pseudo),
    }


def _bank_table(spec: DramSpec, trace: CommandTrace) -> Table:
    """PREA and REF once for each of their banks, and the moments at which banks close by themselves."""
    banks = spec.bank_groups * spec.banks_per_group
    whole = _among(trace, (PREA, REF))
    events = np.repeat(trace, np.where(whole, banks, 1), axis=0)
    spread = _among(events, (PREA, REF))
    events[spread, BANK] = np.arange(np.count_nonzero(spread)) % banks
    table = _by_bank(spec, events)
    return _by_bank(spec, np.concatenate((_closing(spec, table), table.events)))


def _by_bank(spec: DramSpec, events: CommandTrace) -> Table:
    banks = spec.bank_groups * spec.banks_per_group
    return _sorted(events, (events[:, CHANNEL] * spec.pseudo_channels + events[:, PSEUDO]) * banks + events[:, BANK])


def _closing(spec: DramSpec, table: Table) -> CommandTrace:
    """Each RDA and WRA as the event of its bank's closing: the first tick at which PRE would be legal."""
    rows = np.flatnonzero(table.marks((RDA, WRA)))
    events = table.events[rows]
    events[:, COMMAND], events[:, ROW] = AUTO, -1
    for rule in timing_rules(spec):
        if rule.scope == "bank" and PRE in rule.after:
            last = table.latest(rule.before, itself=True)[rows]
            ready = table.events[last, TICK] + _distance(spec, rule, table.events[last, COMMAND], events[:, COMMAND])
            events[:, TICK] = np.where(last >= 0, np.maximum(events[:, TICK], ready), events[:, TICK])
    return events


# ---- rules ----


def _ticks(spec: DramSpec) -> Index:
    """(commands,): how long each holds its bus"""
    ticks = np.full(len(NAMES), spec.row_ticks)
    ticks[ACT], ticks[list(COLUMNS)] = spec.activate_ticks, spec.column_ticks
    return ticks


def _distance(spec: DramSpec, rule: Rule, before: Index, after: Index) -> Index:
    """Ticks between the first ticks of two commands whose ends are to be `cycles` apart."""
    ticks = _ticks(spec)
    return rule.cycles * spec.edges + ticks[before] - ticks[after]


def _too_close(spec: DramSpec, table: Table, rule: Rule) -> list[Violation]:
    earlier = table.latest(rule.before)
    both = np.flatnonzero((earlier >= 0) & table.marks(rule.after))
    late, early = table.events[both], table.events[earlier[both]]
    required = _distance(spec, rule, early[:, COMMAND], late[:, COMMAND])
    return _report(rule.name, "ticks apart", late, early, required, late[:, TICK] - early[:, TICK])


def _report(
    rule: str, what: str, late: CommandTrace, early: CommandTrace, required: Index, actual: Index
) -> list[Violation]:
    """The first events with less than required."""
    bad = np.flatnonzero(actual < required)
    bad = bad[np.argsort(late[bad, TICK], kind="stable")][:MOST]
    return [_violation(rule, what, late[i], early[i], required[i], actual[i]) for i in bad]


def _violation(rule: str, what: str, late: Index, early: Index | None, required: int, actual: int) -> Violation:
    tick, channel, pseudo, command, bank, _ = (int(value) for value in late)
    since = (-1, "") if early is None else (int(early[TICK]), NAMES[early[COMMAND]])
    return Violation(rule, what, tick, channel, pseudo, bank, NAMES[command], *since, int(required), int(actual))


def _window(spec: DramSpec, table: Table) -> list[Violation]:
    """The fifth activate of a pseudo-channel waits for the four-activate window of the first."""
    activates = table.marks((ACT,))
    events, place = table.events[activates], table.place[activates]
    late, early = events[4:], events[:-4][: len(events[4:])]
    same = place[4:] == place[:-4][: len(late)]
    required = np.where(same, spec.faw * spec.edges, NONE)
    return _report("tFAW", "ticks apart", late, early, required, late[:, TICK] - early[:, TICK])


def _neighbours(rule: str, events: CommandTrace, place: Index, start: Index, length: Index) -> list[Violation]:
    """What starts in a place before its predecessor there has ended."""
    order = np.lexsort((start, place))
    events, place, start, length = events[order], place[order], start[order], length[order]
    required = np.where(place[1:] == place[:-1], length[:-1], NONE)
    return _report(rule, "ticks apart", events[1:], events[:-1], required, np.diff(start))


def _command_buses(spec: DramSpec, trace: CommandTrace) -> list[Violation]:
    column = _among(trace, COLUMNS) & (not spec.one_bus)
    length = _ticks(spec)[trace[:, COMMAND]]
    return _neighbours("command bus", trace, trace[:, CHANNEL] * 2 + column, trace[:, TICK], length)


def _data_bus(spec: DramSpec, trace: CommandTrace) -> list[Violation]:
    """Bursts of one pseudo-channel, by the times of their data."""
    events = trace[_among(trace, COLUMNS)]
    latency = np.where(_among(events, READS), spec.read_latency, spec.write_latency)
    place = events[:, CHANNEL] * spec.pseudo_channels + events[:, PSEUDO]
    length = np.full(len(events), spec.burst * spec.edges)
    return _neighbours("data bus", events, place, events[:, TICK] + latency * spec.edges, length)


def _row_state(table: Table) -> list[Violation]:
    """Columns of the open row alone; ACT, REF and REFB with the bank closed. Rows: -1 is closed."""
    events, opened = table.events, table.latest((ACT,))
    found = []
    for rule, commands, closes in (
        ("row open", COLUMNS, (PRE, PREA, RDA, WRA)),
        ("bank closed", (ACT, REF, REFB), CLOSES),
    ):
        row = np.where(opened > table.latest(closes), events[opened, ROW], -1)
        wanted = events[:, ROW] if commands == COLUMNS else np.full(len(events), -1)
        bad = np.flatnonzero(table.marks(commands) & (row != wanted))[:MOST]
        early = [events[opened[i]] if opened[i] >= 0 else None for i in bad]
        found += [_violation(rule, "row", events[i], e, wanted[i], row[i]) for i, e in zip(bad, early, strict=True)]
    return found


def _edges(spec: DramSpec, trace: CommandTrace) -> list[Violation]:
    """With two edges a cycle all but PRE and PREA go on the rising one (odd ticks)."""
    if spec.edges == 1:
        return []
    falling = ~_among(trace, (PRE, PREA)) & (trace[:, TICK] % 2 == 0)
    return [_violation("rising edge", "edge", event, None, 1, 0) for event in trace[falling][:MOST]]


# ---- refresh ----


def _refreshes(spec: DramSpec, tables: dict[str, Table], end: int) -> list[Violation]:
    """Every pseudo-channel, or every bank, is refreshed once in each interval."""
    banks, interval = spec.bank_groups * spec.banks_per_group, spec.refresh_interval * spec.edges
    if spec.refresh_mode == "per_bank":
        return _kept("bank", REFB, banks, interval // banks * banks, spec, tables, end)
    if spec.refresh_mode == "all_bank":
        return _kept("pseudo-channel", REF, 1, interval, spec, tables, end)
    return _unexpected(tables["pseudo-channel"], (REF, REFB))


def _kept(
    scope: str, command: int, parts: int, interval: int, spec: DramSpec, tables: dict[str, Table], end: int
) -> list[Violation]:
    """parts: places of a pseudo-channel that are refreshed on their own"""
    found = _unexpected(tables["pseudo-channel"], (REF + REFB - command,))
    mine = tables[scope].marks((command,))
    places, ticks = tables[scope].place[mine], tables[scope].events[mine, TICK]
    count = spec.channels * spec.pseudo_channels * parts
    bounds = np.searchsorted(places, np.arange(count + 1))
    for place in range(count):
        pseudo, bank = divmod(place, parts)
        where = (*divmod(pseudo, spec.pseudo_channels), bank if parts > 1 else -1)
        found += _refreshes_of(ticks[bounds[place] : bounds[place + 1]], interval, end, where, NAMES[command])
    return found


def _unexpected(table: Table, commands: tuple[int, ...]) -> list[Violation]:
    """Refreshes of a kind that this memory is not to get."""
    events = table.events[table.marks(commands)][:MOST]
    return [_violation("refresh mode", "of this kind expected", event, None, 0, 1) for event in events]


def _refreshes_of(ticks: Index, interval: int, end: int, where: tuple[int, int, int], name: str) -> list[Violation]:
    """The k-th is due at k intervals, give or take one; the first that is not kept to (-1: it never came)."""
    number = np.arange(1, len(ticks) + 2)
    at = np.append(ticks, end)
    late, early = at > (number + 1) * interval, at[:-1] < (number[:-1] - 1) * interval
    found = []
    for rule, bad, bound in (("refresh late", late, number + 1), ("refresh early", early, number - 1)):
        for k in np.flatnonzero(bad)[:1]:
            tick, came, limit = int(at[k]), int(at[k]) if k < len(ticks) else -1, int(bound[k]) * interval
            found.append(Violation(rule, "the tick", tick, *where, name, -1, "", limit, came))
    return found
