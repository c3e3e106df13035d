"""How numbers are printed, and which keys a result has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilewright as tw
from analysis.effects import Spread, effects, weak_axes
from analysis.quantities import flat, is_number, label, result_keys, shown, times
from analysis.tables import short_names


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("latency_s", 0.0123, "12.3 ms"),
        ("latency_s", 9.9999e-4, "1 ms"),
        ("energy_j", 0, "0 J"),
        ("dram_read_bytes", 1_500_000, "1.5 MB"),
        ("dram_bytes_per_s", 512e9, "512 GB/s"),
        ("effective_gops_per_s", 1610.0, "1.61 TOP/s"),
        ("area_mm2", 18.7134, "18.71 mm²"),
        ("energy_j.dram", 2.5e-6, "2.5 µJ"),
        ("cycles", 1_234_567, "1 234 567"),
        ("limited_by", "dram", "dram"),
    ],
)
def test_shown(key: str, value: object, text: str) -> None:
    assert shown(key, value) == text


@given(st.floats(min_value=1e-17, max_value=1e14))
def test_shown_keeps_four_digits(value: float) -> None:
    number, unit = shown("latency_s", value).split(" ")
    factor = {
        "f": 1e-15,
        "p": 1e-12,
        "n": 1e-9,
        "µ": 1e-6,
        "m": 1e-3,
        "k": 1e3,
        "M": 1e6,
        "G": 1e9,
        "T": 1e12,
    }
    scale = 1e-18 if unit == "as" else factor.get(unit[:-1], 1.0)
    assert float(number) * scale == pytest.approx(value, rel=5e-4)


def test_labels_and_ratios() -> None:
    assert (label("latency_s"), label("area_mm2"), label("cycles")) == ("latency", "area", "cycles")
    assert (times(1.333), times(34_812.0), times(float("inf"))) == ("1.33x", "34 800x", "infx")


def test_result_keys_hold_the_promised_ones() -> None:
    promised = {"cycles", "latency_s", "dram_read_bytes", "dram_write_bytes", "energy_j", "area_mm2"}
    assert promised < set(result_keys())
    assert "limited_by" not in result_keys()


def test_result_keys_are_those_of_a_real_point() -> None:
    row = tw.run("spatten", "minilm").to_dict()
    assert set(result_keys()) == {key for key, value in row.items() if is_number(value)}


def test_flat_names_breakdowns_by_their_quantity() -> None:
    row = {
        "energy_j": 3,
        "energy_j_by_component": {"dram": 2, "sram": 1},
        "left_out": ["x"],
        "limited_by": "y",
    }
    assert flat(row) == {"energy_j": 3, "energy_j.dram": 2, "energy_j.sram": 1, "limited_by": "y"}


def test_effect_of_an_axis_alone() -> None:
    rows = [{"a": a, "b": b, "x": a * 10.0 + b, "y": 1.0} for a in (1, 2) for b in (0, 5)]
    by_name = {(e.axis, e.objective): e for e in effects(rows, {"a": (1, 2), "b": (0, 5)}, ["x", "y"])}
    assert by_name["a", "x"].spreads == (Spread(1, 10.0, 12.5, 15.0), Spread(2, 20.0, 22.5, 25.0))
    assert by_name["a", "x"].largest_change == 1.0  # 10 to 20 at b = 0
    assert by_name["b", "x"].largest_change == 0.5  # 10 to 15 at a = 1
    assert by_name["b", "y"].largest_change == 0.0
    assert weak_axes([by_name["a", "x"], by_name["b", "y"]]) == ["b"]


def test_short_names_stay_apart() -> None:
    paths = ["machine.a.lanes", "machine.b.lanes", "policy.token_keep", "lanes"]
    assert list(short_names(paths).values()) == ["a.lanes", "b.lanes", "token_keep", "lanes"]
