"""Notebooks still run: their code cells, one after another, on published values in the place of simulations."""

import json
from pathlib import Path

import pytest

import tilewright
from analysis.reproduce.published import read_published
from analysis.reproduce.table import BEST, HEADLINES, RELEASED, Reproduction

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def paper_as_ours() -> Reproduction:
    table = read_published("spatten")
    values = {one.id: one.value for one in table}
    spans = {name: (0.9 * values[name], 1.1 * values[name]) for name in HEADLINES}
    lines = [{"assumption": "a", "end": "low"} | dict.fromkeys(HEADLINES, 0.1)]
    return Reproduction(table, {}, {BEST: values, RELEASED: values}, spans, lines)


def test_there_are_the_stories_of_spatten_and_of_gpus() -> None:
    assert {"spatten", "gpu_models"} <= {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tilewright, "reproduce_spatten", paper_as_ours, raising=False)
    shown: list[object] = []
    names: dict[str, object] = {"display": shown.append}
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            lines = [line for line in cell["source"] if not line.startswith("%")]
            exec(compile("".join(lines), f"{path.name}[{number}]", "exec"), names)
    assert shown, "the table of all rows"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_has_been_run(path: Path) -> None:
    """Outputs are there, in order, and none is an error."""
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [out for cell in cells for out in cell["outputs"] if out["output_type"] == "error"]
    assert any("image/png" in out.get("data", {}) for cell in cells for out in cell["outputs"])
