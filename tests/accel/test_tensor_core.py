"""Products as tensor cores add them: equal to exact fractions, by hand, and what is refused."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.arithmetic import round_to
from accel.formats import number
from accel.tensor_core import architectures, block_scaled, matmul, rule
from accel.tensor_core.exact import dot, scaled_dot
from accel.tensor_core.rules import _TABLE

NATIVE = [one for one in _TABLE if not one.emulated]


def on_grid(rng: np.random.Generator, operand: str, shape: tuple[int, int]) -> np.ndarray:
    spread = rng.standard_normal(shape) * 2.0 ** rng.integers(-12, 6, shape)
    spread[rng.random(shape) < 0.1] = 0
    if operand in ("float16", "bfloat16"):
        return round_to(spread, operand)
    one = number(operand)
    return one.decode(one.encode(spread))


@pytest.mark.parametrize("one", NATIVE, ids=lambda one: f"{one.architecture}-{one.operand}-{one.instruction}")
def test_products_are_those_of_exact_fractions(one) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(1)
    a, b = on_grid(rng, one.operand, (3, 50)), on_grid(rng, one.operand, (4, 50))
    c = (rng.standard_normal((3, 4)) * 2.0 ** rng.integers(-20, 8, (3, 4))).astype(np.float32)
    exact = [
        [dot(fractions(x), fractions(y), Fraction(float(c[i, j])), one) for j, y in enumerate(b)]
        for i, x in enumerate(a)
    ]
    assert [[Fraction(float(value)) for value in row] for row in matmul(a, b, c, one)] == exact


def fractions(row: np.ndarray) -> list[Fraction]:
    return [Fraction(float(x)) for x in row]


def single(terms: list[tuple[float, float]], c: float, one) -> float:  # type: ignore[no-untyped-def]
    a, b = np.array([[x for x, _ in terms]]), np.array([[y for _, y in terms]])
    return float(matmul(a, b, np.array([[c]], np.float32), one)[0, 0])


def test_by_hand() -> None:
    hopper, ampere = rule("sm_90", "float16"), rule("sm_80", "float16")
    keeps, loses = (2.0**-12, 2.0**-13), (2.0**-13, 2.0**-13)  # 2^-25 and 2^-26
    assert single([(1, 1), (-1, 1), keeps], 0, hopper) == 2.0**-25
    assert single([(1, 1), (-1, 1), loses], 0, hopper) == 0
    assert single([(1, 1), (-1, 1), keeps], 0, ampere) == 0  # 24 bits
    assert single([(1.5, 1.5), (-1.5, 1.5), keeps], 0, hopper) == 2.0**-25  # 2.25 counts as 2^0
    assert single([(2, 2), (-2, 2), keeps], 0, hopper) == 0
    assert single([(1, 2.0**-24), (1, 2.0**-24 * 0.5)], 1, rule("sm_90", "bfloat16")) == 1  # cut, not rounded
    assert single([(-1, 2.0**-24), (-1, 2.0**-25)], -1, rule("sm_90", "bfloat16")) == -1


def test_a_block_ends_where_the_width_says() -> None:
    """c = 1 is cancelled in the first block; a small product survives only behind it."""
    tiny = (2.0**-13, 2.0**-13)
    for one, width in ((rule("sm_90", "float16"), 16), (rule("sm_80", "float16"), 8), (rule("sm_70", "float16"), 4)):
        for place in range(1, 20):
            terms = [(-1.0, 1.0)] + [(0.0, 0.0)] * (place - 1) + [tiny]
            assert (single(terms, 1, one) != 0) == (place >= width)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_integers_that_fit_are_exact(seed: int) -> None:
    """Small whole numbers need none of the bits that are cut."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-8, 8, (3, 40)), rng.integers(-8, 8, (5, 40))
    for one in (rule("sm_90", "float16"), rule("sm_90", "bfloat16", "wgmma"), rule("sm_70", "float16")):
        assert (matmul(a, b, None, one) == a @ b.T).all()


def test_order_inside_a_block_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    a, b = round_to(rng.standard_normal((4, 16)) * 9, "float16"), round_to(rng.standard_normal((4, 16)), "float16")
    turned = rng.permutation(16)
    one = rule("sm_90", "float16")
    assert (matmul(a, b, None, one) == matmul(a[:, turned], b[:, turned], None, one)).all()


def test_infinities_and_nan_go_through() -> None:
    one = rule("sm_90", "float16")
    assert single([(np.inf, 1), (5, 5)], 0, one) == np.inf
    assert np.isnan(single([(np.inf, 1), (-np.inf, 1)], 0, one))
    assert np.isnan(single([(0, np.inf)], 0, one))
    assert np.signbit(single([(-1, 0)], -0.0, one)) == False  # noqa: E712


@pytest.mark.parametrize(
    ("architecture", "operand", "instruction", "numbers"),
    [
        ("sm_70", "float16", "mma", (4, 23, 23)),
        ("sm_75", "float16", "mma", (8, 24, 23)),
        *((sm, form, "mma", (8, 24, 23)) for sm in ("sm_80", "sm_86", "sm_89") for form in ("float16", "bfloat16")),
        *((sm, form, "mma", (16, 25, 23)) for sm in ("sm_90", "sm_100", "sm_120") for form in ("float16", "bfloat16")),
        *(("sm_89", form, "mma", (16, 13, 13)) for form in ("e4m3", "e5m2")),
        *((sm, form, "mma", (32, 25, 23)) for sm in ("sm_100", "sm_120") for form in ("e4m3", "e5m2")),
    ],
)
def test_published_numbers(architecture: str, operand: str, instruction: str, numbers: tuple[int, ...]) -> None:
    """MMA-Sim (arXiv 2511.10909): products at once, bits kept, bits of the result. Nothing else holds assumed rows."""
    one = rule(architecture, operand, instruction)
    assert (one.width, one.fraction_bits, one.result_bits) == numbers


def test_only_what_we_ran_is_not_assumed() -> None:
    assert {one.architecture for one in _TABLE if not one.assumed} == {"sm_90"}
    assert architectures() == ("sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="no rule for sm_90 float61 mma; did you mean 'sm_90 float16 mma'"):
        rule("sm_90", "float61")
    with pytest.raises(ValueError, match=r"must get a \[M, K\] and b \[N, K\], got \(2, 3\) and \(2, 4\)"):
        matmul(np.ones((2, 3)), np.ones((2, 4)), None, rule("sm_90", "float16"))
    with pytest.raises(ValueError, match=r"c must be \(2, 5\), got \(5, 2\)"):
        matmul(np.ones((2, 3)), np.ones((5, 3)), np.ones((5, 2)), rule("sm_90", "float16"))


def test_block_scaled_products_are_those_of_exact_fractions() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 16, (4, 192)), rng.integers(0, 16, (5, 192))
    left, right = rng.integers(0, 127, (4, 12)), rng.integers(0, 127, (5, 12))
    left[0, :6], right[1, 3:] = 0, 1  # a zero scale, subnormal ones
    values, scales = number("e2m1").decode, number("e4m3").decode
    exact = [
        [scaled_dot(fractions(values(x)), fractions(scales(s)), fractions(values(y)), fractions(scales(t)))
         for y, t in zip(b, right, strict=True)]
        for x, s in zip(a, left, strict=True)
    ]  # fmt: skip
    assert [[Fraction(float(v)) for v in row] for row in block_scaled.matmul(a, left, b, right)] == exact


def test_block_scaled_sums_are_cut_not_rounded() -> None:
    """2^24 from the first step, 3/4 x 2 from the second: 1.5 units in the last place, of which one stays."""
    a = np.zeros((1, 128), np.uint8)
    a[0, :16], a[0, 64], a[0, 65] = 7, 1, 2  # 16 sixes; 0.5 and 1
    b = np.full((1, 128), 2, np.uint8)  # ones
    scale = np.full((1, 8), 0x7E, np.uint8)  # 448
    small = np.full((1, 8), 0x38, np.uint8)  # 1
    first = block_scaled.matmul(a[:, :64], scale[:, :4], b[:, :64], scale[:, :4])
    assert first[0, 0] == 96 * 448 * 448
    both = block_scaled.matmul(a, np.hstack([scale[:, :4], small[:, :4]]), b, np.hstack([scale[:, :4], small[:, :4]]))
    assert both[0, 0] == 96 * 448 * 448 + 1  # 19267584 + 1.5 would be + 2 if rounded
    with pytest.raises(ValueError, match="K a multiple of 64"):
        block_scaled.matmul(a[:, :32], scale[:, :2], b[:, :32], scale[:, :2])


def scaled_groups(*terms: tuple[float, int, int]) -> float:
    """One step of 64: four groups of (a, scale code of a, of b), each with one product a x 0.5."""
    a, b = np.zeros((1, 64), np.uint8), np.ones((1, 64), np.uint8)
    a[0, ::16] = number("e2m1").encode([value for value, _, _ in terms])
    left, right = (np.array([[term[i] for term in terms]], np.uint8) for i in (1, 2))
    return float(block_scaled.matmul(a, left, b, right)[0, 0])


def test_block_scaled_terms_keep_35_bits_behind_the_largest_exponent() -> None:
    large, nothing = (1.0, 0x7E, 0x7E), (0.0, 0, 0)  # 448 x 448: exponent 16
    taken_back = (-1.0, 0x7E, 0x7E)
    assert scaled_groups(large, taken_back, (0.5, 1, 2), nothing) == 2.0**-19  # 1/4 x 2^-9 x 2^-8
    assert scaled_groups(large, taken_back, (0.5, 1, 1), nothing) == 0
    assert scaled_groups((0.0, 0x7E, 0x7E), nothing, (0.5, 1, 1), nothing) == 2.0**-20  # zeros have no exponent


def test_block_scaled_scales_have_no_sign_and_no_nan() -> None:
    for code in (0x7F, 0xB8):
        with pytest.raises(ValueError, match=f"scales of a must be codes 0..126, got {code}"):
            scaled_groups((1.0, code, 1), *[(1.0, 1, 1)] * 3)
