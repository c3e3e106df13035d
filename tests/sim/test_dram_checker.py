"""The legality checker on toy traces written by hand: at the limit of each rule, one tick early, and beside it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim.dram.checker import MOST, check_commands
from sim.dram.rules import timing_rules
from sim.dram.spec import ACT, PRE, PREA, RD, RDA, REF, REFB, WR, WRA, CommandTrace, DramSpec
from tests.sim.toy_commands import (
    ALL,
    ALL_BANK,
    PER_BANK,
    SPECS,
    TOY,
    TOYS,
    Step,
    Toy,
    broken,
    commands,
    play,
    ticks,
    written,
)


@pytest.mark.parametrize("part", SPECS)
@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: f"{toy.rule} {toy.name}".strip().replace(" ", "-"))
def test_each_rule_at_its_limit_and_one_tick_early(part: str, toy: Toy) -> None:
    spec = replace(SPECS[part], **toy.changes)
    falling = {"rising edge"} if spec.edges == 2 else set()
    trace, limit = play(spec, toy)
    assert broken(spec, trace) == (falling if limit % 2 == 0 and toy.last[0] not in (PRE, PREA) else set())
    trace, limit = play(spec, toy, early=1)
    found = [v for v in check_commands(spec, trace) if v.rule != "rising edge"]
    assert {v.rule for v in found} == {toy.rule}
    assert {(v.tick, v.required - v.actual) for v in found} == {(limit, 1)}
    assert (found[0].channel, found[0].pseudo_channel) == (1, spec.pseudo_channels - 1)


def test_toys_cover_the_table() -> None:
    assert {rule.name for rule in timing_rules(TOY)} <= {toy.rule for toy in TOYS}


# ---- banks that close by themselves ----


@pytest.mark.parametrize("part", SPECS)
@pytest.mark.parametrize("after", [0, 40], ids=["by tRAS", "by the column"])
@pytest.mark.parametrize("column", [RDA, WRA])
@pytest.mark.parametrize("last", [ACT, REF, REFB])
def test_a_bank_closes_by_itself_when_a_precharge_would_have_been_legal(
    part: str, after: int, column: int, last: int
) -> None:
    mode = {ACT: "none", REF: "all_bank", REFB: "per_bank"}[last]
    spec = replace(SPECS[part], refresh_mode=mode, ras=60, row_cycle=60, write_recovery=30 if after else 1)
    issue = 1 + (after or 20) * spec.edges
    recovery = spec.read_to_precharge if column == RDA else written(spec) + spec.write_recovery
    by_column = issue + recovery * spec.edges + spec.column_ticks - spec.row_ticks
    by_ras = 1 + spec.ras * spec.edges + spec.activate_ticks - spec.row_ticks
    first = max(by_column, by_ras) + spec.precharge * spec.edges + spec.row_ticks - ticks(spec, last)
    bank = ALL if last == REF else 0
    steps = ((1, ACT, 0), (issue, column, 0))
    assert broken(spec, commands(spec, *steps, (first, last, bank))) <= {"rising edge"}
    assert "tRP" in broken(spec, commands(spec, *steps, (first - 1, last, bank)))


# ---- the state of the rows ----


@pytest.mark.parametrize(
    ("rule", "steps", "changes"),
    [
        ("row open", ((1, RD, 0),), {}),
        ("row open", ((1, ACT, 0), (401, PRE, 0), (801, RD, 0)), {}),
        ("row open", ((1, ACT, 0), (401, PREA, ALL), (801, WR, 0)), {}),
        ("row open", ((1, ACT, 0), (401, RDA, 0), (403 + 8, RD, 0)), {"ccd_long": 1, "ccd_short": 1, "burst": 1}),
        ("row open", ((1, ACT, 1), (401, RD, 0)), {}),
        ("bank closed", ((1, ACT, 0), (401, ACT, 0)), {}),
        ("bank closed", ((1, ACT, 0), (401, REFB, 0)), PER_BANK),
        ("bank closed", ((1, ACT, 0), (401, PRE, 0), (801, ACT, 3), (1201, REF, ALL)), ALL_BANK),
        ("bank closed", ((1, ACT, 0), (401, WRA, 0), (405, REF, ALL)), ALL_BANK),
    ],
)
@pytest.mark.parametrize("part", SPECS)
def test_rows(part: str, rule: str, steps: tuple[Step, ...], changes: dict[str, Any]) -> None:
    spec = replace(SPECS[part], **changes)
    assert broken(spec, commands(spec, *steps)) == {rule}
    assert broken(spec, commands(spec, *steps[:-1])) == set()


@pytest.mark.parametrize("part", SPECS)
def test_another_row_than_the_open_one(part: str) -> None:
    trace = commands(SPECS[part], (1, ACT, 0), (401, WR, 0))
    trace[1, 5] = 6
    (violation,) = check_commands(SPECS[part], trace)
    assert (violation.rule, violation.required, violation.actual, violation.earlier_tick) == ("row open", 6, 5, 1)


# ---- buses ----


@pytest.mark.parametrize("part", SPECS)
@pytest.mark.parametrize("first", [ACT, PRE, RD])
def test_a_command_holds_its_bus(part: str, first: int) -> None:
    """A second command of the same bus, of another bank or pseudo-channel; other channels have their own."""
    spec = replace(SPECS[part], precharge_to_precharge=0, rrd_short=0, rrd_long=0)
    second = RD if first == RD and not spec.one_bus else PRE
    trace = commands(spec, (1, ACT, 0), (401, ACT, 2), (801, first, 4 if first == ACT else 0), (801, second, 2))
    trace[[1, 3], 2] = 0  # pseudo-channel
    trace[3, 0] += ticks(spec, first)
    assert broken(spec, trace) == set()
    trace[3, 0] -= 1
    assert "command bus" in broken(spec, trace)
    trace[[1, 3], 1] = 0  # channel
    assert broken(spec, trace) <= {"rising edge"}


@pytest.mark.parametrize("part", SPECS)
def test_row_and_column_commands_share_a_bus_or_not(part: str) -> None:
    spec = SPECS[part]
    trace = commands(spec, (1, ACT, 0), (401, ACT, 2), (801, RD, 0), (801, PRE, 2))
    assert broken(spec, trace) == ({"command bus"} if spec.one_bus else set())


@pytest.mark.parametrize("command", [ACT, RD, REF, PRE, PREA])
def test_falling_edges_are_for_precharges(command: int) -> None:
    spec = replace(SPECS["hbm3"], refresh_mode="all_bank" if command == REF else "none")
    opened = () if command in (ACT, REF) else ((1, ACT, 0),)
    trace = commands(spec, *opened, (402, command, ALL if command in (REF, PREA) else 0))
    assert broken(spec, trace) == (set() if command in (PRE, PREA) else {"rising edge"})


# ---- what does not bind ----


@pytest.mark.parametrize(("column", "value"), [(1, 0), (2, 0)], ids=["another channel", "another pseudo-channel"])
@pytest.mark.parametrize("toy", [t for t in TOYS if t.last[1] != ALL], ids=lambda t: f"{t.rule} {t.name}")
def test_rules_end_at_the_pseudo_channel(toy: Toy, column: int, value: int) -> None:
    """The last command early, but elsewhere: it may break what it needs there, never the rule."""
    spec = replace(SPECS["hbm2"], **toy.changes)
    trace, _ = play(spec, toy, early=1)
    trace[-1, column] = value
    assert broken(spec, trace) <= {"row open", "command bus"}


# ---- refreshes ----


def refreshed(spec: DramSpec, numbers: range, skip: tuple[int, ...] = ()) -> CommandTrace:
    """REF of every pseudo-channel shortly after each k-th interval."""
    rows = [
        (
            k * spec.refresh_interval * spec.edges + 1 + 2 * place,
            place % spec.channels,
            place // spec.channels,
            REF,
            -1,
            -1,
        )
        for k in numbers
        if k not in skip
        for place in range(spec.channels * spec.pseudo_channels)
    ]
    return np.array(rows, np.int64).reshape(-1, 6)


@pytest.mark.parametrize("part", SPECS)
def test_refreshes_due(part: str) -> None:
    spec = replace(SPECS[part], refresh_mode="all_bank", refresh_interval=1000)
    end = 10 * 1000 * spec.edges + 500
    assert broken(spec, refreshed(spec, range(1, 11)), end) == set()
    assert broken(spec, refreshed(spec, range(1, 10)), end) == set()  # the tenth waits for its turn
    assert broken(spec, refreshed(spec, range(1, 9)), end) == {"refresh late"}
    assert broken(spec, refreshed(spec, range(1, 11), skip=(4,)), end) == {"refresh late"}
    assert broken(spec, refreshed(spec, range(11)), end) == set()
    assert broken(spec, refreshed(spec, range(-1, 11)), end) == {"refresh early"}


def test_one_pseudo_channel_without_its_refreshes_is_found() -> None:
    spec = replace(SPECS["hbm2"], refresh_mode="all_bank", refresh_interval=1000)
    trace = refreshed(spec, range(1, 11))
    found = check_commands(spec, trace[(trace[:, 1] != 1) | (trace[:, 2] != 0)], 10_500)
    assert [(v.rule, v.channel, v.pseudo_channel, v.actual) for v in found] == [("refresh late", 1, 0, -1)]


@pytest.mark.parametrize("part", SPECS)
def test_refreshes_of_single_banks_due(part: str) -> None:
    spec = replace(SPECS[part], refresh_mode="per_bank", refresh_interval=800, channels=1, pseudo_channels=1)
    rows = [(k * 100 * spec.edges + 1, 0, 0, REFB, (k - 1) % 8, -1) for k in range(1, 81)]
    trace, end = np.array(rows, np.int64), 80 * 100 * spec.edges + 50
    assert broken(spec, trace, end) == set()
    found = check_commands(spec, trace[trace[:, 4] != 3], end)
    assert [(v.rule, v.bank) for v in found] == [("refresh late", 3)]


@pytest.mark.parametrize(("mode", "command"), [("none", REF), ("none", REFB), ("all_bank", REFB), ("per_bank", REF)])
def test_refreshes_of_the_wrong_kind(mode: str, command: int) -> None:
    spec = replace(SPECS["hbm2"], refresh_mode=mode)
    assert broken(spec, commands(spec, (1, command, ALL if command == REF else 0))) == {"refresh mode"}


# ---- the answer ----


def test_no_commands_are_legal() -> None:
    assert check_commands(SPECS["hbm2"], np.empty((0, 6), np.int64)) == []


def test_the_first_violations_are_given_in_order_of_time() -> None:
    spec = SPECS["hbm2"]
    trace = commands(spec, *((1 + 2 * number, RD, 0) for number in range(500)))
    found = check_commands(spec, trace)
    assert len(found) == MOST
    assert [v.tick for v in found] == sorted(v.tick for v in found)
    assert found[0].tick == 1


def test_a_violation_reads_as_a_sentence() -> None:
    (violation,) = check_commands(SPECS["hbm2"], commands(SPECS["hbm2"], (1, ACT, 0), (35, PRE, 0)))
    assert str(violation) == "tick 35: channel 1.1 bank 0: PRE: tRAS: 35 ticks apart, found 34 (after ACT at tick 1)"


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (1, 2, r"command 1: channel must be in 0\.\.1, got 2"),
        (2, -1, r"command 1: pseudo_channel must be in 0\.\.1, got -1"),
        (3, 9, r"command 1: command must be in 0\.\.8, got 9"),
        (4, 8, r"command 1: bank must be in 0\.\.7, got 8"),
        (4, -1, r"command 1: bank must be in 0\.\.7, got -1"),
    ],
)
def test_strangers_are_refused(column: int, value: int, message: str) -> None:
    trace = commands(SPECS["hbm2"], (1, ACT, 0), (401, RD, 0))
    trace[1, column] = value
    with pytest.raises(ValueError, match=message):
        check_commands(SPECS["hbm2"], trace)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="columns tick, channel"):
        check_commands(SPECS["hbm2"], np.zeros((3, 5), np.int64))
