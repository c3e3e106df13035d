"""Tiles chosen over arrays are those that the operators choose one by one, and those that a run recorded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataflow.gpu.w4_tiles import Plan, hopper_plan, portable_plan
from gpu_kernels.w4a8_gemm import config as hopper
from gpu_kernels.w4a8_portable import config as portable

RECORD = Path(__file__).parents[3] / "gpu_kernels" / "results" / "calibration_h200.json"
draw = np.random.default_rng(0)
M = np.concatenate([draw.choice([1, 8, 9, 16, 17, 32, 33, 64, 65, 128, 256, 257], 120), draw.integers(1, 5000, 120)])
N = np.where(np.arange(240) % 2, 64 * draw.integers(1, 900, 240), draw.choice([1024, 3072, 4096, 6144, 28672], 240))
K = 128 * draw.integers(1, 200, 240)


@pytest.mark.parametrize("kind", hopper.KINDS)
@pytest.mark.parametrize("multiprocessors", [132, 114])
def test_hopper_tiles(kind: str, multiprocessors: int) -> None:
    plan = hopper_plan(kind, M, N, K, multiprocessors)
    for i, (m, n, k) in enumerate(zip(M.tolist(), N.tolist(), K.tolist(), strict=True)):
        tile = hopper.choose(kind, m, n, k, multiprocessors)
        found = [getattr(plan, name)[i] for name in ("tokens", "channels", "stages", "split", "resident", "tiles")]
        assert found == [tile.tokens, tile.channels, tile.stages, tile.split, tile.resident, tile.tiles(m, n)]


@pytest.mark.parametrize("kind", portable.KINDS)
@pytest.mark.parametrize(("architecture", "multiprocessors"), [("sm_80", 108), ("sm_89", 128), ("sm_90a", 132)])
def test_portable_tiles(kind: str, architecture: str, multiprocessors: int) -> None:
    plan = portable_plan(kind, M, N, K, multiprocessors, architecture)
    for i, (m, n, k) in enumerate(zip(M.tolist(), N.tolist(), K.tolist(), strict=True)):
        one = portable.choose(kind, m, n, k, multiprocessors, architecture)
        found = [getattr(plan, name)[i] for name in ("tokens", "channels", "stages", "slices", "cut", "tiles")]
        assert found == [
            one.tile.tokens,
            one.tile.channels,
            one.tile.stages,
            one.tile.slices,
            one.cut,
            one.whole + one.cut,
        ]


def rows(part: str) -> list[dict[str, Any]]:
    return [row for row in json.loads(RECORD.read_text())["rows"] if row["part"] == part]


@pytest.mark.parametrize("kind", hopper.KINDS)
def test_tiles_of_the_record(kind: str) -> None:
    """The record says which tile ran; 1024 x 1024 is a tie that only the same order of operations settles."""
    found = rows(f"ours_{kind}")
    m, n, k = (np.array([row[axis] for row in found]) for axis in "mnk")
    plan = hopper_plan(kind, m, n, k, 132)
    for i, row in enumerate(found):
        tile = row["tile"]
        assert [plan.tokens[i], plan.split[i], plan.resident[i]] == [tile["tokens"], tile["split"], tile["resident"]]
        assert plan.channels[i] == 64 * tile["warpgroups"] * tile["blocks"]


def toy(units: float, resident: float) -> Plan:
    one = np.ones(1)
    names = Plan.__dataclass_fields__
    return Plan(**dict.fromkeys(names, one) | {"units": one * units, "together": one * resident})


@pytest.mark.parametrize(
    ("units", "resident", "waves", "turns"),
    [(1, 1, 1, 1), (10, 1, 1, 1), (11, 1, 2, 2), (20, 2, 1, 2), (21, 2, 2, 3), (30, 2, 2, 3), (31, 2, 2, 4)],
)
def test_waves_of_ten_multiprocessors(units: int, resident: int, waves: int, turns: int) -> None:
    plan = toy(units, resident)
    assert (plan.waves(10)[0], plan.turns(10)[0]) == (waves, turns)
