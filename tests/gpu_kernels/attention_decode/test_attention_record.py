"""The record of a decode step's attention: complete, no faster than its bytes allow, made by today's script."""

import hashlib
import json
from pathlib import Path

import pytest

from gpu_kernels.attention_decode import measure

RECORD = Path(measure.__file__).parents[1] / "results" / "attention_decode_h200.json"
PEAK = 4.8e12  # bytes a second: NVIDIA H200 data sheet


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads(RECORD.read_text(encoding="utf-8"))


def test_record_says_what_was_measured_on_what(record: dict) -> None:
    assert record["format"] == measure.FORMAT
    assert all(record[name] for name in ("device", "driver", "torch", "cuda", "date", "commit", "state_after"))
    digest = hashlib.sha256(Path(measure.__file__).read_bytes()).hexdigest()
    assert record["sources"] == {"measure.py": digest}, "measure.py has changed: measure again"


def test_record_is_complete(record: dict) -> None:
    rows = {(row["batch"], row["context"], row["variant"]) for row in record["rows"]}
    names = {row["variant"] for row in record["rows"]}
    assert {"flash", "cudnn", "efficient_folded", "math", "eager_repeat"} <= names
    assert rows == {(b, n, name) for b in measure.BATCHES for n in measure.CONTEXTS for name in names}
    assert {row["variant"] for row in record["rows"] if "refused" in row} == {"efficient"}


def test_no_time_beats_the_bytes(record: dict) -> None:
    for row in record["rows"]:
        expected = 2 * (2 * row["batch"] * 8 * row["context"] * 128 + 2 * row["batch"] * 32 * 128)
        assert row["bytes"] == expected
        assert row["sets"] * row["bytes"] >= 4 * record["l2_bytes"]
        if "refused" not in row:
            assert row["least_us"] >= row["bytes"] / PEAK * 1e6
            assert row["bytes_per_s"] == pytest.approx(row["bytes"] / row["median_us"] * 1e6, rel=1e-3)
            assert row["relative_error"] <= measure.WORST_ERROR
            assert row["least_us"] <= row["median_us"] <= row["most_us"]


def test_readme_shows_the_record(record: dict) -> None:
    assert measure.table(record) in (Path(measure.__file__).parent / "README.md").read_text(encoding="utf-8")
