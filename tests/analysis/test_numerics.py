"""`tilewright trace numerics` on a tiny trace: errors by hand, shared inputs, kernels, messages."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from analysis.cli import app

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers with one input and one behind them, 16 rows of each, float16."""
    from workloads.trace import Trace
    from workloads.trace_file import write_trace
    from workloads.values import Operands, record_values

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = (torch.nn.Linear(128, width) for width in (64, 192))
            self.last = torch.nn.Linear(192, 64, bias=False)

        def forward(self, x: Any) -> Any:
            return self.one(x) + self.last(torch.relu(self.two(x)))

    torch.manual_seed(0)
    x = torch.randn(1, 16, 128)
    x[..., 5] *= 20
    values = record_values(Model(), [x], operands=Operands(["*"], tokens=16, form="float16"))
    file = tmp_path_factory.mktemp("trace") / "tiny.trace.zip"
    write_trace(Trace("tiny", {"name": "tiny"}, {"kind": "values", **values.notes}, {}, values.facts), file)
    return file


def numerics(file: Any, *words: Any) -> Any:
    return CliRunner().invoke(app, ["trace", "numerics", str(file), *map(str, words)])


def rows(file: Path, *words: Any) -> list[dict[str, Any]]:
    done = numerics(file, *words, "--json")
    assert done.exit_code == 0, done.output
    return list(json.loads(done.stdout)["rows"])


def test_errors_are_those_of_the_odd_rows(trace: Path) -> None:
    """Naive W8A8 of one layer, worked by hand in NumPy."""
    from workloads.trace import load_workload
    from workloads.values.reading import operands

    found = rows(trace, "--schemes", "rtn_w8a8", "--layer", "last", "--fake")[0]
    held = operands(load_workload(str(trace)), "last")
    x, w = held["input"][1::2], held["weight"]

    x_scale, w_scale = (np.abs(values).max(1, keepdims=True) / 127 for values in (x, w))
    x_codes = np.rint(x.astype(np.float32) / x_scale.astype(np.float32))
    w_stored = w_scale.astype(np.float16).astype(float)
    rounded = (x_codes * x_scale.astype(np.float16)) @ (np.clip(np.rint(w / w_stored), -127, 127) * w_stored).T
    expected = np.linalg.norm(rounded - x @ w.T) / np.linalg.norm(x @ w.T)
    assert found["error"] == pytest.approx(expected, rel=1e-2)
    assert found["snr_db"] == pytest.approx(-20 * np.log10(found["error"]))
    assert (found["arithmetic"], found["kind"]) == ("fake", "w8a8")


def test_kernels_are_close_to_fake_quantized_and_said(trace: Path) -> None:
    words = ("--schemes", "rtn_int4,svdquant_int4", "--rank", 8, "--layer", "last")
    for kernel, fake in zip(rows(trace, *words), rows(trace, *words, "--fake"), strict=True):
        assert (kernel["arithmetic"], fake["arithmetic"]) == ("kernel", "fake")
        assert kernel["error"] == pytest.approx(fake["error"], rel=0.05)
        assert kernel["weight_error"] == fake["weight_error"]
        assert kernel["error"] != fake["error"]


def test_layers_with_one_input_share_their_smoothing(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from analysis import numerics as study

    groups: list[int] = []
    whole = study.quantize_group

    def seen(recipe: Any, weights: Any, *more: Any, **changes: Any) -> Any:
        groups.append(len(weights))
        return whole(recipe, weights, *more, **changes)

    monkeypatch.setattr(study, "quantize_group", seen)
    found = rows(trace, "--schemes", "smoothquant_w8a8", "--fake")
    assert [row["layer"] for row in found] == ["one", "two", "last"]
    assert groups == [2, 1]


def test_the_table_and_the_file(trace: Path, tmp_path: Path) -> None:
    done = numerics(trace, "--schemes", "nf4", "--csv", tmp_path / "a.csv")
    assert done.exit_code == 0, done.output
    assert "SNR (dB)" in done.stdout
    head, *lines = (tmp_path / "a.csv").read_text().splitlines()
    assert head.startswith("layer,scheme,kind,arithmetic,error,snr_db")
    assert [line.split(",")[0] for line in lines] == ["one", "two", "last"]


def test_a_scheme_that_does_not_fit_says_why(trace: Path) -> None:
    found = rows(trace, "--schemes", "rtn_w4a8_g128", "--fake")
    assert ["error" in row for row in found] == [True, True, False]
    assert "K must be a multiple of 128, got 192" in found[2]["why_not"]


MISTAKES = {
    "minilm": "must be a value trace|holds no operands",
    "TINY --layer lst": "nearest: last",
    "TINY --schemes rtn_in4": "nearest: rtn_int4",
    "TINY --csv nowhere/a.csv": "--csv: must name a file in a folder that exists",
    "TINY --after-gelu x": "--after-gelu: must fit one of one, two, last",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_get_a_message(words: str, trace: Path) -> None:
    done = numerics(*words.replace("TINY", str(trace)).split())
    assert done.exit_code == 2
    assert any(part in done.output for part in MISTAKES[words].split("|")), done.output


def test_without_operands_it_says_how_to_record_them(tmp_path: Path) -> None:
    from workloads.trace import Trace
    from workloads.trace_file import write_trace
    from workloads.values import record_values

    values = record_values(torch.nn.Linear(8, 8), [torch.randn(1, 4, 8)])
    file = tmp_path / "bare.trace.zip"
    write_trace(Trace("bare", {}, {"kind": "values", **values.notes}, {}, values.facts), file)
    done = numerics(file)
    assert done.exit_code == 2
    assert "holds no operands" in done.output
    assert "Operands(" in done.output
