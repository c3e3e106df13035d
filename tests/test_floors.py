"""The floors of the house: who may import whom. The README shows the same dict."""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {
    "sim": (),
    "accel": (),
    "workloads": ("accel",),
    "gpu_kernels": ("accel",),
    "dataflow": ("sim", "accel", "workloads", "gpu_kernels.*.config", "gpu_kernels.*.model"),
    "analysis": ("sim", "accel", "workloads", "gpu_kernels", "dataflow"),
    "tilewright": ("sim", "accel", "workloads", "gpu_kernels", "dataflow", "analysis"),
}
OURS = {*FLOORS, "tests", "notebooks", "examples", "docs"}
HEAVY = {"torch", "transformers", "safetensors", "diffusers", "cuda"}
NEVER_HEAVY = {"sim", "accel", "dataflow"}  # not even inside a function
MAY_START_HEAVY = (  # subclasses and custom operators of torch; all others import it inside functions
    "gpu_kernels/*/op.py",
    "workloads/export/recorder.py",
    "workloads/export/captured.py",
    "workloads/quantization/layers.py",
)
APART = {"sim.engine": "sim.compiled", "sim.compiled": "sim.engine"}  # twins that check each other


def imports(tree: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool, int]]:
    """(dotted name, with a dot in front if relative; whether it waits for a call or a type checker; line)."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            stem = "." if node.level else f"{node.module}."
            yield from ((f"{stem}{alias.name}", inside, node.lineno) for alias in node.names)
        else:
            yield from imports(node, inside or _waits(node))


def _waits(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def faults(root: Path) -> list[str]:
    """Every import under `root` that breaks a rule, as `file:line: reason`."""
    files = [file for folder in FLOORS for file in (root / folder).rglob("*.py")]
    files += [root / "tilewright.py"] if (root / "tilewright.py").exists() else []
    found = []
    for file in sorted(files):
        place = file.relative_to(root).as_posix()
        for name, waits, line in imports(ast.parse(file.read_text(encoding="utf-8"), place)):
            found += [f"{place}:{line}: {reason}" for reason in _reasons(place, name, waits)]
    return found


def _reasons(place: str, name: str, waits: bool) -> Iterator[str]:
    folder = place.partition("/")[0].removesuffix(".py")
    package = name.partition(".")[0]
    if name.startswith("."):
        yield "a relative import"
    if package in OURS - {folder} and not _allowed(name, FLOORS[folder]):
        yield f"{folder} may not import {name}"
    if package in HEAVY and folder in NEVER_HEAVY:
        yield f"{folder} may not import {package}"
    elif package in HEAVY and not waits and not any(fnmatch(place, rule) for rule in MAY_START_HEAVY):
        yield f"{package} belongs inside the function that needs it"
    if APART.get(place.removesuffix(".py").replace("/", "."), " ") in (name, name.rpartition(".")[0]):
        yield f"may not import its twin {name}"


def _allowed(name: str, floors: tuple[str, ...]) -> bool:
    return any(fnmatch(name, floor) or fnmatch(name, f"{floor}.*") for floor in floors)


def test_floors_hold() -> None:
    assert faults(ROOT) == []


def test_readme_shows_the_floors() -> None:
    blocks = (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")[1:]
    shown = [block.partition("```")[0] for block in blocks]
    dicts = [text.partition("FLOORS = ")[2] for text in shown if text.startswith("FLOORS = ")]
    assert [ast.literal_eval(text) for text in dicts] == [FLOORS]


def test_every_package_has_a_floor() -> None:
    packages = {file.parent.name for file in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == set(FLOORS) - {"tilewright"}


@pytest.mark.parametrize(
    ("place", "line", "reason"),
    [
        ("sim/plan.py", "import accel.machine", "sim may not import accel.machine"),
        ("accel/machine.py", "from sim import plan", "accel may not import sim.plan"),
        ("workloads/trace.py", "from sim.result import Result", "workloads may not import sim.result.Result"),
        ("dataflow/plan.py", "import analysis", "dataflow may not import analysis"),
        ("dataflow/plan.py", "from gpu_kernels.w4.op import run", "dataflow may not import gpu_kernels"),
        ("dataflow/plan.py", "def f():\n    from torch import nn", "dataflow may not import torch"),
        ("sim/plan.py", "if TYPE_CHECKING:\n    from accel.machine import X", "sim may not import accel"),
        ("analysis/cli.py", "from tests.conftest import x", "analysis may not import tests.conftest.x"),
        ("analysis/cli.py", "try:\n    import torch\nexcept ImportError: pass", "torch belongs inside"),
        ("workloads/a/b.py", "class A:\n    import transformers", "transformers belongs inside"),
        ("gpu_kernels/w4/model.py", "import torch", "torch belongs inside"),
        ("gpu_kernels/w4/model.py", "from .config import tiles", "a relative import"),
        ("sim/engine.py", "from sim.compiled import run", "may not import its twin sim.compiled.run"),
        ("sim/compiled.py", "from sim import engine", "may not import its twin sim.engine"),
        ("tilewright.py", "from examples import x", "tilewright may not import examples.x"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, place: str, line: str, reason: str) -> None:
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(line + "\n", encoding="utf-8")
    (fault,) = faults(tmp_path)
    assert fault.startswith(f"{place}:")
    assert reason in fault


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("sim/plan.py", "import sim.result, numpy"),
        ("workloads/export.py", "def f():\n    import torch"),
        ("workloads/export.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("gpu_kernels/w4/op.py", "import torch"),
        ("dataflow/plan.py", "from gpu_kernels.w4.config import tiles"),
        ("dataflow/plan.py", "from gpu_kernels.w4 import model"),
        ("analysis/cli.py", "from dataflow.simulate import simulate"),
    ],
)
def test_a_right_import_is_let_through(tmp_path: Path, place: str, line: str) -> None:
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(line + "\n", encoding="utf-8")
    assert faults(tmp_path) == []
