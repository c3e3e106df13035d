"""A machine's memory section: address maps by list and by name, XOR rules, numbers of channels, assumed ranges."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.address_map import MAP_NAMES, named_map, resolved
from accel.loading import Faults
from accel.machine import assumptions, load_machine, load_standard
from accel.memory import Memory, address_fields, address_xor

HBM2, DDR4, HBM3E = load_standard("hbm2"), load_standard("ddr4"), load_standard("hbm3e")
SPATTEN = load_machine("spatten").memory


def memory(address_map: object, channels: int = 16, xor: tuple[str, ...] = ()) -> Memory:
    return SPATTEN.model_copy(update={"address_map": address_map, "channels": channels, "xor": xor})


def shown(fields: tuple[tuple[str, int], ...]) -> str:
    return ",".join(f"{name}:{bits}" for name, bits in fields)


def override(values: dict[str, object]) -> str:
    with pytest.raises(Faults) as error:
        load_machine("spatten", values)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "standard", "channels", "expected"),
    [  # the first four as the reference results spell them out
        ("bgi", "hbm2", 16, "column:1,channel:4,pseudo_channel:1,bank_group:2,column:4,bank:2,row:16"),
        ("rbc", "hbm2", 16, "column:1,channel:4,pseudo_channel:1,column:4,bank_group:2,bank:2,row:16"),
        ("bgi", "ddr4", 4, "channel:2,bank_group:2,column:7,bank:2,row:16"),
        ("bgi", "ddr5", 8, "channel:3,bank_group:3,column:6,bank:2,row:16"),
        ("robaracoch", "hbm3", 16, "column:1,channel:4,column:4,pseudo_channel:1,bank_group:2,bank:2,row:14"),
        ("mop4clxor", "hbm3", 16, "column:1,channel:4,column:1,pseudo_channel:1,bank_group:2,bank:2,column:3,row:14"),
        ("mop4clxor", "ddr4", 1, "column:2,bank_group:2,bank:2,column:5,row:16"),
        ("bgi", "hbm3e", 96, "column:1,channel:0,pseudo_channel:1,bank_group:3,column:4,bank:2,row:14"),
        ("bgi", "gddr5x", 12, "channel:0,bank_group:2,column:6,bank:2,row:14"),
        ("rbc", "lpddr4", 4, "column:1,channel:2,column:5,bank:3,row:16"),
    ],
)
def test_named_maps(name: str, standard: str, channels: int, expected: str) -> None:
    assert shown(address_fields(memory(name, channels), load_standard(standard))) == expected


def test_mop4clxor_mixes_every_bit_with_a_column_bit_of_its_own() -> None:
    """Ramulator's rule: pseudo-channel, bank group, bank and row bits, in this order, with ascending column bits."""
    assert address_xor(memory("mop4clxor"), HBM2) == (
        ("pseudo_channel", 0, "column", 0), ("bank_group", 0, "column", 1), ("bank_group", 1, "column", 2),
        ("bank", 0, "column", 3), ("bank", 1, "column", 4),
    )  # fmt: skip
    assert address_xor(memory("mop4clxor", 4), DDR4)[4:] == (
        ("row", 0, "column", 4), ("row", 1, "column", 5), ("row", 2, "column", 6),
    )  # fmt: skip


@given(st.sampled_from(MAP_NAMES), st.integers(1, 64), st.sampled_from(["hbm2", "ddr4", "gddr6", "lpddr4", "ddr5"]))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_named_maps_hold_for_any_number_of_channels(name: str, channels: int, standard: str) -> None:
    """Every field whole; channels once, divided out or as bits; 64 bytes stay together."""
    part = load_standard(standard)
    o = part.organisation
    places = channels * o.pseudo_channels * o.bank_groups * o.banks_per_group * o.rows * o.row_bytes // o.burst_bytes
    if places > 1 << 32:
        with pytest.raises(ValueError, match="32 bits above the burst"):
            address_fields(memory(name, channels), part)
        return
    fields = address_fields(memory(name, channels), part)
    bits: dict[str, int] = {}
    for field, count in fields:
        bits[field] = bits.get(field, 0) + count
    assert 1 << bits["row"] == o.rows
    assert 1 << bits["column"] == o.row_bytes // o.burst_bytes
    assert 1 << bits.get("channel", 0) == (1 if channels & (channels - 1) else channels)
    assert ("channel", 0) in fields if channels & (channels - 1) else ("channel", 0) not in fields
    below = 0
    for field, count in fields:
        if field == "channel":
            assert o.burst_bytes << below == 64
        below += count


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"memory.address_map": "bgj"}, "memory.address_map: must be 'bgi', 'rbc', 'robaracoch' or 'mop4clxor' or"),
        ({"memory.address_map": ["chanel", "row"]}, "address_map[0]: no address field (did you mean 'channel'?"),
        ({"memory.address_map": ["channel:0"]}, "must be a field or field:bits with 1 to 32 bits, got \"channel:0\""),
        ({"memory.address_map": []}, "must have at least 1 entries"),
        ({"memory.address_map": ["channel"]}, "must use every address bit, pseudo_channel:1, bank_group:2, bank:2"),
        ({"memory.address_map": ["channel:5"]}, "'channel:5' takes 5 bits, 4 are left of channel"),
        ({"memory.channels": 0}, "memory.channels: must be >= 1, got 0"),
        ({"memory.channels": 128}, "must have at most 32 bits above the burst, got 33"),
        ({"memory.channels": 96}, "must have at most 32 bits above the burst, got 26 and 96 channels"),
        ({"memory.standard": "hbm22"}, "memory.standard: no such standard, got \"hbm22\" (did you mean 'hbm2'"),
        ({"memory.standard": "hbm2:2000"}, "no such speed of hbm2, got \"2000\" (did you mean '2000Mbps'?"),
        ({"memory.controller.scheduler": "fcf"}, "memory.controller.scheduler: must be 'fr_fcfs'"),
        ({"memory.controller.read_queue": 0}, "memory.controller.read_queue: must be >= 1, got 0"),
        ({"memory.controller.write_high": 0.1}, "write_low: must be at most write_high, got 0.2"),
        ({"memory.queue_depth": 4}, "memory.queue_depth: unknown path"),
    ],
)  # fmt: skip
def test_a_memory_that_cannot_be_is_refused(values: dict[str, object], message: str) -> None:
    assert message in override(values)


def test_channels_that_are_divided_out_cannot_be_cut() -> None:
    rest = ["pseudo_channel", "bank_group", "column", "bank", "row"]
    assert address_fields(memory(("channel", *rest), 12), HBM2)[0] == ("channel", 0)
    with pytest.raises(ValueError, match="'channel:1' cuts a number of channels that is no power of two, got 12"):
        address_fields(memory(("channel:1", *rest, "channel"), 12), HBM2)
    with pytest.raises(ValueError, match="must name channel once, got it 0 times"):
        address_fields(memory(tuple(rest), 12), HBM2)
    with pytest.raises(ValueError, match="must name channel once, got it 2 times"):
        address_fields(memory(("channel", "channel", *rest), 12), HBM2)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("bank_group:2 ^ row:0", "xor names bit 2 of bank_group, which has 2 bits"),
        ("bank:0 ^ row:16", "xor names bit 16 of row, which has 16 bits"),
    ],
)
def test_xor_rules_name_bits_that_exist(rule: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        address_xor(memory("bgi", xor=(rule,)), HBM2)


def test_xor_rules_do_not_read_what_they_change() -> None:
    """Two bits that invert each other would send two addresses to one place."""
    with pytest.raises(ValueError, match="reads bit 0 of bank, which another rule inverts"):
        address_xor(memory("bgi", xor=("bank:0 ^ row:0", "bank_group:0 ^ bank:0")), HBM2)
    assert address_xor(memory("bgi", xor=("bank:0 ^ row:0",)), HBM2) == (("bank", 0, "row", 0),)


@pytest.mark.parametrize("rule", ["bank:0", "bank:0 ^ raw:1", "bank ^ row", "bank:x ^ row:0", "bank:0 ^ row:1 ^ row:2"])
def test_xor_rules_have_one_form(rule: str) -> None:
    with pytest.raises(ValueError, match="must be like"):
        Memory.model_validate(SPATTEN.model_dump() | {"xor": (rule,)})


def test_unknown_map_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="no address map 'robarococh' \\(did you mean 'robaracoch'"):
        named_map("robarococh", {}, 32)


def test_a_map_of_no_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="must use every address bit, row:3 left over"):
        resolved(["column"], {"column": 2, "row": 3}, 1)


def test_spatten_has_two_configurations_that_differ_in_the_memory_alone() -> None:
    best, released = load_machine("spatten"), load_machine("spatten_as_released")
    assert (best.memory.configuration, released.memory.configuration) == ("best_map", "as_released")
    same = {"name": "spatten", "memory": best.memory}
    assert released.model_copy(update=same) == best
    assert released.memory.controller.outstanding_reads * HBM2.organisation.pseudo_channels == 16
    assert address_fields(released.memory, load_standard(released.memory.standard))[0] == ("channel", 4)


def test_assumed_queues_keep_their_ranges() -> None:
    ranges = assumptions("spatten")
    assert ranges["memory.controller.read_queue"] == (8, 64)
    assert load_machine("spatten", {"memory.controller.read_queue": 8}).memory.controller.read_queue == 8
