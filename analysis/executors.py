"""Many points on many processes: chunks, crashes, orphans.

Everything here speaks the `concurrent.futures` interface (`submit`, `Future`, `wait`), so that another
executor with that interface, Dask's for instance, can take the place of the process pool.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

Task = TypeVar("Task")
CHUNK_S = 0.1  # aimed at; 50 to 200 ms keep both the overhead and the loss by a kill small
_GROWTH = 4  # a chunk holds at most that many times the points of the one before
_LARGEST = 4096
RunChunk = Callable[[list[Any]], list[str | None]]


@dataclass(frozen=True)
class Outcome(Generic[Task]):
    """What became of one task; `error` is None for a success."""

    task: Task
    error: str | None = None


@dataclass
class ChunkSize:
    """How many tasks make a chunk of about `CHUNK_S`, learnt from the chunks that came back."""

    size: int = 1
    _rate: float = field(default=0.0, repr=False)

    def learn(self, tasks: int, seconds: float) -> None:
        """Take in a chunk of `tasks` that ran for `seconds` in its worker."""
        rate = tasks / max(seconds, 1e-6)
        self._rate = rate if self._rate == 0 else (self._rate + rate) / 2
        self.size = max(1, min(int(self._rate * CHUNK_S), self.size * _GROWTH, _LARGEST))


class SerialExecutor(Executor):
    """Runs each call at once, in this process."""

    def __init__(self, prepare: Callable[..., None], arguments: Sequence[Any]) -> None:
        prepare(*arguments)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future that is already done; KeyboardInterrupt goes through to the caller."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass
class Crew:
    """How workers are made: each calls `prepare(*arguments)` once before its first chunk.

    They start at the first work and stay until `close`, or the end of a `with` block.
    """

    workers: int
    prepare: Callable[..., None]
    arguments: tuple[Any, ...] = ()
    _executor: Executor | None = field(default=None, init=False, repr=False)

    def start(self) -> Executor:
        """The workers: in-process for one, else a pool of fresh (spawned) processes."""
        if self._executor is None:
            serial = self.workers == 1
            self._executor = SerialExecutor(self.prepare, self.arguments) if serial else self.processes(self.workers)
        return self._executor

    def submit(self, fn: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """`fn(*arguments)` in a worker; a broken pool tells so in the future."""
        try:
            return self.start().submit(fn, *arguments)
        except BrokenExecutor as error:
            future: Future[Any] = Future()
            future.set_exception(error)
            return future

    def processes(self, count: int) -> Executor:
        """A pool of `count` processes."""
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(count, context, _start_worker, (self.prepare, *self.arguments))

    def close(self) -> None:
        """Let the workers finish what they have in hand, and end them."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def run_tasks(tasks: Iterable[Task], run_chunk: RunChunk, crew: Crew) -> Generator[Outcome[Task], None, None]:
    """Run every task and yield its outcome, in the order in which chunks complete; the crew stays.

    run_chunk   runs in a worker; gives an error, or None for a success, for each task of the chunk
    At most two chunks a worker are under way, so memory is bounded whatever the number of tasks.  When a
    worker dies (killed, out of memory), the tasks in hand are run again one by one, each in a process of
    its own, and one that kills its process again is reported as failed.
    """
    source = iter(tasks)
    while True:
        lost: list[Task] = []
        yield from _until_broken(source, run_chunk, crew, lost)
        if lost:
            crew.close()
        for task in lost:
            yield _alone(task, run_chunk, crew)
        if not lost:
            return


def _until_broken(source: Iterator[Task], run_chunk: RunChunk, crew: Crew, lost: list[Task]) -> Iterator[Outcome[Task]]:
    """Run chunks until the source is empty or a worker has died; `lost` then gets the tasks in hand."""
    chunk = ChunkSize()
    running: dict[Future[Any], list[Task]] = {}
    try:
        while True:
            while not lost and len(running) < 2 * crew.workers and (part := list(islice(source, chunk.size))):
                running[crew.submit(_timed, run_chunk, part)] = part
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield from _collect(future, running.pop(future), chunk, lost)
    finally:
        for future in running:
            future.cancel()


def _collect(future: Future[Any], part: list[Task], chunk: ChunkSize, lost: list[Task]) -> Iterator[Outcome[Task]]:
    try:
        seconds, errors = future.result()
    except BrokenExecutor:
        lost.extend(part)
        return
    chunk.learn(len(part), seconds)
    yield from map(Outcome, part, errors)


def _alone(task: Task, run_chunk: RunChunk, crew: Crew) -> Outcome[Task]:
    """Run one suspect task in a process of its own."""
    with crew.processes(1) as pool:
        try:
            return Outcome(task, pool.submit(run_chunk, [task]).result()[0])
        except BrokenExecutor:
            return Outcome(task, "the worker process died (killed, or out of memory)")


def _timed(run_chunk: RunChunk, part: list[Task]) -> tuple[float, Any]:
    start = time.perf_counter()
    outcome = run_chunk(part)
    return time.perf_counter() - start, outcome


def _start_worker(prepare: Callable[..., None], *arguments: Any) -> None:
    """First thing in a worker: leave Ctrl-C to the parent, and end when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare(*arguments)


def _end_with_parent() -> None:
    """A killed parent closes its end of the pipe that every spawned child holds; then leave at once."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
