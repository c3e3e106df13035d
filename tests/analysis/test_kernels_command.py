"""`tilewright kernels`: messages, exit statuses and JSON without a GPU; the tables of records."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from analysis.cli import app
from gpu_kernels import check as checks
from gpu_kernels import record, runtime
from gpu_kernels.bench import suite
from tests.gpu_kernels.bench.fake_record import fake_record
from tests.gpu_kernels.test_check import found, kernel, operands


def run(*words: Any) -> Any:
    return CliRunner().invoke(app, ["kernels", *map(str, words)])


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise RuntimeError("kernels need a CUDA device: torch.cuda.is_available() is False")

    monkeypatch.setattr(runtime, "architecture", none)


@pytest.fixture
def one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is made up, and one kernel, whose second case is wrong."""

    def half_right(case: Any) -> dict[str, Any]:
        return found(case) | ({"double": operands(case)} if case.name == "two" else {})

    monkeypatch.setattr(runtime, "architecture", lambda: "sm_90a")
    monkeypatch.setattr(
        record, "surroundings", lambda commit: dict.fromkeys(("device", "driver", "date"), "x") | {"commit": commit}
    )
    monkeypatch.setattr(checks, "kernels", lambda: {"fake": kernel(found=half_right)})


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("command", ["check", "bench"])
def test_without_a_gpu_it_says_so(command: str) -> None:
    answer = run(command)
    assert answer.exit_code == 2
    assert "kernels need a CUDA device" in answer.stderr
    told = json.loads(run(command, "--json").stdout)
    assert told["exit_status"] == 2
    assert "kernels need a CUDA device" in told["error"]


@pytest.mark.usefixtures("one_kernel")
def test_every_case_is_told_and_a_wrong_one_gives_status_3(tmp_path: Path) -> None:
    file = tmp_path / "check.json"
    answer = run("check", "--out", file, "--commit", "abc")
    assert answer.exit_code == 3
    assert "fake  one  ok" in answer.stderr
    assert "fake  two  double differs" in answer.stderr
    assert "Wrong" in answer.stdout
    written = record.read(file, checks.FORMAT)
    assert [row["fault"] for row in written["rows"]] == ["", "double differs"]
    shown = run("show", file)
    assert shown.exit_code == 0
    assert "double differs" in shown.stdout
    assert "abc" in shown.stdout


@pytest.mark.usefixtures("one_kernel")
def test_json_has_the_cases() -> None:
    answer = run("check", "--json")
    assert answer.exit_code == 3
    assert [(row["case"]["name"], row["fault"]) for row in json.loads(answer.stdout)["rows"]] == [
        ("one", ""),
        ("two", "double differs"),
    ]


@pytest.mark.usefixtures("one_kernel")
def test_right_cases_give_status_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "kernels", lambda: {"fake": kernel()})
    assert run("check").exit_code == 0


@pytest.mark.usefixtures("one_kernel")
def test_mistakes_are_named(tmp_path: Path) -> None:
    assert "--kernel: must be one of fake, got 'fak'; nearest: fake" in run("check", "--kernel", "fak").stderr
    assert "got 'gem'; nearest: gemm" in run("bench", "--part", "gem").stderr
    assert "must name a file in a folder that exists" in run("check", "--out", tmp_path / "no" / "x.json").stderr
    other = tmp_path / "other.json"
    other.write_text("{}", encoding="utf-8")
    answer = run("show", other)
    assert answer.exit_code == 2
    assert f"must be a record of format {checks.FORMAT} or {suite.FORMAT}, got None" in answer.stderr


def test_without_the_extra_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "cuda.core"):
        monkeypatch.setitem(sys.modules, name, None)
    answer = run("check")
    assert answer.exit_code == 2
    assert "python -m pip install '.[gpu]'" in answer.stderr


def test_a_gpu_of_another_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "architecture", lambda: "sm_75")
    monkeypatch.setattr(checks, "kernels", lambda: {"fake": kernel()})
    answer = run("check")
    assert answer.exit_code == 2
    assert "this GPU is sm_75: fake are for sm_80" in answer.stderr


def test_a_bench_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    record.write(fake_record(), file)
    answer = run("show", file)
    assert answer.exit_code == 0
    for word in ("Ceilings", "4.5 TB/s", "l3-8b gateup", "Goals", "Not measured", "geometric mean"):
        assert word in answer.stdout
    assert json.loads(run("show", file, "--json").stdout) == fake_record()


def test_bench_prints_what_it_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def measured(parts: Any, out: Any, commit: Any, progress: Any) -> dict[str, Any]:
        asked.append((parts, out, commit))
        progress(1, 2, "gemm")
        return fake_record()

    monkeypatch.setattr(suite, "run_bench", measured)
    answer = run("bench", "--part", "gemm,ceilings", "--out", tmp_path / "b.json", "--commit", "abc")
    assert answer.exit_code == 0
    assert asked == [(("ceilings", "gemm"), tmp_path / "b.json", "abc")]
    assert "Goals" in answer.stdout


def test_help_teaches() -> None:
    assert all(name in run("--help").stdout for name in ("check", "bench", "show"))
    assert all("tilewright kernels" in run(name, "--help").stdout for name in ("check", "bench", "show"))
