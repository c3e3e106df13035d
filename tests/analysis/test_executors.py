"""Chunks, failures, dying workers, orphans."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from analysis.executors import CHUNK_S, ChunkSize, SerialExecutor, run_tasks
from tests.analysis.chunks import crew, square


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_has_its_outcome(tmp_path: Path, workers: int) -> None:
    tasks = [n for n in range(200) if n != 13]
    found = {outcome.task: outcome.error for outcome in run_tasks(tasks, square, crew(workers, tmp_path))}
    assert found == {n: "ten" if n % 10 == 0 else None for n in tasks}
    assert len(list(tmp_path.iterdir())) == len(tasks)


def test_a_task_that_kills_its_worker_fails_alone(tmp_path: Path) -> None:
    found = {outcome.task: outcome.error for outcome in run_tasks(range(40), square, crew(2, tmp_path))}
    assert "worker process died" in (found.pop(13) or "")
    assert found == {n: "ten" if n % 10 == 0 else None for n in range(40) if n != 13}


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-m", "tests.analysis.chunks", str(tmp_path)])
    pids = _wait_for(lambda: [int(p.name[4:]) for p in tmp_path.glob("pid.*")], 2)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    ended = _wait_for(lambda: [pid for pid in pids if not _alive(pid)], 2)
    for pid in set(pids) - set(ended):
        os.kill(pid, signal.SIGKILL)
    assert len(pids) == 2
    assert ended == pids


def _wait_for(look, count: int, seconds: float = 60.0) -> list[int]:
    until = time.monotonic() + seconds
    while len(found := sorted(look())) < count and time.monotonic() < until:
        time.sleep(0.05)
    return found


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_chunks_grow_towards_their_time_and_no_faster_than_fourfold() -> None:
    chunk = ChunkSize()
    assert chunk.size == 1
    chunk.learn(1, 1e-6)
    assert chunk.size == 4
    for _ in range(20):
        chunk.learn(chunk.size, chunk.size * 0.01)
    assert chunk.size == pytest.approx(CHUNK_S / 0.01, abs=1)
    chunk.learn(chunk.size, 60.0)
    chunk.learn(chunk.size, 60.0)
    assert chunk.size < 5


def test_memory_is_bounded_whatever_the_number_of_tasks(tmp_path: Path) -> None:
    taken = []

    def tasks():
        for n in range(1, 10**9):
            taken.append(n)
            yield n * 10 + 1

    outcomes = run_tasks(tasks(), square, crew(1, tmp_path))
    next(outcomes)
    outcomes.close()
    assert len(taken) < 100


def test_interrupt_leaves_the_serial_executor_at_once(tmp_path: Path) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SerialExecutor(lambda: None, ()).submit(interrupted)
