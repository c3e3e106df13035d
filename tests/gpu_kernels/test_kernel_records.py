"""Recorded runs of our kernels: made by today's sources, complete, and equal to today's models, case by case."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gpu_kernels import check as checks
from gpu_kernels import record
from gpu_kernels.bench import suite

RESULTS = Path(checks.__file__).parent / "results"
AGAIN = "run `tilewright kernels {} --out gpu_kernels/results/{}` again on the device"
CHECKS = sorted(RESULTS.glob("kernels_check_*.json"))
BENCHES = sorted(RESULTS.glob("kernels_bench_*.json"))


@cache
def read(file: Path) -> dict[str, Any]:
    return record.read(file, checks.FORMAT, suite.FORMAT)


def recorded() -> list[Any]:
    """A parameter a recorded case."""
    found = []
    for file in CHECKS:
        for kernel, name, row in checks.rows_by_case(read(file)):
            found.append(pytest.param(kernel, name, row, id=f"{file.stem}-{kernel}-{name}"))
    return found


@pytest.mark.parametrize("name", checks.kernels())
def test_every_kernel_was_checked_on_a_gpu_with_every_case(name: str) -> None:
    kernel = checks.kernels()[name]
    cases = {(file.stem, case) for file in CHECKS for one, case, _ in checks.rows_by_case(read(file)) if one == name}
    files = {stem for stem, _ in cases}
    assert files, f"{name}: never checked: " + AGAIN.format("check", "kernels_check_h200.json")
    assert cases == {(stem, case) for stem in files for case in kernel.cases}


@pytest.mark.parametrize("file", [*CHECKS, *BENCHES], ids=lambda file: file.stem)
def test_it_was_made_by_these_sources(file: Path) -> None:
    command = "check" if file in CHECKS else "bench"
    assert record.stale(read(file)) == [], "these have changed: " + AGAIN.format(command, file.name)


@pytest.mark.parametrize("file", CHECKS, ids=lambda file: file.stem)
def test_it_names_the_sources_that_its_kernels_name(file: Path) -> None:
    known = checks.kernels()
    assert read(file)["kernels"] == {name: list(known[name].module.SOURCES) for name in read(file)["kernels"]}
    assert set(read(file)["sources"]) == {name for names in read(file)["kernels"].values() for name in names}


@pytest.mark.parametrize("file", [*CHECKS, *BENCHES], ids=lambda file: file.stem)
def test_it_says_what_was_measured_on_what(file: Path) -> None:
    found = read(file)
    assert all(found[key] for key in ("device", "architecture", "driver", "cuda", "nvrtc", "date", "commit", "options"))


@pytest.mark.parametrize(("kernel", "name", "row"), recorded())
def test_the_model_gives_what_the_gpu_gave(kernel: str, name: str, row: dict[str, Any]) -> None:
    one = checks.kernels()[kernel]
    assert checks.replay(one, one.cases[name], row) == ""


@pytest.mark.parametrize("name", checks.kernels())
def test_cases_are_told_apart(name: str) -> None:
    kernel = checks.kernels()[name]
    assert len(kernel.cases) == len(kernel.module.CASES) >= 3
    assert all((Path(checks.__file__).parent / source).is_file() for source in kernel.module.SOURCES)
    assert any(source.endswith(".cu") for source in kernel.module.SOURCES)
