"""DRAM energy: DRAMPower's figures from its counts, closed forms, and the split over operands."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.dram_energy import Currents
from accel.machine import load_machine, load_standard, standard_names
from accel.memory import Standard
from dataflow.dram_energy import COMPONENTS, by_operand, dram_energy, dram_energy_j

PJ = 1e-12
DDR4, HBM2 = load_standard("ddr4"), load_standard("hbm2")
COUNTS = ("activates", "precharges", "reads", "writes", "refreshes", "refreshes_bank")
# DRAMPower 5.1 (commit 58be10b) on the command traces of Ramulator 2.1 (commit c5b1c3a): DDR4-2400R, 4 channels, 8
# devices, 100 000 requests of 64 B, open page, refresh on. Counts; cycles; share of them with a bank open; picojoules
# of activate, precharge, read, write, refresh and background (active and precharged). Precharges count banks: some
# were closed by a precharge of all banks.
DRAMPOWER = {
    "seq": ((1024, 992, 100000, 0, 44), 105214, 0.9983,
            (1596800, 1776953.6, 294282240.0, 0, 31537504, 144541920.0 + 192498.9)),
    "rand": ((99803, 99739, 100000, 0, 72), 171748, 0.9983,
             (155630400.0, 178660800.0, 294282240.0, 0, 51606720.0, 235902400.0 + 314306.2)),
    "kv64_k25": ((6448, 6400, 100000, 0, 44), 112333, 0.9785,
                 (10054848, 11464216, 294282240.0, 0, 31537504, 151251280.0 + 2629731.0)),
    "plane_l25": ((5186, 5146, 100000, 0, 44), 109465, 0.9845,
                  (8086920, 9217944, 294282160.0, 0, 31537504, 148299240.0 + 1844780.7)),
    "mixr": ((99864, 99801, 66684, 33311, 72), 176440, 0.9984,
             (155725520.0, 178771760.0, 196239200.0, 85242000.0, 51606720.0, 242355200.0 + 314306.2)),
}  # fmt: skip


@pytest.mark.parametrize("trace", DRAMPOWER)
def test_ddr4_agrees_with_drampower(trace: str) -> None:
    counts, cycles, active, expected = DRAMPOWER[trace]
    commands = dict(zip(COUNTS, counts, strict=False))
    energy = dram_energy(DDR4, commands, cycles, 4 * cycles * active, channels=4)
    assert [energy[name] / PJ for name in COMPONENTS[:6]] == pytest.approx(expected, rel=0.002, abs=1.0)
    assert sum(energy.values()) / PJ == pytest.approx(sum(expected), rel=0.002)
    assert energy["io"] == 0.0


def test_one_command_of_a_rank_costs_its_current_above_standby() -> None:
    """DDR4-2400R: volts x mA x cycles x 0.833 ns x 8 devices."""
    cell = 1.2 * 8 * 0.833
    one = {name: dram_energy(DDR4, {name: 1}) for name in COUNTS}
    assert one["activates"]["activate"] / PJ == pytest.approx((48 - 43) * 39 * cell)
    assert one["precharges"]["precharge"] / PJ == pytest.approx((48 - 34) * 16 * cell)
    assert one["reads"]["read"] / PJ == pytest.approx((135 - 43) * 4 * cell)
    assert one["writes"]["write"] / PJ == pytest.approx((123 - 43) * 4 * cell)
    assert one["refreshes"]["refresh"] / PJ == pytest.approx((250 - 43) * 433 * cell)
    assert 16 * one["refreshes_bank"]["refresh"] == pytest.approx(one["refreshes"]["refresh"])
    assert all(sum(energy.values()) == max(energy.values()) for energy in one.values())


def test_background_is_open_or_closed_standby() -> None:
    cell = 1.2 * 8 * 0.833
    assert dram_energy(DDR4, {}, 100, 0)["background"] / PJ == pytest.approx(34 * 100 * cell)
    assert dram_energy(DDR4, {}, 100, 100)["background"] / PJ == pytest.approx(43 * 100 * cell)
    assert dram_energy(DDR4, {}, 100, 50, channels=4)["background"] / PJ == pytest.approx((43 * 50 + 34 * 350) * cell)
    assert dram_energy(HBM2, {}, 100, 50)["background"] == pytest.approx((0.033 * 50 + 0.024 * 150) * 1e-9)


def test_events_of_hbm2() -> None:
    """O'Connor et al.: 909 pJ a row, 2.68 pJ a bit in the core and 0.80 at the pins; a burst is 256 bits."""
    energy = dram_energy(HBM2, {"activates": 3, "precharges": 3, "reads": 5, "writes": 2, "refreshes": 1})
    expected = {"activate": 3 * 909, "precharge": 0, "read": 5 * 256 * 2.68, "write": 2 * 256 * 2.68,
                "refresh": 30420, "background": 0, "io": 7 * 256 * 0.80}  # fmt: skip
    assert {name: joules / PJ for name, joules in energy.items()} == pytest.approx(expected)


def test_supplies_and_pins_of_lpddr4() -> None:
    """Two supplies add up; the pins take VDDQ's published currents: 3.21 pJ a bit read, 1.17 written."""
    part = load_standard("lpddr4")
    energy = dram_energy(part, {"reads": 1, "writes": 3})
    assert energy["read"] / PJ == pytest.approx((1.8 * 0 + 1.1 * 245) * 8 * 0.625)
    assert energy["io"] / PJ == pytest.approx(256 * (3.21 + 3 * 1.17))


def test_a_speed_has_its_own_clock() -> None:
    """The same current for as many cycles of a faster clock costs less."""
    fast = load_standard("ddr4:3200AA")
    ratio = dram_energy(fast, {"reads": 1})["read"] / dram_energy(DDR4, {"reads": 1})["read"]
    assert ratio == pytest.approx(625 / 833)


@pytest.mark.parametrize("name", standard_names())
def test_every_part_is_priced_within_what_dram_costs(name: str) -> None:
    """Row and data energies above nothing, a stream between 0.8 and 20 pJ a bit; what is missing is said."""
    part: Standard = load_standard(name)
    o, t = part.organisation, part.timing
    bursts = o.row_bytes // o.burst_bytes
    counts = {"activates": 1, "precharges": 1, "reads": bursts}
    energy = dram_energy(part, counts, bursts * t.burst_cycles, bursts * t.burst_cycles)
    assert 0.8 <= sum(energy.values()) / PJ / (o.row_bytes * 8) <= 20
    assert energy["activate"] > 0
    assert part.energy.left_out
    zero = dram_energy(part, {})
    assert set(zero) == set(COMPONENTS)
    assert not any(zero.values())
    if isinstance(part.energy, Currents):
        assert all(s.idd0_ma > s.idd3n_ma >= s.idd2n_ma for s in part.energy.supplies)


NUMBERS = st.integers(0, 10**9)
MOVED = st.dictionaries(st.sampled_from("qkvo"), st.tuples(NUMBERS, NUMBERS), min_size=1)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    MOVED, st.none() | st.dictionaries(st.sampled_from("qkvo"), NUMBERS), st.sampled_from(["ddr4", "hbm2", "lpddr4"])
)
def test_operands_share_all_of_it(
    moved: dict[str, tuple[int, int]], activates: dict[str, int] | None, name: str
) -> None:
    part = load_standard(name)
    energy = dram_energy(part, dict.fromkeys(COUNTS, 1000), 10_000, 10_000)
    shares = by_operand(part, energy, moved, activates)
    for component in COMPONENTS:
        total = sum(share[component] for share in shares.values())
        assert total == pytest.approx(energy[component], rel=1e-9), component


def test_operands_pay_for_what_they_did() -> None:
    part = load_standard("lpddr4")
    energy = dram_energy(part, {"activates": 4, "precharges": 4, "reads": 3, "writes": 1})
    shares = by_operand(part, energy, {"k": (64, 0), "v": (32, 0), "o": (0, 32)}, {"k": 1, "o": 3})
    assert shares["o"]["write"] == energy["write"]
    assert shares["o"]["read"] == 0
    assert shares["k"]["read"] == pytest.approx(2 * shares["v"]["read"])
    assert shares["o"]["activate"] == pytest.approx(3 * shares["k"]["activate"])
    assert shares["v"]["activate"] == 0
    assert shares["v"]["io"] / PJ == pytest.approx(256 * 3.21)
    assert shares["o"]["io"] / PJ == pytest.approx(256 * 1.17)


def test_spatten_pays_rows_and_bits() -> None:
    """909 pJ an activate, 2.68 pJ a bit inside and 0.80 at the pins; operands by their bytes and activates."""
    standard = load_standard(load_machine("spatten").memory.standard)
    commands, moved = {"activates": 10, "reads": 200}, {"key": (4800, 0), "value": (1600, 0)}
    parts, operands = dram_energy_j(standard, commands, (0.0, 0.0), 16, moved, {"key": 10, "value": 0})
    bits = 6400 * 8 * PJ
    assert parts == pytest.approx({"dram_activate": 9090 * PJ, "dram_read": 2.68 * bits, "dram_io": 0.80 * bits})
    assert operands == pytest.approx({"key": 9090 * PJ + 3.48 * bits * 3 / 4, "value": 3.48 * bits / 4})


def test_spatten_pays_standby_and_refresh() -> None:
    """Sixteen channels of two, half of the time with a row open; 33 and 24 mW, 30.42 nJ a refresh."""
    standard = load_standard(load_machine("spatten").memory.standard)
    parts, _ = dram_energy_j(standard, {"refreshes": 3}, (1000.0, 16000.0), 16, {"key": (64, 0)}, {})
    standby = 16000 * 1e-9 * (0.033 + 0.024)
    assert parts == pytest.approx({"dram_refresh": 3 * 30420 * PJ, "dram_background": standby})
