"""How commands talk: results on stdout (text or one JSON object), everything else on stderr."""

import functools
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, NoReturn, TypeVar

import typer

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.")]
OK, UNEXPECTED, MISTAKE, FAILED_POINTS, INTERRUPTED = 0, 1, 2, 3, 130
_EXTRAS = {"torch": "torch", "transformers": "torch", "diffusers": "torch", "safetensors": "torch", "cuda": "gpu"}
F = TypeVar("F", bound=Callable[..., Any])


def guarded(command: F) -> F:
    """Turn what a user can get wrong into a message and exit status 2; a bug into one line and status 1.

    Set TILEWRIGHT_DEBUG=1 to see the traceback of either.
    """

    @functools.wraps(command)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            _stop("interrupted; the same command goes on where this one stopped", INTERRUPTED, kwargs)
        except Exception as error:
            if os.environ.get("TILEWRIGHT_DEBUG"):
                raise
            _stop(*_explained(error), kwargs, error)

    return call  # type: ignore[return-value]


def _explained(error: Exception) -> tuple[str, int]:
    """The message for the user, and the exit status."""
    if isinstance(error, ModuleNotFoundError):
        package = str(error.name).partition(".")[0]
        if package in _EXTRAS:
            advice = f"in a clone, python -m pip install '.[{_EXTRAS[package]}]'"
            return f"this needs {package}, which is not installed: {advice}", MISTAKE
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}", MISTAKE
    if isinstance(error, ValueError):
        return str(error), MISTAKE
    bug = "this is a fault of tilewright; TILEWRIGHT_DEBUG=1 shows where it happened"
    return f"{type(error).__name__}: {error} ({bug})", UNEXPECTED


def _stop(message: str, status: int, options: Mapping[str, Any], error: Exception | None = None) -> NoReturn:
    if options.get("as_json"):
        faults = [asdict(fault) for fault in getattr(error, "faults", ())]
        put_json({"error": message, "exit_status": status} | ({"faults": faults} if faults else {}))
    say(message)
    raise typer.Exit(status)


_json: list[int] = []  # how long each object was that went out


def json_was_put() -> bool:
    """Whether this process has printed its JSON object."""
    return bool(_json)


def put_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout; NaN and infinities, which JSON lacks, become null."""
    text = json.dumps(_finite(value), indent=1, ensure_ascii=False)
    _json.append(len(text))
    sys.stdout.write(text + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    bad = isinstance(value, float) and (value != value or value in (float("inf"), float("-inf")))
    return None if bad else value


def say(message: str) -> None:
    """A message for people, on stderr."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def put_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout; all columns but the first and those without a name are right-aligned."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.show_header = any(head)
    for index, name in enumerate(head):
        table.add_column(name, justify="right" if index and name else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    stdout().print(table)


def put_text(text: str) -> None:
    """Plain text on stdout, as it is."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def stdout() -> Any:
    """A rich console on stdout; as wide as the table where stdout is no terminal."""
    from rich.console import Console

    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=160)


class ProgressBar:
    """Bar with rate and time left on stderr; silent where stderr is no terminal."""

    def __init__(self, title: str, unit: str = "points") -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        count = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
        clock = (TextColumn("left"), TimeRemainingColumn(), TextColumn("elapsed"), TimeElapsedColumn())
        columns = (TextColumn("{task.description}"), *count, *clock)
        self._bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._task = self._bar.add_task(title, total=None, rate="")
        self._unit = unit

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def update(self, done: int, total: int, failed: int = 0) -> None:
        """Show the state of the run."""
        speed = self._bar.tasks[0].speed
        rate = f"{speed:.1f} {self._unit}/s" if speed else ""
        text = f"{rate}, {failed} failed" if failed else rate
        self._bar.update(self._task, completed=done, total=total, rate=text)

    def say(self, message: str) -> None:
        """A message above the bar."""
        if self._bar.disable:
            say(message)
        else:
            self._bar.console.print(message, highlight=False)
