"""`results.parquet`: one row a point, sorted by key, the same bytes for the same sweep."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.pareto import non_dominated
from analysis.quantities import flat
from analysis.running import SweepRun
from analysis.writing import replacing

Columns = dict[str, list[Any]]
_FIRST = ("key", "status", "reason", "feasible", "pareto", "limited_by")
_BATCH = 1000


def write_results(run: SweepRun, path: Path) -> None:
    """Write the table under a temporary name, then rename it.

    Columns: key, status ("ok", "failed"), reason, feasible (no constraint broken), pareto, limited_by, the
    axes by dotted path, the totals of `Result.to_dict()`, the breakdowns as `energy_j.dram`.  No times, no
    host, no versions but that of the Parquet writer, which the format demands.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = _column_kinds(run)
    schema = pa.schema([(name, _TYPES[kind]()) for name, kind in kinds.items()])
    feasible, pareto = judge(run)
    with replacing(path) as scratch, pq.ParquetWriter(scratch, schema, compression="zstd", version="2.6") as writer:
        for start, part in _batches(_flat_rows(run)):
            marks = slice(start, start + len(part))
            for row, good, best in zip(part, feasible[marks], pareto[marks], strict=True):
                row |= {"feasible": bool(good), "pareto": bool(best)}
            columns = {name: [_as(kind, row.get(name)) for row in part] for name, kind in kinds.items()}
            writer.write_batch(pa.RecordBatch.from_pydict(columns, schema=schema), row_group_size=_BATCH)


def read_results(path: Path) -> list[dict[str, Any]]:
    """The rows of a table, as dictionaries."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def judge(run: SweepRun) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(feasible, pareto), bool [points] each, for the rows sorted by key; a failed point is neither."""
    keys = list(run.sweep.objectives)
    values, feasible = [], []
    for _, _, row in run.rows():
        values.append([_number(row, key) for key in keys])
        kept = row is not None and all(c.holds(_number(row, c.key)) for c in run.sweep.constraints)
        feasible.append(kept)
    good = np.array(feasible, dtype=np.bool_)
    table = np.array(values, dtype=np.float64).reshape(-1, len(keys))
    front = non_dominated(np.where(good[:, None], table, np.nan), list(run.sweep.objectives.values()))
    return good, front


def _number(row: dict[str, Any] | None, key: str) -> float:
    return float("nan") if row is None else float(row.get(key, float("nan")))


def _flat_rows(run: SweepRun) -> Iterator[dict[str, Any]]:
    for settings, key, row in run.rows():
        reason = run.failures.get(key, "") if row is None else ""
        status = "ok" if row is not None else "failed"
        yield {"key": key, "status": status, "reason": reason, **settings, **flat(row or {})}


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    start, part = 0, []
    for row in rows:
        part.append(row)
        if len(part) == _BATCH:
            yield start, part
            start, part = start + _BATCH, []
    if part:
        yield start, part


def _column_kinds(run: SweepRun) -> dict[str, str]:
    """Kind of each column, in order; one that holds int and float is float, anything else mixed is JSON."""
    seen: dict[str, set[str]] = {}
    for row in _flat_rows(run):
        for name, value in row.items():
            seen.setdefault(name, set()).add(type(value).__name__)
    kinds = {"feasible": "bool", "pareto": "bool"} | {name: _kind(types) for name, types in seen.items()}
    kinds.setdefault("limited_by", "str")
    axes = list(run.sweep.axes)
    totals = [name for name in kinds if name not in (*_FIRST, *axes) and "." not in name]
    parts = sorted(name for name in kinds if name not in (*axes, *totals, *_FIRST))
    return {name: kinds[name] for name in (*_FIRST, *axes, *totals, *parts)}


def _kind(types: set[str]) -> str:
    if types <= {"int", "float"}:
        return "float" if "float" in types else "int"
    only = next(iter(types))
    return only if len(types) == 1 and only in _TYPES else "json"


def _as(kind: str, value: Any) -> Any:
    if value is None:
        return None
    if kind == "json":
        return json.dumps(value)
    return float(value) if kind == "float" else value


def _arrow(name: str) -> Any:
    def make() -> Any:
        import pyarrow as pa

        return getattr(pa, name)()

    return make


_TYPES = {
    "int": _arrow("int64"),
    "float": _arrow("float64"),
    "str": _arrow("string"),
    "bool": _arrow("bool_"),
    "json": _arrow("string"),
}
