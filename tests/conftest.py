"""What all tests share: one kernel cache, a result store per test, golden files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.cache import use_kernel_cache

use_kernel_cache()  # before Numba is imported, so that the subprocesses of tests share the compiled kernels
Golden = Callable[[Path, Any], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected outputs of the tests")


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a result store of its own; subprocesses inherit it."""
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compare with a committed JSON file: integers and text exactly, floats within 1e-9 relative."""

    def compare(path: Path, found: Any) -> None:
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        assert_close(json.loads(path.read_text(encoding="utf-8")), found, path.name)

    return compare


def assert_close(expected: Any, found: Any, where: str) -> None:
    """Raise AssertionError at the first difference, named by its place."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), where
        assert list(expected) == list(found), where
        for key, value in expected.items():
            assert_close(value, found[key], f"{where}: {key}")
    elif isinstance(expected, list):
        assert len(expected) == len(found), where
        for index, value in enumerate(expected):
            assert_close(value, found[index], f"{where}[{index}]")
    elif isinstance(expected, float) and isinstance(found, float):
        assert found == pytest.approx(expected, rel=1e-9, abs=0), where
    else:
        assert type(found) is type(expected), where
        assert found == expected, where
