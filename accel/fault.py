"""What is wrong in a file, and where: `Fault`, `Faults`."""

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Fault:
    """One fault of a file, as `sweep.yaml:12:5: machine.clock_hz: must be >= 1, got 0`.

    line, column   from 1; both 0 where there is no file (an override from Python)
    path           dotted path of the value, "" for the whole file
    rule           what must hold, in plain words
    value          what was found, as text; None where nothing was found (a missing key)
    hint           nearest match, allowed keys, how to write it; may be empty
    """

    file: str
    line: int
    column: int
    path: str
    rule: str
    value: str | None = None
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        got = "" if self.value is None else f", got {self.value}"
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}: {self.path + ': ' if self.path else ''}{self.rule}{got}{hint}"


class Faults(ValueError):
    """All faults of a file, sorted by position; the message has one line a fault."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults: tuple[Fault, ...] = tuple(sorted(set(faults), key=_order))
        super().__init__("\n".join(map(str, self.faults)))


def _order(fault: Fault) -> tuple[str, int, int, str, str]:
    return fault.file, fault.line, fault.column, fault.path, fault.rule


def dotted(path: Iterable[str | int]) -> str:
    """`("set", "axis", 0)` as `set.axis[0]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + part
    return text


def nearest(word: object, allowed: Iterable[str], *, show: bool = True) -> str:
    """`did you mean 'spatten'? allowed: ...`; without a near one only the list. Shorter than a screen."""
    names = sorted(allowed)
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.6)
    question = f"did you mean '{close[0]}'? " if close else ""
    listed = f"allowed: {', '.join(names[:40])}{', ...' if len(names) > 40 else ''}" if show else ""
    return (question + listed).strip()


def shown(value: Any) -> str:
    """A value as the file would spell it, at most 60 characters."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
