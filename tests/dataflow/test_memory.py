"""From a memory section and a DRAM standard to the controller: the address map uses every bit once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.machine import load_machine, load_standard
from accel.memory import Memory, Standard, address_fields
from dataflow.memory import dram_spec, peak_bytes_per_s, period_ps
from sim.dram import MemoryState, start_memory
from sim.dram.front import _decode
from sim.dram.layout import BANK_MASK, ROW_MASK, ROW_PLACE, SLICE_PLACE

HBM2 = load_standard("hbm2")
SIZES = {"pseudo_channels": 2, "bank_groups": 2, "banks_per_group": 4, "rows": 8, "row_bytes": 128, "burst_bytes": 32}
SMALL = HBM2.model_copy(update={"organisation": HBM2.organisation.model_copy(update=SIZES)})
BITS = {"channel": 1, "pseudo_channel": 1, "bank_group": 1, "bank": 2, "column": 2, "row": 3}


def memory(*address_map: str, channels: int = 2) -> Memory:
    return load_machine("spatten").memory.model_copy(update={"address_map": address_map, "channels": channels})


def place_of(state: MemoryState, burst: int) -> tuple[int, int, int]:
    """(pseudo-channel, bank, row) of a burst number."""
    code = int(_decode(state.config, state.state, burst))
    return code >> SLICE_PLACE, (code >> 1) & BANK_MASK, (code >> ROW_PLACE) & ROW_MASK


@st.composite
def address_maps(draw: st.DrawFn) -> list[str]:
    """Every field whole or one bit at a time, in any order; the last entry of a name may leave out its bits."""
    pieces = []
    for name, bits in BITS.items():
        pieces += [f"{name}:1"] * bits if draw(st.booleans()) else [name]
    return draw(st.permutations(pieces))


@settings(max_examples=50, derandomize=True, deadline=None)
@given(address_maps())
def test_bursts_lie_in_places_of_their_own(entries: list[str]) -> None:
    """Of 1024 bursts, each (pseudo-channel of all, bank, row) holds exactly the 4 columns of a row."""
    fields = address_fields(memory(*entries), SMALL)
    assert sum(bits for _, bits in fields) == 10
    state = start_memory(dram_spec(memory(*entries), SMALL, 10**9), 0)
    places = [place_of(state, burst) for burst in range(1024)]
    found, times = np.unique(places, axis=0, return_counts=True)
    assert len(found) == 4 * 8 * 8
    assert set(times.tolist()) == {4}
    assert found.max(axis=0).tolist() == [3, 7, 7]


def test_the_shipped_map_spreads_neighbours_over_all_channels() -> None:
    machine = load_machine("spatten")
    state = start_memory(dram_spec(machine.memory, HBM2, machine.clock_hz), 0)
    assert {place_of(state, burst)[0] for burst in range(32)} == set(range(32))


def test_banks_of_a_group_are_numbered_together() -> None:
    """The controller takes bank // banks_per_group as the group: bit 0 of the map is the group here."""
    entries = ("bank_group", "bank", "channel", "pseudo_channel", "column", "row")
    state = start_memory(dram_spec(memory(*entries), SMALL, 10**9), 0)
    assert [place_of(state, burst)[1] for burst in range(4)] == [0, 4, 1, 5]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (("channel", "column:1", "bank", "bank_group", "row", "pseudo_channel"), "every address bit, column:1 left"),
        (("channel", "column", "bank", "bank_group", "row"), "pseudo_channel:1 left over"),
        (("channel", "column:3", "bank", "bank_group", "row", "pseudo_channel"), "'column:3' takes 3 bits, 2 are left"),
        (("channel", "channel:1", "column", "bank", "bank_group", "row", "pseudo_channel"), "'channel:1' takes 1 bits"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(entries: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        address_fields(memory(*entries), SMALL)


@pytest.mark.parametrize(("clock_hz", "period"), [(10**9, 1000), (8 * 10**8, 1250), (12 * 10**8, 833), (10**13, 1)])
def test_periods_are_rounded_to_whole_picoseconds(clock_hz: int, period: int) -> None:
    assert period_ps(clock_hz) == period


def test_every_delay_of_the_standard_reaches_the_controller() -> None:
    """Numbers that are all different, so that no two of them can be swapped."""
    delays = {name: 100 + i for i, name in enumerate(HBM2.timing.model_dump())}
    standard = HBM2.model_copy(update={"timing": HBM2.timing.model_copy(update=delays)})
    spec = dram_spec(load_machine("spatten").memory, standard, 10**9)
    assert {f"{name}_cycles": value for name, value in vars(spec).items() if f"{name}_cycles" in delays} == delays


def test_peak_of_table_i() -> None:
    """SpAtten, Table I: 16 channels of 32 GB/s."""
    standard: Standard = HBM2
    assert peak_bytes_per_s(load_machine("spatten").memory, standard) == 512e9
