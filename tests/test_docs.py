"""What the pages say must be so: links, commands, code, and a definition of every reported number."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from accel.machine import machine_names
from analysis.api import run
from analysis.cli import app
from analysis.quantities import result_keys
from analysis.sweep import read_sweep
from sim.result import Result

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")])
GUIDES = (ROOT / "README.md", ROOT / "docs" / "tutorial.md")
EMPTY: dict[str, int] = {}
RESULT = Result("m", "w", 1, 1.0, "u", EMPTY, EMPTY, {}, {}, EMPTY, 0)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every fenced `tilewright` command, in order, without the name of the program."""
    for line in "".join(blocks(page, "sh")).splitlines():
        for part in line.partition("#")[0].split("&&"):
            words = shlex.split(part)
            if words[:1] == ["tilewright"]:
                yield words[1:]


def misfits(words: list[str]) -> list[str]:
    """Words that are no subcommand or option of the command line."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while getattr(command, "commands", None):
        if rest == ["--help"]:
            return []
        if not rest or rest[0] not in command.commands:
            return rest[:1] or [f"{command.name}: a subcommand is missing"]
        command = command.commands[rest.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    return [word for word in rest if word.startswith("-") and word.partition("=")[0] not in known]


def inline_commands(page: Path) -> list[list[str]]:
    """Commands in running text, `like this`, up to the first placeholder."""
    found = re.findall(r"`(tilewright [^`]+)`", page.read_text("utf-8"))
    return [shlex.split(text)[1:] for text in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_commands_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text)]
    local = [target for target in targets if target and not target.startswith("https://")]
    assert [target for target in local if not (page.parent / target).exists()] == []
    told = [*commands(page), *inline_commands(page)]
    assert {shlex.join(words): misfits(words) for words in told if misfits(words)} == {}


def test_the_guides_do_show_commands() -> None:
    assert [len(list(commands(page))) > 0 for page in GUIDES] == [True, True]


@pytest.mark.parametrize(
    "words", [["swep", "x"], ["run", "--machin", "x"], ["trace"], ["machine", "show", "x", "--jso"]]
)
def test_a_wrong_command_is_found(words: list[str]) -> None:
    assert misfits(words)


@pytest.mark.parametrize("key", [*RESULT.to_dict(), *result_keys()])
def test_every_reported_key_is_defined(key: str) -> None:
    assert f"\n| `{key}` | " in (ROOT / "docs" / "quantities.md").read_text("utf-8")


@pytest.mark.parametrize("machine", machine_names())
def test_every_key_of_a_real_result_is_defined(machine: str) -> None:
    page = (ROOT / "docs" / "quantities.md").read_text("utf-8")
    selects = machine != "spatten_datapath"  # which has no top-k
    keys = run(machine, "minilm", **({"token_keep": 0.5, "head_keep": 0.9} if selects else {})).to_dict()
    assert [key for key in keys if f"\n| `{key}` | " not in page] == []


def test_ci_runs_the_test_line_of_the_readme() -> None:
    (line,) = (line for block in blocks(GUIDES[0], "sh") for line in block.splitlines() if "pytest" in line)
    assert line == "python -m pip install -e '.[test]' && python -m pytest"
    assert f"\n{line} || exit 1\n" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_the_first_line_runs_a_shipped_sweep() -> None:
    (first, *_) = blocks(GUIDES[0], "sh")
    assert first == "python -m pip install . && tilewright sweep examples/spatten_minilm.yaml\n"
    assert (ROOT / "examples" / "spatten_minilm.yaml").is_file()


def test_named_files_exist() -> None:
    """`sim/plan.py` in a page is a file or folder, unless a command writes it."""
    written = ("spatten_minilm/", "golden/", "first_contact/", "src/")
    for page in PAGES:
        named = re.findall(r"`([\w.]+/[\w./]*)`", page.read_text("utf-8"))
        assert [path for path in named if not path.startswith(written) and not _exists(page, path)] == []


def _exists(page: Path, path: str) -> bool:
    return (ROOT / path).exists() or (page.parent / path).exists()


def test_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = (block for block in blocks(GUIDES[0], "python") if "import" in block)
    assert len(code.strip().splitlines()) <= 7
    exec(compile(code, "README.md", "exec"), {})
    assert "times as fast with twice the softmax lanes" in capsys.readouterr().out


def test_the_tutorial_can_be_walked(tmp_path: Path) -> None:
    """Every file and command of the tutorial, in order; a sweep stops after its first points."""
    page = GUIDES[1]
    for text in blocks(page, "yaml"):
        (tmp_path / text.partition("\n")[0].removeprefix("# ")).write_text(text, "utf-8")
    for words in commands(page):
        shortened = [*words, "--limit", "2"] if words[0] == "sweep" else words
        done = _tilewright(shortened, tmp_path)
        assert done.returncode == 0, (words, done.stderr)
    assert read_sweep(tmp_path / "balance.yaml").grid_size == 27
    for code in blocks(page, "python"):
        done = _python(["-c", code], tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def _tilewright(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return _python(["-c", "from analysis.cli import main; main()", *words], folder)


def _python(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, env=here)
