"""What the workers of the executor tests run; a module of its own, so that spawned processes find it."""

import os
import signal
import sys
import time
from pathlib import Path

from analysis.executors import Crew, run_tasks

PREPARED: list[str] = []


def prepare(folder: str) -> None:
    PREPARED.append(folder)


def square(tasks: list[int]) -> list[str | None]:
    """Leave a file per task; task 13 kills its process, multiples of ten fail."""
    assert len(PREPARED) >= 1
    if 13 in tasks:
        os.kill(os.getpid(), signal.SIGKILL)
    for task in tasks:
        (Path(PREPARED[0]) / f"{task}.{os.getpid()}").touch()
    return ["ten" if task % 10 == 0 else None for task in tasks]


def wait_for_ever(tasks: list[int]) -> list[str | None]:
    """Say who works here, then hang."""
    (Path(PREPARED[0]) / f"pid.{os.getpid()}").touch()
    time.sleep(600)
    return [None for _ in tasks]


def crew(workers: int, folder: Path) -> Crew:
    return Crew(workers, prepare, (str(folder),))


if __name__ == "__main__":
    for _ in run_tasks(range(8), wait_for_ever, crew(2, Path(sys.argv[1]))):
        pass
