"""Shipped sweeps give the fronts that are committed beside them."""

from typing import Any

import pytest

from analysis.findings import Findings, find
from analysis.running import run_sweep
from analysis.sweep import EXAMPLES, example_names, points, read_sweep
from analysis.tables import plain, short_names
from tests.conftest import Golden

SHOWN = ("cycles", "latency_s", "energy_j", "area_mm2", "dram_read_bytes", "dram_write_bytes", "limited_by")


@pytest.fixture(scope="module", params=example_names())
def findings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    store = tmp_path_factory.mktemp("store") / "results.sqlite"
    return find(run_sweep(read_sweep(request.param), workers=2, store=store))


def settings(findings: Findings, row: dict[str, Any]) -> str:
    names = short_names(findings.run.sweep.axes)
    return ", ".join(f"{name}={plain(row[axis])}" for axis, name in names.items())


def test_front_is_the_expected_one(findings: Findings, golden: Golden) -> None:
    front = {settings(findings, row): {key: row[key] for key in SHOWN} for row in findings.front}
    golden(EXAMPLES / "expected" / f"{findings.run.sweep.name}.json", dict(sorted(front.items())))


def test_every_axis_matters_and_every_point_succeeds(findings: Findings) -> None:
    assert findings.run.failures == {}
    assert findings.weak_axes == []


def test_the_first_example_is_a_real_sweep() -> None:
    assert len(points(read_sweep("spatten_minilm"))) >= 200
