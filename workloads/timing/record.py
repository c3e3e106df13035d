"""The record of a timed model as a small file, and a trace with the times of a record in it. No torch here.

Times are microseconds, rounded to 0.01; text columns of the rows are numbered.  The file is gzipped JSON, the same
bytes for the same record.
"""

import gzip
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from workloads.trace import Trace

FORMAT = "timed 1"
SUFFIX = ".json.gz"
_TEXT = ("op", "module")


def write_record(record: Mapping[str, Any], path: str | Path) -> None:
    """Write the file under a temporary name, then rename it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = {**_rounded(record), "format": FORMAT}
    if packed.get("rows"):
        packed["rows"] = _numbered(packed["rows"])
    text = json.dumps(packed, sort_keys=True, separators=(",", ":")).encode()
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(gzip.compress(text, 9, mtime=0))
    scratch.replace(path)


def read_record(path: str | Path) -> dict[str, Any]:
    """A record as `time_model` returned it. Raises ValueError (file, rule) for another kind of file."""
    path = Path(path)
    try:
        record = json.loads(gzip.decompress(path.read_bytes()))
    except (EOFError, gzip.BadGzipFile, ValueError) as error:
        raise ValueError(f"{path}: must be a whole record of a timed model: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"{path}: format must be {FORMAT!r}, got another kind of file")
    if record.get("rows"):
        names = record["rows"].pop("names")
        record["rows"] |= {column: [names[column][i] for i in record["rows"][column]] for column in _TEXT}
    return record


def _numbered(rows: Mapping[str, Any]) -> dict[str, Any]:
    names = {column: list(dict.fromkeys(rows[column])) for column in _TEXT}
    numbers = {column: {name: i for i, name in enumerate(names[column])} for column in _TEXT}
    return {**rows, "names": names, **{c: [numbers[c][name] for name in rows[c]] for c in _TEXT}}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 2) if abs(value) >= 1 else float(f"{value:.3g}")
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value


def timed_trace(trace: Trace, record: Mapping[str, Any]) -> Trace:
    """The trace with measured times: facts `timed.eager_us` (float32) and `timed.eager_kernels` (int32) by operator.

    `made["timed"]` gets the rest of the record: device, versions, clocks, totals, kernels by name.  Views took no time.
    Raises ValueError for a record without rows, or of other operators than the trace's (the first difference).
    """
    rows = record.get("rows")
    if not rows:
        raise ValueError(f"{trace.name}: the record must hold times by operator, got none: {_why(record)}")
    for column in _TEXT:
        if column not in trace.operators:
            raise ValueError(f"{trace.name}: operators must have the column {column!r}, as exported traces do")
    _check_same(trace, rows)
    facts = {
        "timed.eager_us": np.array(rows["us"], np.float32),
        "timed.eager_kernels": np.array(rows["kernels"], np.int32),
    }
    timed = _rounded({key: value for key, value in record.items() if key not in ("rows", "name", "model")})
    timed["rows"] = _rounded({key: value for key, value in rows.items() if not _is_row_column(key)})
    return replace(trace, made={**trace.made, "timed": timed}, facts={**trace.facts, **facts})


def _is_row_column(name: str) -> bool:
    return name in ("op", "module", "us", "kernels", "longest", "kernel_table")


def _why(record: Mapping[str, Any]) -> str:
    return str(record.get("failures", {}).get("rows", "not measured"))


def _check_same(trace: Trace, rows: Mapping[str, Sequence[str]]) -> None:
    mine = list(zip(trace.operators["op"].tolist(), trace.operators["module"].tolist(), strict=True))
    theirs = list(zip(rows["op"], rows["module"], strict=True))
    for index, (one, other) in enumerate(zip(mine, theirs, strict=False)):
        if one != other:
            where = f"{trace.name}: operator {index}"
            raise ValueError(f"{where}: must be {one[0]} in {one[1]!r} as in the trace, timed was {_named(other, one)}")
    if len(mine) != len(theirs):
        longer = mine if len(mine) > len(theirs) else theirs
        extra = longer[min(len(mine), len(theirs))]
        raise ValueError(
            f"{trace.name}: operators must be as many as timed, got {len(mine)} in the trace and {len(theirs)} timed; "
            f"the first without a partner is {extra[0]} in {extra[1]!r}"
        )


def _named(found: tuple[str, str], expected: tuple[str, str]) -> str:
    near = get_close_matches(expected[1], [found[1]], 1, 0.9)
    return f"{found[0]} in {found[1]!r}" + (" (versions of the libraries may differ)" if near else "")
