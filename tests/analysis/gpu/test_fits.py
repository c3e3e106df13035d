"""Files of fits: what is written is read again, sections leave each other alone, each number says its origin."""

import pytest

from accel.gpu.fit import Error, Fit
from accel.loading import check, read_document
from analysis.gpu.fits import add_section, fit_text, read_origins, write_fit
from analysis.gpu.held_out import error, said

ERROR = {"gemm_bf16": Error(mean=0.041234567, p90=0.09, bias=-0.004, points=131)}


def some_fit() -> Fit:
    return Fit(name="h200", source="a record: of 2026-11-30", error=ERROR)


def test_a_file_is_read_as_it_was_written_to_five_digits(tmp_path):
    write_fit(tmp_path / "h200.yaml", some_fit())
    again = check(read_document(tmp_path / "h200.yaml"), Fit)
    assert again.source == "a record: of 2026-11-30"
    assert again.error["gemm_bf16"] == Error(mean=0.041235, p90=0.09, bias=-0.004, points=131)


def test_a_section_keeps_the_comment_of_another(tmp_path):
    path = tmp_path / "h200.yaml"
    write_fit(path, some_fit(), {"error": "of held-out points"})
    write_fit(path, some_fit(), {})
    assert read_origins(path) == {"error": "of held-out points"}
    assert "\n# error: of held-out points\nerror:\n" in path.read_text("utf-8")


def test_errors_of_a_new_section_join_the_old(tmp_path):
    path = tmp_path / "h200.yaml"
    write_fit(path, some_fit())
    more = {"gemm_int8": Error(mean=0.06, p90=0.12, bias=0.0, points=7)}
    made = add_section(path, "error", ERROR | more, "twice", more)
    assert set(made.error) == {"gemm_bf16", "gemm_int8"}
    assert made.name == "h200"
    assert check(read_document(path), Fit).error["gemm_int8"].points == 7


def test_an_unknown_section_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"no section 'eror'.*error"):
        add_section(tmp_path / "h200.yaml", "eror", {}, "", {})


def test_every_number_carries_its_origin():
    numbers = [line for line in fit_text(some_fit(), {}).splitlines() if line.startswith("    ")]
    assert numbers
    assert all(line.endswith("  # held out") for line in numbers)


def test_errors_in_closed_form():
    found = error([110, 90, 100, 100], [100, 100, 100, 50])
    assert (found.mean, found.bias, found.points) == (pytest.approx(0.3), pytest.approx(0.25), 4)
    assert found.p90 == pytest.approx(0.1 + 0.7 * 0.9)
    assert said(found).startswith("30.0 % mean, 73.0 % at the 90th percentile, bias +25.0 %, 4 points")


@pytest.mark.parametrize(("ours", "theirs"), [([1.0], [1.0, 2.0]), ([], []), ([1.0], [0.0])])
def test_points_that_do_not_pair_are_refused(ours, theirs):
    with pytest.raises(ValueError, match="must"):
        error(ours, theirs)
