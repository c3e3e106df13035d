"""The command line: exit statuses, one JSON object, no traceback for a user's mistake."""

import json
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

MAIN = "from analysis.cli import main; main()"
SWEEP = """\
machine: titan_xp
workload: minilm
set:
  machine.compute.efficiency: [0.5, 0.8]
  machine.power.dynamic_w: [50, 100]
objectives: {latency_s: min, energy_j: min}
baselines: [xeon_e5_2640v4]
workers: 1
"""
POINT = ("run", "--machine", "titan_xp", "--workload", "minilm")


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str


def tilewright(*arguments: str, folder: Path, before: str = "") -> Answer:
    command = [sys.executable, "-c", before + MAIN, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files to work on; the sources stay importable from it."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    (tmp_path / "quick.yaml").write_text(SWEEP)
    (tmp_path / "faulty.yaml").write_text(SWEEP.replace("titan_xp", "titan_xq"))
    (tmp_path / "broken.trace.zip").write_bytes(b"PK no zip")
    return tmp_path


GOOD: list[tuple[tuple[str, ...], str]] = [
    (("sweep", "quick.yaml"), "pareto"),
    (POINT, "latency_s"),
    (("trace", "list"), "workloads"),
    (("trace", "show", "minilm"), "model"),
    (("machine", "list"), "machines"),
    (("machine", "show", "titan_xp"), "clock_hz"),
    (("machine", "copy", "titan_xp", "mine.yaml"), "to"),
    (("validate", "quick.yaml"), "files"),
    (("list",), "examples"),
    (("schema", "sweep"), "properties"),
    (("schema", "machine"), "$defs"),
    (("schema", "standard"), "$defs"),
    (("schema", "policy"), "properties"),
    (("warmup",), "compiled"),
    (("version",), "sources"),
    (("bench",), "sweep_points_per_s"),
    (("trace", "export", "minilm"), "path"),
]
INSTANT = """\
import sys, types
from dataclasses import dataclass
from pathlib import Path
bench = types.ModuleType("analysis.bench")
bench.run_bench = lambda: {"sweep_points_per_s": 7.0, "a_ratio": float("nan")}
minilm = types.ModuleType("workloads.minilm")
@dataclass
class Summary:
    path: Path
minilm.export_minilm = lambda path, model, progress: (progress(1, 2), Summary(path))[1]
sys.modules |= {"analysis.bench": bench, "workloads.minilm": minilm}
"""  # what takes long is replaced; how it is told stays
BAD: list[tuple[tuple[str, ...], str]] = [
    (("sweep", "faulty.yaml"), "faulty.yaml:1:10: machine: must be a shipped name or a file"),
    (("sweep", "spaten_minilm"), "no sweep 'spaten_minilm' (did you mean 'spatten_minilm'?"),
    (("sweep", "absent.yaml"), "absent.yaml:1:1: must be a readable file"),
    (("sweep", "quick.yaml", "--out", "quick.yaml"), "quick.yaml: File exists"),
    (("run", "--machine", "spaten", "--workload", "minilm"), "no machine 'spaten'"),
    (("run", "--machine", "titan_xp", "--workload", "minlm"), "did you mean 'minilm'?"),
    ((*POINT, "--policy", "token_keap=1"), "--policy: token_keap: unknown key (did you mean 'token_keep'?"),
    ((*POINT, "--policy", "token_keep"), "must be written key=value, got 'token_keep'"),
    ((*POINT, "--set", "machine.power.dynamc_w=1"), "did you mean 'power.dynamic_w'?"),
    ((*POINT, "--set", "machine.clock_hz=fast"), "clock_hz: must be a whole number"),
    (("trace", "show", "broken.trace.zip"), "broken.trace.zip: must be a whole trace file"),
    (("trace", "show", "absent.csv"), "must be one of minilm"),
    (("machine", "show", "spaten"), "no machine 'spaten'"),
    (("machine", "copy", "titan_xp", "quick.yaml"), "quick.yaml: exists; --force replaces it"),
    (("machine", "copy", "titan_xp", "."), "is a folder; name the file in it, for instance titan_xp.yaml"),
    ((*POINT, "--timeline", "no/such/t.json"), "--timeline: must name a file in a folder that exists"),
    ((*POINT, "--policy", "a=1", "--policy", "a=2"), "a: given twice, as 1 and 2"),
    (("machine", "copy", "titan_xp", "no/such/folder.yaml"), "No such file or directory"),
    (("validate", "faulty.yaml", "quick.yaml"), "faulty.yaml:1:10: machine: must be a shipped name"),
    (("schema", "swep"), "'swep' is not one of"),
    (("swep",), "No such command 'swep'"),
]


@pytest.mark.parametrize(("arguments", "key"), GOOD, ids=lambda x: "-".join(x) if isinstance(x, tuple) else x)
def test_json_is_one_object_on_stdout(arguments: tuple[str, ...], key: str, folder: Path) -> None:
    slow = arguments[0] == "bench" or arguments[1:2] == ("export",)
    answer = tilewright(*arguments, "--json", folder=folder, before=INSTANT if slow else "")
    assert answer.status == 0, answer.err
    assert key in json.loads(answer.out)


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=lambda x: "-".join(x) if isinstance(x, tuple) else "")
def test_a_mistake_is_told_without_a_traceback(arguments: tuple[str, ...], words: str, folder: Path) -> None:
    told = tilewright(*arguments, folder=folder)
    assert told.status == 2
    assert words in told.err + told.out
    assert "Traceback" not in told.err
    as_json = tilewright(*arguments, "--json", folder=folder)
    assert as_json.status == 2
    assert isinstance(json.loads(as_json.out), dict)


def test_the_package_runs_without_its_console_script(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "analysis", "version", "--json"], cwd=folder, capture_output=True)
    assert set(json.loads(done.stdout)) == {"tilewright", "sources"}


def test_a_file_that_is_no_store_is_named(folder: Path) -> None:
    (folder / "cache").mkdir(exist_ok=True)
    (folder / "cache" / "results.sqlite").write_bytes(bytes(range(256)) * 20)
    answer = tilewright("sweep", "quick.yaml", "--json", folder=folder)
    assert answer.status == 2
    assert "results.sqlite: file is not a database; delete the file" in json.loads(answer.out)["error"]


def test_failed_points_end_with_status_three(folder: Path) -> None:
    moody = (
        "import dataflow.simulate as d; real = d.simulate\n"
        "def simulate(machine, *a, **k):\n"
        "    if machine.power.dynamic_w == 50: raise ValueError('fifty')\n"
        "    return real(machine, *a, **k)\n"
        "d.simulate = simulate\n"
    )
    answer = tilewright("sweep", "quick.yaml", "--json", folder=folder, before=moody)
    assert answer.status == 3
    assert set(json.loads(answer.out)["failures"].values()) == {"ValueError: fifty"}
    assert "2 of 4 points failed: ValueError: fifty" in answer.err


def test_a_fault_of_ours_is_status_one_and_asks_for_no_traceback(folder: Path) -> None:
    broken = "import dataflow.simulate as d\ndef simulate(*a, **k): raise KeyError('x')\nd.simulate = simulate\n"
    answer = tilewright(*POINT, "--json", folder=folder, before=broken)
    assert answer.status == 1
    assert "KeyError: 'x' (this is a fault of tilewright" in json.loads(answer.out)["error"]


def test_a_missing_extra_is_named(folder: Path) -> None:
    blocked = "import sys; sys.modules['torch'] = None\n"
    answer = tilewright("trace", "export", "minilm", folder=folder, before=blocked)
    assert answer.status == 2
    assert "pip install '.[torch]'" in answer.err


@pytest.mark.parametrize("arguments", [("--help",), ("validate", "quick.yaml")], ids=" ".join)
def test_quick_commands_import_nothing_heavy(arguments: tuple[str, ...], folder: Path) -> None:
    spy = (
        "import atexit, sys\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'plotly', 'numba', 'pyarrow', 'simpy'}\n"
        "atexit.register(lambda: print('HEAVY', sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
    )
    answer = tilewright(*arguments, folder=folder, before=spy)
    assert answer.status == 0
    assert "HEAVY []" in answer.err


def test_every_command_teaches_by_example(folder: Path) -> None:
    for command in (
        "sweep",
        "run",
        "validate",
        "list",
        "schema",
        "bench",
        "warmup",
        "trace show",
        "machine copy",
    ):
        answer = tilewright(*command.split(), "--help", folder=folder)
        assert f"tilewright {command}" in answer.out
        assert "--json" in answer.out


class Links(HTMLParser):
    """Collects what a page would load or link to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tables = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tables += tag == "table"
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]


def test_the_report_opens_offline(folder: Path) -> None:
    assert tilewright("sweep", "quick.yaml", "--out", "out", folder=folder).status == 0
    page = (folder / "out" / "report.html").read_text()
    links = Links()
    links.feed(page)
    assert links.tables >= 6
    assert links.found
    assert all(link.startswith("data:") for link in links.found)
    assert page.count("plotly.js v") == 1
    for text in (
        "What pruning costs in quality",
        "titan_xp.yaml",
        "Pareto front",
        "95 %",
        "Where the numbers come from",
    ):
        assert text in page
    written = {path.name for path in (folder / "out").iterdir()}
    figures = {f"{name}.{kind}" for name in ("pareto", "effects", "breakdown", "baselines") for kind in ("png", "svg")}
    assert written == {"results.parquet", "report.html", *figures}


def test_the_same_sweep_writes_the_same_files(folder: Path) -> None:
    for name in ("one", "two"):
        assert tilewright("sweep", "quick.yaml", "--fresh", "--out", name, folder=folder).status == 0
    for path in (folder / "one").iterdir():
        assert path.read_bytes() == (folder / "two" / path.name).read_bytes(), path.name


def test_an_infeasible_sweep_still_reports(folder: Path) -> None:
    (folder / "none.yaml").write_text(SWEEP + "constraints: [energy_j < 0]\n")
    answer = tilewright("sweep", "none.yaml", "--json", folder=folder)
    assert answer.status == 0, answer.err
    found: dict[str, Any] = json.loads(answer.out)
    assert found["pareto"] == []
    assert "No point satisfies the constraints" in (folder / "none" / "report.html").read_text()
