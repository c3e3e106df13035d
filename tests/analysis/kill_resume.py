"""Kill a real sweep at random moments, resume it, and compare with an undisturbed one.

python -m tests.analysis.kill_resume examples/spatten_minilm.yaml --kills 20 --workers 2
"""

import argparse
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import analysis.evaluate
from analysis.evaluate import Task

SWEEP = "import sys; from tests.analysis.kill_resume import logged_sweep; logged_sweep()"
LOG = "TILEWRIGHT_TEST_CHUNK_LOG"
_run_chunk = analysis.evaluate.run_chunk


def logged_sweep() -> None:
    """The command line, with every chunk noted down before it runs."""
    import analysis.running
    from analysis.cli import main

    analysis.running.run_chunk = noted_chunk
    main()


def noted_chunk(tasks: list[Task]) -> list[str | None]:
    """Runs in the workers."""
    line = " ".join(key for key, _ in tasks) + "\n"
    with open(os.environ[LOG], "a") as log:
        log.write(line)
    return _run_chunk(tasks)


@dataclass(frozen=True)
class Outcome:
    """What came of it; a chunk is repeated when one of its points was started again later."""

    kills: int
    same_bytes: bool
    repeated_chunks: int
    points: int


@dataclass
class KillTest:
    """One sweep file, killed while its store grows; every folder it writes is in `folder`."""

    sweep: Path
    folder: Path
    workers: int
    seed: int

    def run(self, kills: int) -> Outcome:
        """Kill that many times, then let it end; the undisturbed run has one worker and its own store."""
        generator = random.Random(self.seed)
        assert self._start("calm", 1).wait() == 0, (self.folder / "calm.log").read_text()
        total = self._stored("calm")
        parts = [total * (n + generator.random()) / (kills + 1) for n in range(kills)]
        done = sum(self._killed(int(part), generator) for part in parts)
        assert self._start("killed", self.workers).wait() == 0, (self.folder / "killed.log").read_text()
        tables = [self.folder / name / "results.parquet" for name in ("calm", "killed")]
        same = tables[0].read_bytes() == tables[1].read_bytes()
        return Outcome(done, same, self._repeated(), total)

    def _killed(self, points: int, generator: random.Random) -> bool:
        """Start, wait for that many stored points and a moment more, kill; False if it ended before."""
        process = self._start("killed", self.workers)
        while process.poll() is None and self._stored("killed") < points:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.2))
        alive = process.poll() is None
        if alive and generator.random() < 0.5:
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()  # the parent alone: its workers must see that themselves
        process.wait()
        return alive

    def _stored(self, name: str) -> int:
        path = self.folder / f"{name}.cache" / "results.sqlite"
        if not path.exists():
            return 0
        try:
            with sqlite3.connect(path, timeout=30) as connection:
                return int(connection.execute("SELECT count(*) FROM points").fetchone()[0])
        except sqlite3.OperationalError:  # the table is not there yet
            return 0

    def _repeated(self) -> int:
        chunks = [line.split() for line in (self.folder / "killed.chunks").read_text().splitlines()]
        started = Counter(key for chunk in chunks for key in chunk)
        seen: Counter[str] = Counter()
        repeated = 0
        for chunk in chunks:
            seen.update(chunk)
            repeated += any(seen[key] < started[key] for key in chunk)
        return repeated

    def _start(self, name: str, workers: int) -> "subprocess.Popen[bytes]":
        own = {
            "TILEWRIGHT_CACHE": str(self.folder / f"{name}.cache"),
            LOG: str(self.folder / f"{name}.chunks"),
        }
        options = ["--out", str(self.folder / name), "--workers", str(workers)]
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", SWEEP, "sweep", str(self.sweep), *options],
                env={**os.environ, **own},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        test = KillTest(options.sweep, Path(folder), options.workers, options.seed)
        outcome = test.run(options.kills)
    print(outcome)
    assert outcome.same_bytes
    assert outcome.repeated_chunks <= options.workers * outcome.kills


if __name__ == "__main__":
    _main()
