"""Golden cases of functional models as JSON: rows of numbers as text, runs of equal numbers as `value*count`."""

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np


def row_text(row: Sequence[Any]) -> str:
    """[3, 3, 3, -1] as "3*3 -1"."""
    runs = [(value, len(list(run))) for value, run in groupby(row)]
    return " ".join(f"{value}*{count}" if count > 1 else f"{value}" for value, count in runs)


def parsed_row(text: str) -> list[float]:
    """`row_text` backwards."""
    runs = [run.partition("*") for run in text.split()]
    return [float(value) for value, _, count in runs for _ in range(int(count or 1))]


def told(values: Any) -> Any:
    """A matrix as rows of text, a vector as numbers, a word as it is."""
    if values is None or isinstance(values, str):
        return values
    array = np.asarray(values)
    return [row_text(row) for row in array.tolist()] if array.ndim == 2 else array.tolist()


def told_exact(rows: Any) -> list[list[float]]:
    """A result of a twin, every number of which is a float without rounding."""
    return [[float(value) for value in row] for row in rows]


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The cases of a file; matrices as float64 arrays, the rest as it is written."""
    cases = json.loads(path.read_text(encoding="utf-8"))
    return {name: {key: _parsed(value) for key, value in case.items()} for name, case in cases.items()}


def _parsed(value: Any) -> Any:
    rows = isinstance(value, list) and value and isinstance(value[0], str)
    return np.array([parsed_row(text) for text in value]) if rows else value


def rows_with_sum(total: int, largest: int, size: int) -> tuple[list[list[int]], list[list[int]]]:
    """Activations [1][size] up to 127 and weights [1][size] up to `largest` whose products add up to the total."""
    full, rest = divmod(total, 127 * largest)
    high, low = divmod(rest, 127)
    x, w = [127] * (full + 1) + [low], [largest] * full + [high, 1]
    assert len(x) <= size
    return [x + [0] * (size - len(x))], [w + [0] * (size - len(w))]


def times_power(found: Any, y: Any, power: int) -> bool:
    """Whether found is y times 2^power; within a unit where one of the two is a subnormal float16 with fewer bits."""
    wanted, found = np.asarray(y, np.float64) * 2.0**power, np.asarray(found, np.float64)
    small = np.minimum(np.abs(wanted), np.abs(y)) < 2.0**-14
    return bool((np.abs(found - wanted) <= np.where(small, 2.0 ** (max(power, 0) - 24), 0)).all())


def row_of_runs(runs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """[[3, 3, -1]] of [(3, 2), (-1, 1)]."""
    return [[value for value, count in runs for _ in range(count)]]
