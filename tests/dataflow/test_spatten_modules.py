"""SpAtten's modules that move data: number formats, bitwidth converter, fetcher with its crossbars."""

from collections import deque
from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sim.dram.layout as L
from accel.machine import load_machine, load_standard
from accel.memory import Memory
from accel.spatten import SpattenMachine
from dataflow.memory import dram_spec
from dataflow.spatten.modules import converter, fetcher
from dataflow.spatten.modules.fetcher import Channels
from dataflow.spatten.modules.fixed_point import fits, quantize, shift_round
from sim.dram import start_memory
from sim.dram.front import decode
from sim.dram.layout import channels_of
from tests.sim.serving import hand_over

SPLITS = ((4, 0), (4, 4), (6, 0), (6, 4), (8, 0), (8, 4), (10, 0), (12, 0), (4, 8))
LANES, CHANNELS = 32, 16  # Table I


def spatten(**memory: object) -> SpattenMachine:
    loaded = load_machine("spatten")
    assert isinstance(loaded, SpattenMachine)
    return loaded.model_copy(update={"memory": Memory.model_validate(loaded.memory.model_dump() | memory)})


# numbers


@pytest.mark.parametrize("bits", [4, 6, 8, 10, 12])
def test_quantization_is_the_nearest_code_and_ties_go_to_the_even_one(bits: int) -> None:
    """Against fractions; half steps among the values."""
    top = (1 << bits - 1) - 1
    values = np.concatenate([[top], np.arange(-2 * top, 2 * top + 1) / 2, np.random.default_rng(bits).normal(size=99)])
    fixed = quantize(values, bits)
    assert fixed.scale == 1
    assert fixed.code.tolist() == [round(Fraction(v)) for v in values]
    assert np.abs(fixed.value - values).max() <= 0.5
    assert not fits(fixed.code, bits - 1)


def test_quantization_of_odd_input() -> None:
    assert quantize(np.zeros((2, 3)), 12).code.tolist() == [[0] * 3] * 2
    assert np.isfinite(quantize(np.array([5e-324]), 12).value).all()
    with pytest.raises(ValueError, match="finite, got inf"):
        quantize(np.array([1.0, np.inf]), 12)
    with pytest.raises(ValueError, match="at least 2"):
        quantize(np.ones(2), 1)


@pytest.mark.parametrize("places", [0, 1, 5])
def test_shift_rounds_to_nearest(places: int) -> None:
    values = np.arange(-200, 200)
    nearest = [floor(Fraction(int(v), 1 << places) + Fraction(1, 2)) for v in values]
    assert shift_round(values, places).tolist() == nearest


# converter


def slow_unpack(stream: bytes, start: int, count: int, bits: int) -> list[int]:
    """The stream as one large integer."""
    number = int.from_bytes(stream, "little") >> start
    return [number >> i * bits & (1 << bits) - 1 for i in range(count)]


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.binary(min_size=1, max_size=60), st.integers(1, 16), st.data())
def test_codes_from_any_bit_on(stream: bytes, bits: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, 8 * len(stream)))
    count = data.draw(st.integers(0, (8 * len(stream) - start) // bits))
    found = converter.unpack(np.frombuffer(stream, np.uint8), start, count, bits, signed=False)
    assert found.tolist() == slow_unpack(stream, start, count, bits)


def test_the_stream_must_hold_the_codes() -> None:
    with pytest.raises(ValueError, match="3 codes of 6 bits from bit 7 exceed 24 bits"):
        converter.unpack(np.zeros(3, np.uint8), 7, 3, 6, signed=True)


@pytest.mark.parametrize(("msb_bits", "lsb_bits"), SPLITS)
def test_every_code_survives_planes_packing_and_merging(msb_bits: int, lsb_bits: int) -> None:
    """All codes of each width, in vectors that leave gaps: MSBs alone lack the LSBs, merged with them it is whole."""
    bits = msb_bits + lsb_bits
    codes = np.resize(np.arange(-(1 << bits - 1), 1 << bits - 1), ((1 << bits) // 7 + 1, 7)).astype(np.int64)
    msb, lsb = converter.split(codes, lsb_bits)
    words = converter.to_words(
        converter.unpack_vectors(converter.pack(msb, msb_bits).reshape(-1), 7, msb_bits, signed=True), msb_bits, 12
    )
    np.testing.assert_array_equal(words, (codes - codes % (1 << lsb_bits)) * (1 << 12 - bits))
    if lsb_bits:
        packed = converter.pack(lsb, lsb_bits)
        assert packed.shape == (len(codes), converter.vector_bytes(7, lsb_bits))
        low = converter.unpack_vectors(packed.reshape(-1), 7, lsb_bits, signed=False)
        words = converter.merge(words, low, msb_bits, lsb_bits, 12)
    np.testing.assert_array_equal(words, codes * (1 << 12 - bits))
    assert fits(words, 12)
    assert converter.word_scale(1.0, bits, 12) * (1 << 12 - bits) == 1


@pytest.mark.parametrize(("msb_bits", "lsb_bits"), [(10, 4), (12, 4)])
def test_codes_wider_than_a_word_lose_their_low_bits(msb_bits: int, lsb_bits: int) -> None:
    codes = np.arange(-(1 << msb_bits + lsb_bits - 1), 1 << msb_bits + lsb_bits - 1)
    msb, lsb = converter.split(codes, lsb_bits)
    merged = converter.merge(converter.to_words(msb, msb_bits, 12), lsb, msb_bits, lsb_bits, 12)
    np.testing.assert_array_equal(merged, codes >> msb_bits + lsb_bits - 12)
    np.testing.assert_array_equal(converter.to_words(codes, msb_bits + lsb_bits, 12), merged)


def test_dram_layout_of_a_plane_by_hand() -> None:
    """Two vectors of three 4-bit codes: low nibble first, each from a byte of its own."""
    assert converter.pack(np.array([[1, -1, 7], [-8, 0, 2]]), 4).tolist() == [[0xF1, 0x07], [0x08, 0x02]]


def test_narrow_codes_arrive_faster_than_a_line_is_written() -> None:
    """512 B and 512 words a cycle: from 8 bits on DRAM limits, below the SRAM does."""
    found = {bits: converter.cycles(1024, 64, bits, 512, 512) for bits in (4, 6, 8, 12)}
    assert found == {4: 128, 6: 128, 8: 128, 12: 192}
    assert converter.cycles(1024, 64, 4, 128, 512) == 256
    assert converter.cycles(1, 64, 12, 512, 512) == 1


# fetcher


MAPS = (
    {},
    {"address_map": "mop4clxor"},
    {"channels": 12, "address_map": ("column:1", "channel", "pseudo_channel", "bank_group", "column", "bank", "row")},
    {"address_map": ("pseudo_channel", "channel:2", "column", "channel", "bank_group", "bank", "row")},
    {"address_map": "rbc", "xor": ["channel:1 ^ row:3", "channel:0 ^ bank:1"]},
)


@pytest.mark.parametrize("memory", MAPS)
def test_channels_are_those_of_the_memory_model(memory: dict[str, object]) -> None:
    machine = spatten(**memory)
    spec = dram_spec(machine.memory, load_standard(machine.memory.standard), machine.clock_hz)
    state = start_memory(spec, 1, fifo_room=1)
    bursts = np.random.default_rng(1).integers(0, 1 << 22, 300)
    expected = [int(decode(state.config, state.state, burst)[1]) for burst in bursts]
    assert Channels.of(machine.memory).of_bursts(bursts).tolist() == expected
    assert len(set(expected)) == machine.memory.channels


def slow_crossbar(channel: list[int], lanes: int) -> list[int]:
    """Queues and sets: in each cycle each channel takes the oldest head of a lane that is for it."""
    fifos = [deque(range(lane, len(channel), lanes)) for lane in range(lanes)]
    sent, cycle = [-1] * len(channel), 0
    while any(fifos):
        heads = sorted(fifo[0] for fifo in fifos if fifo)
        taken: set[int] = set()
        for request in heads:
            if channel[request] not in taken:
                taken.add(channel[request])
                sent[request] = cycle
                fifos[request % lanes].popleft()
        cycle += 1
    return sent


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.lists(st.integers(0, 7), max_size=80), st.integers(1, 12))
def test_the_crossbar_grants_the_oldest_head(channel: list[int], lanes: int) -> None:
    sent = fetcher.send_cycles(np.array(channel, np.int64), lanes, 8).tolist()
    assert sent == slow_crossbar(channel, lanes)
    assert len(set(zip(sent, channel, strict=True))) == len(sent)  # one a channel and cycle
    assert max(sent, default=-1) + 1 >= fetcher.least_cycles(np.array(channel, np.int64), lanes)


def test_a_blocked_head_blocks_its_lane() -> None:
    """Two lanes; requests 0 to 2 are for channel 0, and 3 waits behind 1 though its channel is free."""
    assert fetcher.send_cycles(np.array([0, 0, 0, 1]), 2, 2).tolist() == [0, 1, 2, 2]
    assert fetcher.least_cycles(np.array([0, 0, 0, 1]), 2) == 3


def gathered(positions: np.ndarray, vector_bytes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(address, size, channel of each burst) of a gather on SpAtten."""
    address, size = fetcher.segments(1 << 16, vector_bytes, positions)
    bursts = fetcher.bursts_of(address, size, 32)
    return address, size, Channels.of(spatten().memory).of_bursts(bursts)


@pytest.mark.parametrize(("vector_bytes", "step"), [(32, 1), (64, 1), (96, 1), (64, 3), (32, 5), (128, 1)])
def test_a_uniform_gather_takes_the_closed_form(vector_bytes: int, step: int) -> None:
    *_, channel = gathered(step * np.arange(512), vector_bytes)
    sent = fetcher.send_cycles(channel, LANES, CHANNELS)
    assert int(sent.max()) + 1 == fetcher.least_cycles(channel, LANES) == len(channel) // CHANNELS


def test_vectors_of_one_channel_take_a_cycle_each() -> None:
    *_, channel = gathered(16 * np.arange(100), 32)
    assert fetcher.send_cycles(channel, LANES, CHANNELS).max() + 1 == 100


@pytest.mark.parametrize("vector_bytes", [32, 48, 64, 96])
@pytest.mark.parametrize("dense", [True, False])
def test_the_memory_model_sends_the_same_requests_no_later(vector_bytes: int, dense: bool) -> None:
    """Its FIFOs stand behind the crossbar: no head blocks a lane. Streams that spread evenly are sent alike."""
    positions = np.arange(256) if dense else np.flatnonzero(np.random.default_rng(3).random(512) < 0.3)
    address, size, channel = gathered(positions, vector_bytes)
    machine = spatten()
    spec = dram_spec(machine.memory, load_standard("hbm2"), machine.clock_hz)
    state = start_memory(replace(spec, fifo_depth=0), 1, writes=False, fifo_room=4096)
    hand_over(state, 0, (0, False, list(zip(address, size, strict=True))))
    last = channels_of(state.config, state.state)[:, L.ARRIVAL] // spec.edges
    sent = fetcher.send_cycles(channel, LANES, CHANNELS)
    mine = np.array([sent[channel == c].max() + 1 for c in range(CHANNELS)])
    assert int(state.bursts[0]) == len(channel)
    assert (last <= mine).all()
    assert (last == mine).all() or not dense


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12, unique=True), st.integers(1, 90), st.integers(0, 70),
       st.randoms(use_true_random=False))  # fmt: skip
def test_data_come_back_in_order_whatever_the_channels_do(positions: list[int], length: int, base: int, rng) -> None:  # type: ignore[no-untyped-def]
    dram = np.random.default_rng(length).integers(0, 256, 41 * 90 + 70).astype(np.uint8)
    address, size = fetcher.segments(base, length, np.sort(positions))
    order = list(range(len(fetcher.bursts_of(address, size, 32))))
    rng.shuffle(order)
    found = fetcher.gather(dram, address, size, 32, order)
    assert found.tobytes() == b"".join(dram[a : a + length].tobytes() for a in address)


def test_a_burst_is_fetched_once_for_two_vectors() -> None:
    address, size = fetcher.segments(0, 24, np.arange(4))
    assert fetcher.bursts_of(address, size, 32).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="within the 90 bytes"):
        fetcher.gather(np.zeros(90, np.uint8), address, size, 32)


def test_data_leave_in_order_and_no_more_than_the_lanes_take() -> None:
    assert fetcher.return_cycles(np.array([9, 3, 4, 4, 20, 5]), 2).tolist() == [9, 9, 10, 10, 20, 20]
    assert fetcher.return_cycles(np.zeros(5, np.int64), 2).tolist() == [0, 0, 1, 1, 2]
