"""Tensor-core fragments against the formulas of the PTX ISA, written out."""

import numpy as np
import pytest

from accel.formats.fragments import fragment, fragments, gather


def mma_a16(lane, i):
    """m16n8k16, .f16: row = groupID for i < 2 or 4 <= i < 6."""
    g, t = lane >> 2, lane % 4
    return (g if i < 2 or 4 <= i < 6 else g + 8), t * 2 + (i & 1) + (8 if i >= 4 else 0)


def mma_b16(lane, i):
    g, t = lane >> 2, lane % 4
    return t * 2 + (i & 1) + (8 if i >= 2 else 0), g


def mma_a8(lane, i):
    """m16n8k8, .f16: a0 and a1 in row groupID, a2 and a3 in groupID + 8."""
    g, t = lane >> 2, lane % 4
    return (g if i < 2 else g + 8), t * 2 + (i & 1)


def mma_b8(lane, i):
    return lane % 4 * 2 + i, lane >> 2


def mma_d(lane, i):
    g, t = lane >> 2, lane % 4
    return (g if i < 2 else g + 8), t * 2 + (i & 1)


def mma_a32(lane, i):
    """m16n8k32, .s8: row = groupID for i < 4 or 8 <= i < 12; 16 columns further from a8 on."""
    g, t = lane >> 2, lane % 4
    return (g if i < 4 or 8 <= i < 12 else g + 8), t * 4 + (i & 3) + (16 if i >= 8 else 0)


def mma_b32(lane, i):
    return lane % 4 * 4 + (i & 3) + (16 if i >= 4 else 0), lane >> 2


def mma_a64(lane, i):
    """m16n8k64, .s4: row = groupID for i < 8 or 16 <= i < 24; 32 columns further from a16 on."""
    g, t = lane >> 2, lane % 4
    return (g if i < 8 or 16 <= i < 24 else g + 8), t * 8 + (i & 7) + (32 if i >= 16 else 0)


def mma_b64(lane, i):
    return lane % 4 * 8 + (i & 7) + (32 if i >= 8 else 0), lane >> 2


def of_warp(formula):
    """Of a warpgroup: warp w = lane / 32 has rows 16 w to 16 w + 15."""

    def placed(lane, i):
        row, column = formula(lane % 32, i)
        return row + lane // 32 * 16, column

    return placed


def wgmma_d(lane, i):
    """m64nN: eight columns for each four registers."""
    row, column = of_warp(mma_d)(lane, i % 4)
    return row, column + i // 4 * 8


FORMULAS = {
    ("mma.m16n8k8.f16", "A"): mma_a8,
    ("mma.m16n8k8.f16", "B"): mma_b8,
    ("mma.m16n8k8.f16", "D"): mma_d,
    ("mma.m16n8k16.f16", "A"): mma_a16,
    ("mma.m16n8k16.f16", "B"): mma_b16,
    ("mma.m16n8k16.f16", "D"): mma_d,
    ("mma.m16n8k32.s8", "A"): mma_a32,
    ("mma.m16n8k32.s8", "B"): mma_b32,
    ("mma.m16n8k32.s8", "D"): mma_d,
    ("mma.m16n8k64.s4", "A"): mma_a64,
    ("mma.m16n8k64.s4", "B"): mma_b64,
    ("mma.m16n8k64.s4", "D"): mma_d,
    ("mma.m16n8k64.mxf4nvf4", "A"): mma_a64,
    ("mma.m16n8k64.mxf4nvf4", "B"): mma_b64,
    ("mma.m16n8k64.mxf4nvf4", "D"): mma_d,
    ("mma.m16n8k64.mxf4nvf4", "scale A"): lambda lane, i: ((lane >> 2) + 8 * (lane % 4), i),
    ("mma.m16n8k64.mxf4nvf4", "scale B"): lambda lane, i: (i, lane >> 2),
    ("wgmma.m64nNk16.f16", "A"): of_warp(mma_a16),
    ("wgmma.m64nNk16.f16", "D"): wgmma_d,
    ("wgmma.m64nNk32.s8", "A"): of_warp(mma_a32),
    ("wgmma.m64nNk32.s8", "D"): wgmma_d,
}
ALL = pytest.mark.parametrize("one", fragments(), ids=lambda one: f"{one.instruction} {one.operand}")


def test_every_fragment_has_a_formula():
    assert {(one.instruction, one.operand) for one in fragments()} == set(FORMULAS)


@ALL
def test_each_element_of_the_tile_lies_in_one_place(one):
    places = one.places().reshape(-1, 2)
    assert sorted(map(tuple, places.tolist())) == [(r, c) for r in range(one.shape[0]) for c in range(one.shape[1])]


@ALL
def test_each_place_is_that_of_the_formula(one):
    formula = FORMULAS[one.instruction, one.operand]
    places = one.places()
    expected = [[formula(lane, i) for i in range(places.shape[1])] for lane in one.lanes().tolist()]
    assert np.array_equal(places, expected)


@pytest.mark.parametrize("columns", [8, 24, 256])
def test_an_accumulator_of_a_warpgroup_has_any_number_of_columns(columns):
    places = fragment("wgmma.m64nNk16.f16", "D").places(columns)
    assert places.shape == (128, columns // 2, 2)
    assert np.array_equal(places, [[wgmma_d(lane, i) for i in range(columns // 2)] for lane in range(128)])


@ALL
def test_registers_are_full(one):
    """Elements of a lane fill whole 32-bit registers, and neighbours in a register are neighbours along K (or N)."""
    places = one.places()
    run = 32 // one.bits
    assert places.shape[1] % run == 0
    steps = np.abs(np.diff(places.reshape(len(places), -1, run, 2), axis=2)).sum(axis=3)
    assert (steps == 1).all()


@pytest.mark.parametrize("one", [f for f in fragments() if f.operand == "A"], ids=lambda one: one.instruction)
def test_registers_are_the_words_that_the_arithmetic_probe_loads(one):
    """Whose products on an H200 were right: words t and t + 4 of rows g and g + 8, counted in 32 bits along a row."""
    places, run = one.places(), 32 // one.bits
    for lane in range(len(places)):
        warp, g, t = lane // 32, lane % 32 // 4, lane % 4
        row = 16 * warp + g
        words = [(row, t), (row + 8, t), (row, t + 4), (row + 8, t + 4)][: places.shape[1] // run]
        first = places[lane, ::run]
        assert [(r, c // run) for r, c in first.tolist()] == words


def test_gather_takes_a_tile_apart():
    tile = np.arange(16 * 32).reshape(16, 32)
    found = gather(tile, fragment("mma.m16n8k32.s8", "A"))
    assert found[5, :8].tolist() == [36, 37, 38, 39, 292, 293, 294, 295]  # row 1 from column 4 on, then row 9


def test_one_place_and_its_refusals():
    scale = fragment("mma.m16n8k64.mxf4nvf4", "scale A")
    assert scale.place(5, 3) == (9, 3)
    with pytest.raises(ValueError, match="mxf4nvf4 scale A: lane 6 has no element 0"):
        scale.place(6, 0)
    with pytest.raises(ValueError, match=r"no mma.m16n8k32.s4 A; did you mean 'mma.m16n8k32.s8 A'\?"):
        fragment("mma.m16n8k32.s4", "A")
    with pytest.raises(ValueError, match="must be a multiple of 8, got 12"):
        fragment("wgmma.m64nNk16.f16", "D").places(12)
