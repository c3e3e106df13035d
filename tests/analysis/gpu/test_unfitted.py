"""Unfitted kernels beside an H200: first contact is kept, corrections move the rows that the log says, no others."""

from pathlib import Path

import pytest

from analysis.gpu import unfitted
from analysis.gpu.qserve_claims import claims
from analysis.gpu.unfitted import Score, first_contact, rows, scores, table


@pytest.fixture(scope="module")
def moved() -> dict[str, list[float]]:
    """By kernel: predictions of today over those of first contact, less 1, of rows that are not the same."""
    found: dict[str, list[float]] = {}
    for then, now in zip(first_contact(), rows(), strict=True):
        assert (then.kernel, then.shape, then.measured_us) == (now.kernel, now.shape, now.measured_us)
        change = now.predicted_us / then.predicted_us - 1
        if abs(change) > 1e-3:
            found.setdefault(now.kernel, []).append(change)
    return found


def test_every_point_of_the_record_is_predicted() -> None:
    found = scores(rows())
    assert [found[kernel, "all"].points for kernel in unfitted.PEERS.values()] == [66] * 4
    assert found["qserve_attention", "all"].points == 16


def test_first_contact_is_what_it_was() -> None:
    found = {kernel: score for (kernel, size), score in scores(first_contact()).items() if size == "all"}
    assert {kernel: round(score.mean, 3) for kernel, score in found.items()} == {
        "qserve_w4a8_channel": 0.200,
        "qserve_w4a8_group": 0.136,
        "qserve_w8a8": 0.208,
        "marlin_w4a16": 0.223,
        "qserve_attention": 0.335,
    }


def test_corrections_moved_the_rows_that_the_log_tells(moved: dict[str, list[float]]) -> None:
    counts = {kernel: len(changes) for kernel, changes in moved.items()}
    assert counts == {"qserve_w4a8_channel": 18, "qserve_w4a8_group": 24, "qserve_w8a8": 17, "qserve_attention": 4}
    header = [line for line in unfitted.FIRST.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    log = " ".join(line.lstrip("# ") for line in header)
    for kernel, word in (
        ("qserve_w4a8_channel", "per channel"),
        ("qserve_w8a8", "of W8A8"),
        ("qserve_attention", "(batch 1)"),
    ):
        low, high = (round(100 * change) for change in (min(moved[kernel]), max(moved[kernel])))
        assert f"{word} +{low} to +{high} %" in log
    assert all(change > 0 for changes in moved.values() for change in changes)


def test_today_is_no_worse_than_first_contact() -> None:
    then, now = scores(first_contact()), scores(rows())
    for kernel in (*unfitted.PEERS.values(), "qserve_attention"):
        assert now[kernel, "all"].mean < then[kernel, "all"].mean + 1e-4


def test_most_predictions_are_too_fast() -> None:
    """Each resource at its full rate: the model is nearly a bound, and says so."""
    errors = [row.error for row in rows()]
    assert sum(error > 0 for error in errors) < 0.1 * len(errors)
    assert max(errors) < 0.15


def test_score_of_a_toy() -> None:
    made = [unfitted.Row("k", "1x1x1", us, 100.0, "dram") for us in (90.0, 110.0, 130.0)]
    found = Score.of(made)
    assert (found.points, round(found.mean, 6), round(found.bias, 6)) == (3, 0.166667, 0.1)
    assert found.p90 == pytest.approx(0.26)


def test_the_page_has_the_table_of_today() -> None:
    page = Path(__file__).parents[3] / "docs" / "unfitted_kernels.md"
    assert table() in page.read_text(encoding="utf-8")


def test_qserve_claims_are_below_the_sum_of_kernels_and_keep_their_order() -> None:
    """Published throughput of eight models on two GPUs: the kernels alone allow 1.1 to 1.5 times as much."""
    found = claims()
    ratios = [predicted / published for _, _, predicted, published in found]
    assert len(found) == 16
    assert min(ratios) > 1.1
    assert max(ratios) < 1.55
    for name, swapped in (("a100_80g_sxm", {"llama-30b", "yi-34b", "llama-3-8b", "mistral-7b"}), ("l40s", set())):
        own = [row for row in found if row[0] == name]
        by_model = [row[1] for row in sorted(own, key=lambda row: row[2])]
        published_order = [row[1] for row in sorted(own, key=lambda row: row[3])]
        assert {a for a, b in zip(by_model, published_order, strict=True) if a != b} == swapped
