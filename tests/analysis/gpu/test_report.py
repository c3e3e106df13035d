"""Error tables: what stands in a line, which targets are met, the command."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from accel.gpu.fit import Error
from accel.machine import load_machine
from analysis.cli import app
from analysis.gpu import report
from analysis.gpu.parity_plot import parity_figure, plot_parity
from analysis.gpu.report import (
    HEAD,
    Line,
    Target,
    calibrated_rows,
    drawn,
    first_evaluations,
    gpus,
    load_records,
    markdown,
    published_rows,
    target_of,
)

ONE = Error(mean=0.04, p90=0.12, bias=-0.01, points=10)


@pytest.fixture(autouse=True)
def no_whole_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anchors take seconds; they have tests of their own."""
    monkeypatch.setattr(report, "anchored_lines", lambda: [Line("model", "l40s", "anchored", ONE, target=Target(0.12))])


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    machine = load_machine("h200")
    return report.report(machine, load_records())  # type: ignore[arg-type]


def told(*words: str) -> Any:
    done = CliRunner().invoke(app, ["predict", "errors", *words])
    return done.exit_code, done.output


def test_a_target_needs_mean_and_percentile() -> None:
    assert Target(0.05, 0.12).reached(ONE)
    assert not Target(0.05, 0.11).reached(ONE)
    assert not Target(0.03, 0.12).reached(ONE)
    assert Target(0.05).reached(ONE)


def test_targets_are_by_device_class_and_trust() -> None:
    assert target_of("h200", "gemm_bf16") == Target(0.05, 0.11)
    assert target_of("a100_80g_sxm", "gemm_bf16") == Target(0.057, 0.12)
    assert target_of("h200", "gemm_w4a8_group") == Target(0.08, 0.16)
    assert target_of("h200", "gemm_portable_channel") == Target(0.08, 0.16)
    assert target_of("h100_sxm", "gemm_fp16") is None
    assert target_of("rtx_5090", "gemm_bf16", "anchored") == Target(0.12)
    assert target_of("h200", "transfer") is None
    assert target_of("rtx_5090", "gemm_bf16", "blind") is None


def test_a_line_says_everything_once(lines: list[Line]) -> None:
    by_kind = {line.kind: line for line in lines if line.machine == "h200"}
    assert len({(line.kind, line.machine) for line in lines}) == len(lines)
    one = by_kind["decode_attention_kv4"]
    assert one.error.points == 45
    assert one.second is not None
    assert one.again is not None
    assert one.again.mean == pytest.approx(0.0043, abs=1e-4)
    assert one.first == first_evaluations()["decode_attention_kv4"]
    assert 0.9 < one.scale < 1.1
    assert by_kind["power"].second is None


def test_what_was_published_for_another_device_is_told_under_its_name(lines: list[Line]) -> None:
    (one,) = (line for line in lines if line.kind == "prefill_fa3")
    assert (one.machine, one.first) == ("h100_sxm", None)


def test_our_products_stand_as_first_evaluated(lines: list[Line]) -> None:
    """They were never tuned after their held-out points had been looked at."""
    for line in lines:
        if line.kind.startswith("gemm_") and line.kind not in ("gemm_bf16", "gemm_int8", "gemm_fp8"):
            assert line.first is not None
            assert line.first.mean == pytest.approx(line.error.mean, abs=6e-4)
            assert line.first.p90 == pytest.approx(line.error.p90, abs=6e-4)


def test_cells_have_a_head() -> None:
    line = Line("gemm_bf16", "h200", "calibrated", ONE, ONE, 1.0, ONE, ONE, ONE, Target(0.05, 0.11))
    (cells,) = calibrated_rows([line, replace(line, trust="blind")])
    assert len(cells) == len(HEAD)
    assert cells[2:6] == ("10", "4.0 / 12.0", "-1.0", "4.0 / 12.0")
    assert cells[-1] == "5 / 11: no"
    (other,) = published_rows([line, replace(line, trust="blind", target=None)])
    assert other[2] == "blind"
    assert other[-1] == ""
    assert markdown(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_each_calibrated_gpu_has_lines() -> None:
    named = {name for name, one in gpus().items() if one.calibrated}
    found = {line.machine for line in report.shipped_report(load_records()[:1]) if line.trust == "calibrated"}
    assert named == found


def test_points_of_two_names_are_told_once() -> None:
    """The published products count as bfloat16 and as float16."""
    names = [line.kind for line in report.report(gpus()["a100_80g_sxm"], ())]
    assert "gemm_bf16" in names
    assert "gemm_fp16" not in names


def test_a_picture_has_a_panel_a_class(tmp_path: Path) -> None:
    classes = drawn(load_machine("h200"), load_records()[0])  # type: ignore[arg-type]
    some = dict(list(classes.items())[:7])
    shown = [axes for axes in parity_figure(some).axes if axes.axison]
    assert [axes.get_title() for axes in shown] == [kind.replace("_", " ") for kind in some]
    assert plot_parity(some, tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="no class"):
        plot_parity({}, tmp_path / "b.png")


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    status, text = told("--machine", "h200", "--json", "--out", str(tmp_path / "o"))
    assert status == 0
    rows = json.loads(text[text.index("{") :])["classes"]
    assert rows == json.loads((tmp_path / "o" / "errors.json").read_text())
    assert {"class", "machine", "trust", "error", "target", "reached"} <= set(rows[0])
    assert (tmp_path / "o" / "parity.png").stat().st_size > 10_000
    assert (tmp_path / "o" / "parity_2.png").is_file()


def test_a_page_gets_its_tables(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    marks = [f"<!-- {name}: {end} -->" for name in ("devices", "errors") for end in ("begin", "end")]
    page.write_text("\n".join(["before", *marks, "behind"]), "utf-8")
    assert told("--page", str(page))[0] == 0
    text = page.read_text("utf-8")
    assert text.startswith("before")
    assert text.endswith("behind")
    assert "| gemm_w4a16 | h200 | 36 |" in text
    assert "| `titan_xp_gpu` | sm_61 |" in text


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--machine", "spatten"], "no GPU of these models"),
        (["--record", "pyproject.toml"], "pyproject.toml"),
        (["--out", "pyproject.toml"], "must be a folder"),
        (["--page", "nowhere.md"], "must be a page that exists"),
        (
            ["--machine", "l40s", "--record", str(report.RESULTS / report.RECORDS[0])],
            "must be of sm_89 with 142 multiprocessors",
        ),
    ],
)
def test_mistakes_are_told(words: list[str], rule: str) -> None:
    status, text = told(*words)
    assert status == 2
    assert rule in text.replace("\n", " ")
