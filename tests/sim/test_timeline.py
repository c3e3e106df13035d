"""The Chrome trace: one process a plan, one thread a unit, one event a task."""

import json
from pathlib import Path
from typing import Any

import pytest

from sim.compiled import run_compiled
from sim.plan import Plan, Unit
from sim.timeline import Timeline
from tests.sim.worlds import QUIET, run_both, world

PLAN = world([Unit("a", latency=3), Unit("b")], [(0, 4, []), (1, 1, [0]), (1, 0, [])])


def written(path: Path, *plans: tuple[Plan, str]) -> list[dict[str, Any]]:
    timeline = Timeline()
    for plan, name in plans:
        timeline.add(plan, run_compiled(plan, QUIET)[0], name)
    timeline.write(path)
    return json.loads(path.read_text())["traceEvents"]


def test_events_are_the_tasks(tmp_path: Path) -> None:
    events = [event for event in written(tmp_path / "t.json", (PLAN, "one")) if event["ph"] == "X"]
    found = [(e["name"], e["ts"], e["ts"] + e["dur"], e["args"]["usable"], e["args"]["task"]) for e in events]
    log = run_both(PLAN)
    assert found == [("a", *log[0], 0), ("b", *log[1], 1), ("b", *log[2], 2)]


def test_threads_have_the_names_of_the_units(tmp_path: Path) -> None:
    events = written(tmp_path / "t.json", (PLAN, "one"))
    threads = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert threads == {0: "a", 1: "b"}
    assert all(threads[e["tid"]] == e["name"] for e in events if e["ph"] == "X")


def test_two_plans_are_two_processes_of_one_file(tmp_path: Path) -> None:
    events = written(tmp_path / "t.json", (PLAN, "one"), (PLAN, "two"))
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert list(names.values()) == ["one", "two"]
    assert [sum(e["ph"] == "X" and e["pid"] == pid for e in events) for pid in names] == [3, 3]


def test_each_write_leaves_a_complete_file_and_nothing_else(tmp_path: Path) -> None:
    path, timeline = tmp_path / "t.json", Timeline()
    for number in range(3):
        timeline.add(PLAN, run_compiled(PLAN, QUIET)[0], str(number))
        timeline.write(path)
        events = json.loads(path.read_text())["traceEvents"]
        assert sum(e["ph"] == "X" for e in events) == 3 * (number + 1)
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.json"
    before = written(path, (PLAN, "one"))

    def fail(self: Path, text: str) -> int:
        with self.open("w") as file:
            file.write(text[: len(text) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        written(path, (PLAN, "one"), (PLAN, "two"))
    assert json.loads(path.read_text())["traceEvents"] == before
