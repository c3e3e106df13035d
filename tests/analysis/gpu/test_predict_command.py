"""`tilewright predict`: numbers in, tables and JSON out, mistakes told with the nearest match."""

import json
from itertools import pairwise, product
from pathlib import Path

import pytest
from typer.testing import CliRunner

from accel.machine import find_machine
from analysis.cli import app
from analysis.gpu.ask import grid, numbers

TOY = Path(__file__).parents[2] / "dataflow" / "gpu" / "toy_fit.yaml"
SHAPE = ["--m", "64", "--n", "4096", "--k", "4096"]
GEMM = [*SHAPE, "--format", "w4a8"]


@pytest.fixture
def machine(tmp_path: Path) -> str:
    """An H200 with a fit made by hand, which knows no kernel."""
    text = find_machine("h200").read_text("utf-8").replace("fit: [h200]", f"fit: [{TOY}]")
    (tmp_path / "gpu.yaml").write_text(text, "utf-8")
    return str(tmp_path / "gpu.yaml")


def predict(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["predict", *words])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [("64", [64]), ("1,16, 64", [1, 16, 64]), ("1..8", [1, 2, 4, 8]), ("3..13,5", [3, 6, 12, 5]), ("1e3", [1000])],
)
def test_lists_of_numbers(text: str, expected: list[int]) -> None:
    assert numbers("--m", text) == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "a", "8..4", "1,,2", "1e-3", "1e99", "1...4", "inf"])
def test_what_is_no_number_is_refused_by_the_option(text: str) -> None:
    with pytest.raises(ValueError, match=r"^--m: "):
        numbers("--m", text)


def test_combinations_pair_up() -> None:
    points = grid({"m": [1, 2], "n": [5, 6, 7]})
    assert points["m"].tolist() == [1, 1, 1, 2, 2, 2]
    assert points["n"].tolist() == [5, 6, 7, 5, 6, 7]
    with pytest.raises(ValueError, match="m, n: at most 100000 combinations, got 160000"):
        grid({"m": list(range(400)), "n": list(range(400))})


def test_one_point_as_json() -> None:
    status, out, _ = predict("gemm", *GEMM, "--json")
    row = json.loads(out)
    assert status == 0
    assert row["floor_s"] <= row["low_s"] < row["latency_s"] < row["high_s"]
    assert row["dram_bytes"] >= 4096 * 4096 // 2
    assert row["dynamic_j"] < row["energy_j"]
    assert 0 < row["power_w"] <= 700
    assert row["limited_by"] == max(row["terms"], key=lambda name: row["terms"][name])
    assert (row["format"], row["m"]) == ("w4a8", 64)


def test_one_point_is_told_in_full() -> None:
    status, out, _ = predict("gemm", *GEMM)
    assert status == 0
    for words in ("90 % band", "floor", "limited by", "DRAM read, written", "energy", "calibrated", "left out:"):
        assert words in out


def test_lists_make_a_table() -> None:
    shape = ["--m", "1..64", "--n", "4096", "--k", "4096,8192", "--format", "w4a8,w8a8"]
    status, out, _ = predict("gemm", *shape, "--json")
    points = json.loads(out)["points"]
    assert status == 0
    assert len(points) == 28
    assert {(point["k"], point["format"]) for point in points} == set(product((4096, 8192), ("w4a8", "w8a8")))
    assert all(one["latency_s"] < other["latency_s"] for one, other in pairwise(points[:2]))
    status, out, _ = predict("gemm", *shape)
    assert out.count("calibrated") == 28


def test_a_fallback_is_a_warning_on_stderr() -> None:
    status, out, err = predict("gemm", *SHAPE, "--format", "w4a4_int4", "--json")
    assert status == 0
    assert json.loads(out)["format"] == "w4a8_group"
    assert "warning: h200 has no int4 tensor cores" in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["gemm", *GEMM, "--machine", "l40"], "did you mean 'l40s'?"),
        (["gemm", *GEMM, "--machine", "titan_xp"], "titan_xp is no GPU of these models"),
        (["gemm", *GEMM, "--machine", ","], "--machine: must be a name"),
        (["gemm", "--m", "x", "--n", "1", "--k", "1"], "--m: must be whole numbers"),
        (["attention"], "--context: decode needs it"),
        (["attention", "--prefill", "--context", "4"], "--length: --prefill needs it"),
        (["attention", "--context", "4", "--length", "4"], "decode takes --context"),
        (["elementwise", "--elements", "8", "--operator", "geluu"], "did you mean 'gelu'?"),
        (["copy", "--bytes", "8", "--way", "h2d_pined"], "did you mean 'h2d_pinned'?"),
    ],
)
def test_mistakes_are_told_without_a_traceback(words: list[str], expected: str) -> None:
    status, out, err = predict(*words)
    assert (status, out) == (2, "")
    assert expected in err
    assert "Traceback" not in err


def test_unknown_formats_and_missing_sections(machine: str) -> None:
    status, _, err = predict("gemm", *SHAPE, "--format", "int7", "--machine", machine)
    assert status == 2
    assert "did you mean 'int8'?" in err
    status, _, err = predict("gemm", *SHAPE, "--format", "fp8", "--machine", machine)
    assert status == 2
    assert "has gemm.fp8; calibrate one that does" in err


@pytest.mark.parametrize(
    "command", ["gemm", "attention", "linear-attention", "elementwise", "rows", "convolution", "copy"]
)
def test_help_teaches_by_example(command: str) -> None:
    status, out, _ = predict(command, "--help")
    assert status == 0
    assert f"tilewright predict {command}" in " ".join(out.split())
