"""The frame around every kernel's numerics, with a kernel that is none: what is recorded, and what the replay finds."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpu_kernels import check as checks
from gpu_kernels import record, runtime
from gpu_kernels.__main__ import main


@dataclass(frozen=True)
class Case:
    name: str
    seed: int
    shape: tuple[int, ...] = (2, 3)


def operands(case: Case) -> Any:
    return np.random.default_rng(case.seed).integers(-9, 9, case.shape)


def expected(case: Case) -> dict[str, Any]:
    x = operands(case)
    return {"double": 2 * x, "third": x / 3}


def found(case: Case) -> dict[str, Any]:
    """As a GPU would: integers right, the quotient a little off."""
    x = operands(case)
    return {"double": 2 * x, "third": (x / 3).astype(np.float32)}


def fault(case: Case, wanted: dict[str, Any], given: dict[str, Any]) -> str:
    if (wanted["double"] != given["double"]).any():
        return "double differs"
    return "" if np.allclose(wanted["third"], given["third"], rtol=1e-6) else "third is off"


def kernel(**changes: Any) -> checks.Kernel:
    parts: dict[str, Any] = {
        "SOURCES": ("dram_probe/kernel.cu",),
        "CASES": (Case("one", 1), Case("two", 2)),
        "expected": expected,
        "found": found,
        "fault": fault,
    }
    return checks.Kernel("fake", SimpleNamespace(**(parts | changes)))


def test_right_outputs_are_kept_as_digests_and_bounded_ones_whole() -> None:
    row = checks.check(kernel(), Case("one", 1))
    assert row["fault"] == ""
    assert row["case"] == {"name": "one", "seed": 1, "shape": [2, 3]}
    exact, bounded = row["outputs"]["double"], row["outputs"]["third"]
    assert "kept" not in exact
    assert exact["sha256"] == record.digest(expected(Case("one", 1))["double"])
    assert (checks.kept(bounded) == found(Case("one", 1))["third"]).all()


def test_the_replay_agrees_with_the_run() -> None:
    row = checks.check(kernel(), Case("one", 1))
    assert checks.replay(kernel(), Case("one", 1), row) == ""


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"case": Case("one", 7)}, "case has changed"),
        ({"expected": lambda case: expected(case) | {"double": operands(case)}}, "double: the model gives other bytes"),
        ({"expected": lambda case: expected(case) | {"third": operands(case) / 2}}, "third is off"),
        ({"expected": lambda case: {"double": 2 * operands(case)}}, "outputs are double, recorded were double, third"),
    ],
)
def test_the_replay_finds_a_change(change: dict[str, Any], what: str) -> None:
    row = checks.check(kernel(), Case("one", 1))
    case = change.pop("case", Case("one", 1))
    assert what in checks.replay(kernel(**change), case, row)


def test_a_damaged_record_is_found() -> None:
    row = checks.check(kernel(), Case("one", 1))
    row["outputs"]["third"]["kept"] = checks.check(kernel(), Case("one", 3))["outputs"]["third"]["kept"]
    assert "damaged" in checks.replay(kernel(), Case("one", 1), row)


def test_a_wrong_kernel_and_a_failing_one_are_told() -> None:
    wrong = kernel(found=lambda case: found(case) | {"double": operands(case)})
    assert checks.check(wrong, Case("one", 1))["fault"] == "double differs"
    fewer = kernel(found=lambda case: {"double": 2 * operands(case)})
    assert checks.check(fewer, Case("one", 1))["fault"] == "outputs must be double, third, got double"

    def fail(case: Case) -> dict[str, Any]:
        raise RuntimeError("an illegal memory access was encountered")

    row = checks.check(kernel(found=fail), Case("one", 1))
    assert row["fault"] == "RuntimeError: an illegal memory access was encountered"
    assert "the run found a fault" in checks.replay(kernel(), Case("one", 1), row)


def test_outputs_within_a_bound_must_be_small() -> None:
    many = Case("many", 1, (checks.KEPT_BYTES // 4 + 1,))
    row = checks.check(kernel(), many)
    assert "may have" in checks.replay(kernel(), many, row)


def test_every_case_is_run_and_told() -> None:
    told: list[tuple[int, int]] = []
    rows = checks.run_checks([kernel(), kernel()], lambda row, done, of: told.append((done, of)))
    assert [row["case"]["name"] for row in rows] == ["one", "two"] * 2
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_gpu_is_needed_and_one_that_a_kernel_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "architecture", lambda: "sm_75")
    with pytest.raises(ValueError, match=r"this GPU is sm_75: fake are for sm_80, sm_86, sm_89, sm_90a"):
        checks.for_this_gpu([kernel()])
    monkeypatch.setattr(runtime, "architecture", lambda: "sm_80")
    assert [one.name for one in checks.for_this_gpu([kernel(), kernel(ARCHITECTURES=("sm_90a",))])] == ["fake"]

    def none() -> str:
        raise RuntimeError("kernels need a CUDA device")

    monkeypatch.setattr(runtime, "architecture", none)
    with pytest.raises(ValueError, match="kernels need a CUDA device"):
        checks.for_this_gpu([kernel()])


def test_an_unknown_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "kernels", lambda: {"fake": kernel()})
    with pytest.raises(ValueError, match=r"--kernel: must be one of fake, got 'fakes'; nearest: fake"):
        checks.chosen(["fakes"])
    assert [one.name for one in checks.chosen()] == ["fake"]


def test_what_a_record_says_of_its_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "surroundings", lambda commit: {"device": "none", "commit": commit})
    whole = checks.full_record([kernel()], [checks.check(kernel(), Case("one", 1))], "abc")
    assert whole["format"] == checks.FORMAT
    assert whole["kernels"] == {"fake": ["dram_probe/kernel.cu"]}
    assert record.stale(whole) == []
    changed = whole | {"sources": {"dram_probe/kernel.cu": "0" * 64, "gone/kernel.cu": "1" * 64}}
    assert record.stale(changed) == ["dram_probe/kernel.cu", "gone/kernel.cu"]


def test_a_digest_tells_type_and_shape_apart() -> None:
    x = np.arange(6, dtype=np.int32)
    forms = (x, x.reshape(2, 3), x.view(np.uint32), x[::-1])
    assert len({record.digest(form) for form in forms}) == 4
    assert record.digest(x.reshape(2, 3).T.copy().T) == record.digest(x.reshape(2, 3))


def test_looks_at_the_card_within_a_time() -> None:
    line = "2026/11/30 10:00:{:02d}.500, {}, 3201, 500.5, 700.00, 40\n"
    text = "".join(line.format(second, 1500 + second) for second in range(4)) + "2026/11/30 10:00:04.500, 15"
    begin = record.datetime(2026, 11, 30, 10, 0, 1).timestamp()
    rows = record.looks(text, begin, begin + 2.9)
    assert [row[0] for row in rows] == [1501, 1502, 1503]
    assert record.spread(rows)["clocks.sm"] == {"least": 1501, "median": 1502, "most": 1503}
    assert record.looks("[N/A]\n", 0, 1) == []
    assert record.spread([]) == {}


def test_a_record_is_written_whole_and_read_by_format(tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    record.write({"format": "kernels_check 1"}, file)
    assert [one.name for one in tmp_path.iterdir()] == ["one.json"]
    assert record.read(file, checks.FORMAT) == {"format": "kernels_check 1"}
    with pytest.raises(ValueError, match=r"must be a record of format other 1, got 'kernels_check 1'"):
        record.read(file, "other 1")
    file.write_text("[", encoding="utf-8")
    with pytest.raises(ValueError, match="must be a record"):
        record.read(file, checks.FORMAT)


def test_without_a_gpu_the_module_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "kernels", lambda: {"fake": kernel()})

    def none() -> str:
        raise RuntimeError("kernels need a CUDA device")

    monkeypatch.setattr(runtime, "architecture", none)
    assert main(["check"]) == 2
    assert main(["bench"]) == 2
    assert capsys.readouterr().err == "kernels need a CUDA device\n" * 2


def test_the_module_checks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = kernel(found=lambda case: found(case) | {"double": operands(case)})
    monkeypatch.setattr(runtime, "architecture", lambda: "sm_90a")
    monkeypatch.setattr(record, "surroundings", lambda commit: {"device": "none", "commit": commit})
    for one, status in ((kernel(), 0), (wrong, 3)):
        monkeypatch.setattr(checks, "kernels", lambda one=one: {"fake": one})
        assert main(["check", "--out", str(tmp_path / "check.json"), "--commit", "abc"]) == status
    shown = capsys.readouterr().out
    assert "2 cases, 0 wrong" in shown
    assert "fake one: double differs" in shown
    assert record.read(tmp_path / "check.json", checks.FORMAT)["commit"] == "abc"


@pytest.mark.parametrize("rows", ["none", [1], [{}], [{"part": "gemm"}]])
def test_a_record_with_other_rows_is_refused(tmp_path: Path, rows: Any) -> None:
    file = tmp_path / "record.json"
    file.write_text(json.dumps({"format": "kernels_bench 1", "rows": rows}), encoding="utf-8")
    with pytest.raises(ValueError, match="rows: "):
        record.read(file, "kernels_bench 1")
