"""What a user gets from `pip install .`: one root, no torch, and every data file."""

import json
import os
import re
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

import pytest

from accel.machine import machine_names
from analysis.sweep import example_names
from workloads.trace import workload_names

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sim", "accel", "dataflow", "workloads", "gpu_kernels", "analysis")
DATA = ("*.yaml", "*.zip", "*.j2", "*.csv", "*.json", "*.cu", "*.cuh", "*.v", "*.xz", "*.safetensors")
# Run in a folder with nothing in it, on an unpacked wheel, where torch cannot be imported.
INSTALLED = """
import json, sys
sys.modules["torch"] = None
import tilewright
for name in tilewright.__all__:
    getattr(tilewright, name)
import analysis.cli, analysis.sweep, accel.machine, workloads.trace
roots = {str(sys.modules[name].__file__) for name in ("tilewright", "analysis.cli", "accel.machine")}
texts = [analysis.sweep.find_sweep(name).read_text("utf-8") for name in analysis.sweep.example_names()]
machines = [accel.machine.load_machine(name).name for name in accel.machine.machine_names()]
traces = [workloads.trace.load_workload(name).name for name in workloads.trace.workload_names()]
print(json.dumps({"roots": sorted(roots), "examples": analysis.sweep.example_names(), "texts": texts,
    "machines": machines, "traces": traces}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built by the backend that pip calls."""
    builder = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(ROOT))
    (built,) = builder.build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    return Path(built)


@pytest.fixture(scope="module")
def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path, members: set[str]) -> Message:
    (name,) = (name for name in members if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(name).decode())


def test_packages_lie_under_one_root() -> None:
    """Generic names can collide with another distribution: then one of these comes from elsewhere."""
    found = {}
    for name in (*PACKAGES, "tilewright"):
        spec = find_spec(name)
        assert spec is not None, name
        assert spec.origin, f"{name} is a namespace package: its __init__.py is missing"
        found[name] = Path(spec.origin).resolve()
    assert {path.parent.parent for name, path in found.items() if name != "tilewright"} == {ROOT}
    assert found["tilewright"].parent == ROOT


def test_every_source_and_data_file_is_in_the_wheel(members: set[str]) -> None:
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*") if file.is_file()]
    wanted = [file for file in files if any(fnmatch(file.name, kind) for kind in ("*.py", *DATA))]
    names = {file.relative_to(ROOT).as_posix() for file in wanted}
    assert {Path(name).suffix for name in names} >= {".py", ".yaml", ".zip", ".j2", ".csv", ".cu", ".cuh"}
    assert (names | {"tilewright.py"}) - members == set()


def test_the_wheel_holds_nothing_else(members: set[str]) -> None:
    top = {name.partition("/")[0] for name in members if ".dist-info/" not in name}
    assert top - {*PACKAGES, "tilewright.py", "examples"} == set()
    assert not [name for name in members if "__pycache__" in name or name.endswith(".pyc")]
    assert [name for name in members if name.endswith(".dist-info/licenses/LICENSE")]


def test_examples_collide_with_nothing(members: set[str]) -> None:
    """Others ship a folder `examples` too: ours must shadow no module and overwrite no common file."""
    names = [Path(name).name for name in members if name.startswith("examples/")]
    assert sorted(names) == sorted(file.name for file in (ROOT / "examples").glob("*.yaml"))


def test_metadata(metadata: Message) -> None:
    assert metadata["Name"] == "tilewright"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Private :: Do Not Upload" in metadata.get_all("Classifier", [])
    assert set(metadata.get_all("Provides-Extra", [])) == {"torch", "gpu", "fit", "test", "dev"}


def test_the_core_needs_no_torch(metadata: Message) -> None:
    core = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    heavy = [line for line in core if line.startswith(("torch", "transformers", "cuda", "nvidia"))]
    assert core
    assert heavy == []


def test_the_extra_gpu_is_all_that_kernels_need(metadata: Message) -> None:
    """torch, NVRTC and what calls it; headers and ptxas come with NVRTC."""
    found = [line for line in metadata.get_all("Requires-Dist", []) if "extra == 'gpu'" in line]
    assert {re.split("[<>=; ]", line)[0] for line in found} == {
        "torch",
        "cuda-core",
        "cuda-bindings",
        "nvidia-cuda-nvrtc",
    }
    assert any(line.startswith("cuda-core>=1.2") for line in found)


def test_console_script(wheel: Path, members: set[str]) -> None:
    (name,) = (name for name in members if name.endswith("entry_points.txt"))
    with zipfile.ZipFile(wheel) as archive:
        assert "tilewright = analysis.cli:main" in archive.read(name).decode().splitlines()


def test_an_installed_wheel_finds_what_it_ships(wheel: Path, tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(home)
    environment = {**os.environ, "PYTHONPATH": str(home)}
    command = [sys.executable, "-c", INSTALLED]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert all(Path(file).is_relative_to(home) for file in told["roots"])
    assert told["examples"] == example_names()
    files = [ROOT / "examples" / f"{name}.yaml" for name in example_names()]
    assert told["texts"] == [file.read_text("utf-8") for file in files]
    assert told["machines"] == list(machine_names())
    assert len(told["traces"]) == len(workload_names())
