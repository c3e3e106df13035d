"""Shipped DRAM standards: consistent, with sources, and by default the reference's configuration."""

import re
from pathlib import Path
from typing import get_args

import pytest

from accel import machine
from accel.controller import Controller
from accel.loading import Faults, check, read_text
from accel.machine import load_standard, standard_names
from accel.memory import Standard, Timing
from sim.dram.spec import PAGES, REFRESHES, SCHEDULERS

FOLDER = Path(machine.__file__).parent / "standards"
SPEEDS = [f"{name}:{speed}" for name in standard_names() for speed in load_standard(name).speed_names]
REQUIRED = {"hbm2", "hbm2e", "hbm3", "hbm3e", "gddr5x", "gddr6", "ddr4", "ddr5", "lpddr4"}


def faults(text: str) -> list[str]:
    with pytest.raises(Faults) as error:
        check(read_text(text.encode(), "x.yaml"), Standard)
    return [str(fault) for fault in error.value.faults]


def text_of(name: str) -> str:
    return (FOLDER / f"{name}.yaml").read_text()


def test_every_standard_that_was_asked_for_is_there() -> None:
    assert set(standard_names()) >= REQUIRED


@pytest.mark.parametrize("name", SPEEDS)
def test_delays_of_a_speed_fit_together(name: str) -> None:
    """Catches a digit lost in a table: the sums and orders that every data sheet keeps."""
    t = load_standard(name).timing
    if not name.startswith("hbm2_released"):  # its preset has tRC < tRAS + tRP
        assert abs(t.row_cycle_cycles - (t.ras_cycles + t.precharge_cycles)) <= 2
    assert t.ras_cycles >= max(t.rcd_read_cycles, t.rcd_write_cycles)
    assert t.ccd_long_cycles >= t.ccd_short_cycles
    assert t.ccd_long_write_cycles >= t.ccd_short_write_cycles
    assert t.rrd_long_cycles >= t.rrd_short_cycles
    assert t.write_to_read_long_cycles >= t.write_to_read_short_cycles
    assert t.faw_cycles >= 3 * t.rrd_short_cycles
    assert t.read_latency_cycles > t.write_latency_cycles
    assert t.read_to_write_cycles >= t.read_latency_cycles - t.write_latency_cycles + t.burst_cycles - 3
    assert t.refresh_bank_cycles < t.refresh_cycles


@pytest.mark.parametrize("name", SPEEDS)
def test_times_of_a_speed_are_those_of_dram(name: str) -> None:
    """Catches cycles of one clock under another: DRAM cells are as slow at every speed."""
    s = load_standard(name)
    t = s.timing
    ns = {
        field: cycles * s.clock_period_ps / 1000
        for field, cycles in t.model_dump().items()
        if field not in ("write_latency_cycles", "burst_cycles")
    }
    low = 6.9 if name.startswith("hbm2_released") else 11.0
    assert low <= ns["precharge_cycles"] <= 20
    assert low <= ns["rcd_read_cycles"] <= 22
    assert 16 <= ns["ras_cycles"] <= 46
    assert 60 <= ns["refresh_cycles"] <= 370
    assert 1800 <= ns["refresh_interval_cycles"] <= 7810
    assert 10 <= ns["faw_cycles"] <= 42


@pytest.mark.parametrize("name", standard_names())
def test_every_number_carries_its_source(name: str) -> None:
    """On its line, or after the closing brace of its list."""
    text = re.sub(r"\{[^{}]+\}", "{0}", text_of(name))
    for number, line in enumerate(text.splitlines(), 1):
        value = line.partition("#")[0].partition(":")[2].strip()
        plain = line.startswith(("name:", "source:", "speed:", "nearest_preset:")) or "left_out:" in line
        if any(c.isdigit() for c in value) and not plain and "source:" not in line:
            assert "#" in line, f"{name}.yaml:{number}: a number without its source"


@pytest.mark.parametrize(
    ("name", "named"), [("hbm2", False), ("ddr4", False), ("hbm2e", True), ("hbm3e", True), ("lpddr4", False)]
)
def test_parts_that_no_public_source_holds_name_what_stands_in(name: str, named: bool) -> None:
    assert bool(load_standard(name).nearest_preset) is named


def test_a_speed_changes_its_delays_and_nothing_else() -> None:
    base, other = load_standard("ddr4"), load_standard("ddr4:3200AA")
    assert (other.speed, other.clock_period_ps, other.timing.read_latency_cycles) == ("3200AA", 625, 22)
    assert other.timing.write_to_read_short_cycles == 4
    assert other.timing.burst_cycles == base.timing.burst_cycles
    assert (other.organisation, other.energy, other.name) == (base.organisation, base.energy, "ddr4")
    assert load_standard("ddr4:2400R") == base


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hbm33", "no standard 'hbm33' (did you mean 'hbm3'? allowed: "),
        ("ddr4:3200AAA", "no speed '3200AAA' of ddr4 (did you mean '3200AA'? allowed: "),
        ("ddr4:", "no speed '' of ddr4 (allowed: "),
        ("dr4:3200AA", "no standard 'dr4' (did you mean 'ddr4'? allowed: "),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        load_standard(name)
    assert str(error.value).startswith(message)


def test_choices_are_those_of_the_controller() -> None:
    """`accel` may not import `sim`: the words stand twice."""
    fields = Controller.model_fields
    assert get_args(fields["scheduler"].annotation) == SCHEDULERS
    assert get_args(fields["page"].annotation) == PAGES
    assert get_args(fields["refresh"].annotation) == REFRESHES


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("banks_per_group: 4 ", "banks_per_group: 16", "must be at most 8: a channel has at most 64 banks"),
        ("rows: 65536 ", "rows: 524288", "organisation.rows: must be <= 262144, got 524288"),
        ("burst_bytes: 32 ", "burst_bytes: 2048", "organisation.burst_bytes: must be at most row_bytes, got 2048"),
        ("edges: 1 ", "edges: 3", "bus.edges: must be 1 or 2, got 3"),
        ("write_low: 0.2 ", "write_low: 0.9", "write_low: must be at most write_high, got 0.9"),
        ("read_queue: 64 ", "read_queue: 0", "default.controller.read_queue: must be >= 1, got 0"),
        ("method: events", "method: event", "energy: must be of kind 'currents', 'events'"),
        ("refresh_pj: 30420", "refresh_pj: -1", "energy.refresh_pj: must be >= 0, got -1"),
        ("io_pj_per_bit: 0.80", "io_pj_per_bit: null", "energy.io_pj_per_bit: must be a number"),
        ("address_map: bgi", "address_map: bgx", "default.address_map: must be "),
        ("address_map: bgi", "address_map: [chanel]", "address_map[0]: no address field (did you mean 'channel'?"),
        ("address_map: bgi", 'address_map: ["row:0"]', "must be a field or field:bits with 1 to 32 bits"),
        ("refresh_cycles: 421,", "refresh_cycles: 4000,", "speed 2400Mbps: refresh_interval_cycles must be at least"),
        ("refresh_cycles: 421,", "refresh_cycle: 421,", "unknown key (did you mean 'refresh_cycles'?"),
    ],
)  # fmt: skip
def test_a_part_that_cannot_be_is_refused(old: str, new: str, message: str) -> None:
    text = text_of("hbm2")
    assert old in text
    found = faults(text.replace(old, new, 1))
    assert any(message in fault for fault in found), found


def test_every_delay_is_a_delay_of_the_controller() -> None:
    from sim.dram.spec import DramSpec

    names = {f"{name}_cycles" for name in DramSpec.__dataclass_fields__}
    assert set(Timing.model_fields) <= names
