"""From a memory section and a DRAM standard to the controller: every bit, delay and choice arrives once."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.machine import load_machine, load_standard
from accel.memory import Memory, address_fields
from dataflow.memory import default_memory, default_spec, dram_spec, peak_bytes_per_s, period_ps
from sim.dram import start_memory
from sim.dram.front import decode
from sim.dram.layout import BANK_MASK, ROW_MASK, ROW_PLACE
from sim.dram.spec import DramSpec

HBM2 = load_standard("hbm2")
SIZES = {"pseudo_channels": 2, "bank_groups": 2, "banks_per_group": 4, "rows": 8, "row_bytes": 128, "burst_bytes": 32}
SMALL = HBM2.model_copy(update={"organisation": HBM2.organisation.model_copy(update=SIZES)})
BITS = {"channel": 1, "pseudo_channel": 1, "bank_group": 1, "bank": 2, "column": 2, "row": 3}
REFERENCE = {  # peak in GB/s; channels; bursts of 64 bytes
    "hbm2": (512.0, 16), "hbm3": (819.2, 16), "ddr4": (76.831, 4), "gddr6": (449.123, 16), "ddr5": (153.846, 8),
}  # fmt: skip
Place = dict[str, int]


def memory(*address_map: str, channels: int = 2, xor: tuple[str, ...] = ()) -> Memory:
    chosen = {"address_map": address_map, "channels": channels, "xor": xor}
    return load_machine("spatten").memory.model_copy(update=chosen)


def place_of(spec: DramSpec, burst: int) -> Place:
    """Where a burst number lies, bit by bit, from the words of `DramSpec`."""
    place, filled = dict.fromkeys(BITS, 0), dict.fromkeys(BITS, 0)
    for name, bits in spec.fields:
        if name == "channel" and not bits:
            burst, place["channel"] = divmod(burst, spec.channels)
        place[name] |= (burst & ((1 << bits) - 1)) << filled[name]
        burst, filled[name] = burst >> bits, filled[name] + bits
    before = dict(place)
    for name, bit, other, other_bit in spec.xor:
        place[name] ^= (before[other] >> other_bit & 1) << bit
    assert burst == 0
    return place


def controllers_place(spec: DramSpec, bursts: range) -> Iterator[tuple[int, int, int, int]]:
    """(channel, pseudo-channel, bank in it, row) as the jitted controller sees them."""
    state, banks = start_memory(spec, 0), spec.bank_groups * spec.banks_per_group
    for burst in bursts:
        code, channel = (int(x) for x in decode(state.config, state.state, np.int64(burst)))
        pseudo, bank = divmod((code >> 1) & BANK_MASK, banks)
        yield channel, pseudo, bank, (code >> ROW_PLACE) & ROW_MASK


def expected_place(spec: DramSpec, burst: int) -> tuple[int, int, int, int]:
    p = place_of(spec, burst)
    return p["channel"], p["pseudo_channel"], p["bank_group"] * spec.banks_per_group + p["bank"], p["row"]


@st.composite
def address_maps(draw: st.DrawFn) -> list[str]:
    """Every field whole or one bit at a time, in any order; the last entry of a name may leave out its bits."""
    pieces = []
    for name, bits in BITS.items():
        pieces += [f"{name}:1"] * bits if draw(st.booleans()) else [name]
    return draw(st.permutations(pieces))


XOR = st.lists(
    st.tuples(st.sampled_from(["bank_group:0", "bank:0", "bank:1", "pseudo_channel:0"]), st.integers(0, 2)), max_size=4
)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(address_maps(), XOR)
def test_bursts_lie_in_places_of_their_own(entries: list[str], xor: list[tuple[str, int]]) -> None:
    """Of 1024 bursts no two lie in one place, and the controller sees the same places."""
    rules = tuple(f"{bit} ^ row:{row}" for bit, row in xor)
    spec = dram_spec(memory(*entries, xor=rules), SMALL, 10**9)
    assert sum(bits for _, bits in spec.fields) == 10
    assert len({tuple(place_of(spec, burst).values()) for burst in range(1024)}) == 1024
    assert list(controllers_place(spec, range(1024))) == [expected_place(spec, burst) for burst in range(1024)]


@pytest.mark.parametrize("channels", [1, 3, 5, 12])
def test_any_number_of_channels_is_divided_out(channels: int) -> None:
    """Neighbouring lines go round the channels, and no two bursts share a place."""
    spec = dram_spec(memory("column:1", "channel", "pseudo_channel", "bank_group", "column", "bank", "row",
                            channels=channels), SMALL, 10**9)  # fmt: skip
    bursts = range(512 * channels)
    places = [place_of(spec, burst) for burst in bursts]
    assert len({tuple(place.values()) for place in places}) == len(bursts)
    assert [place["channel"] for place in places[: 4 * channels]] == [b // 2 % channels for b in range(4 * channels)]
    assert list(controllers_place(spec, bursts)) == [expected_place(spec, burst) for burst in bursts]


def test_the_shipped_map_spreads_neighbours_over_all_channels() -> None:
    machine = load_machine("spatten")
    spec = dram_spec(machine.memory, HBM2, machine.clock_hz)
    found = {(place["channel"], place["pseudo_channel"]) for place in (place_of(spec, b) for b in range(32))}
    assert len(found) == 32


def test_mop4clxor_moves_the_next_four_bursts_to_another_place() -> None:
    """Four bursts of a row, then another pseudo-channel; the column's bits permute banks, so that strides spread."""
    spec = default_spec("hbm3", map="mop4clxor", channels=1)
    places = [place_of(spec, burst) for burst in range(8)]
    assert {(p["row"], p["bank"]) for p in places} == {(0, 0)}
    stride = spec.pseudo_channels * spec.bank_groups * spec.banks_per_group * 4
    banks = {(p["bank_group"], p["bank"]) for p in (place_of(spec, stride * i) for i in range(8))}
    assert len(banks) == 8


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
    bus = {"one_bus": True, "edges": 2, "activate_ticks": 3, "row_ticks": 4, "column_ticks": 5}
    change = {"timing": HBM2.timing.model_copy(update=delays), "bus": HBM2.bus.model_copy(update=bus)}
    spec = dram_spec(load_machine("spatten").memory, HBM2.model_copy(update=change), 10**9)
    assert {f"{name}_cycles": value for name, value in vars(spec).items() if f"{name}_cycles" in delays} == delays
    assert {name: vars(spec)[name] for name in bus} == bus


def test_every_choice_of_the_machine_reaches_the_controller() -> None:
    chosen = {
        "scheduler": "fcfs", "page": "closed", "refresh": "per_bank", "row_hit_cap": 11, "read_queue": 12,
        "write_queue": 13, "write_high": 0.7, "write_low": 0.1, "outstanding_reads": 14,
    }  # fmt: skip
    machine = load_machine("spatten", {f"memory.controller.{name}": value for name, value in chosen.items()})
    spec = dram_spec(machine.memory, HBM2, 2 * 10**9)
    assert {name: vars(spec)[name.replace("refresh", "refresh_mode")] for name in chosen} == chosen
    assert (spec.fifo_depth, spec.request_lanes, spec.core_ps, spec.memory_ps) == (64, 32, 500, 1000)


def test_peak_of_table_i() -> None:
    """SpAtten, Table I: 16 channels of 32 GB/s."""
    assert peak_bytes_per_s(load_machine("spatten").memory, HBM2) == 512e9


@pytest.mark.parametrize("name", REFERENCE)
def test_default_is_the_reference_configuration(name: str) -> None:
    """As the files of the reference results spell it out: peak, channels, queues, policies."""
    peak, channels = REFERENCE[name]
    spec, standard = default_spec(name), load_standard(name)
    assert peak_bytes_per_s(default_memory(standard), standard) / 1e9 == pytest.approx(peak, rel=1e-5)
    assert (spec.channels, spec.core_ps, spec.fifo_depth, spec.request_lanes) == (channels, spec.memory_ps, 0, 0)
    choices = (spec.scheduler, spec.page, spec.refresh_mode, spec.row_hit_cap, spec.read_queue, spec.write_queue)
    assert choices == ("fr_fcfs", "open", "all_bank", 0, 64, 32)
    assert (spec.write_high, spec.write_low, spec.outstanding_reads) == (0.8, 0.2, 64)


def test_options_change_the_default() -> None:
    base = default_spec("ddr4")
    changed = default_spec("ddr4", map="rbc", channels=2, page="closed", refresh="none", read_queue=8, fifo_depth=3)
    fields = (("channel", 1), ("column", 7), ("bank_group", 2), ("bank", 2), ("row", 16))
    assert changed == replace(
        base, fields=fields, channels=2, page="closed", refresh_mode="none", read_queue=8, fifo_depth=3
    )
    named = default_spec("ddr4", address_map=["channel", "column", "bank", "bank_group", "row"])
    assert named.fields[1] == ("column", 7)
    assert default_spec("ddr4:3200AA").memory_ps == 625


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"map": "bgx"}, "no address map 'bgx' (did you mean 'bgi'? allowed: bgi, mop4clxor, rbc, robaracoch)"),
        ({"map": ["chanel"]}, "address_map: no address field (did you mean 'channel'?"),
        ({"map": ["channel"]}, "must use every address bit, bank_group:2, bank:2"),
        ({"schedular": "fcfs"}, "no option 'schedular' of a DRAM (did you mean 'scheduler'?"),
        ({"scheduler": "fcf"}, "scheduler: must be 'fr_fcfs', 'fr_fcfs_unprotected' or 'fcfs', got \"fcf\""),
        ({"channels": 0, "read_queue": 1.5}, "channels: must be >= 1, got 0\nread_queue: must be a whole number, got"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as error:
        default_spec("ddr4", **options)
    assert message in str(error.value)
