"""Files of fits: a `Fit` as YAML whose every number says that it was fitted, and every section to what.

write_fit(path, fit, {"gemm": "kernels_bench_h200.json of 2026-11-30, 240 points; held out: 4.1 % mean"})
add_section(path, "gemm", section, origin, errors, name="h200", source="...")
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from accel.fault import nearest
from accel.gpu.fit import Error, Fit
from accel.loading import check, read_document
from analysis.writing import replacing

_PLAIN = re.compile(r"[A-Za-z_][\w. -]*")
_WORDS = {"null", "true", "false", "yes", "no", "on", "off"}
_HEADER = (
    "Dimensionless numbers of GPU kernel models (`tilewright calibrate`). A section that is missing was not fitted."
)


def write_fit(path: Path, fit: Fit, origins: Mapping[str, str] | None = None) -> None:
    """Replace the file whole. `origins`: for a section (field of `Fit`) its record, date, points and held-out error.

    A section that `origins` does not name keeps the comment that the file has for it.
    """
    known = dict(read_origins(path)) | dict(origins or {})
    with replacing(path) as scratch:
        scratch.write_text(fit_text(fit, known), "utf-8")


def add_section(
    path: Path,
    name: str,
    section: Any,
    origin: str,
    errors: Mapping[str, Error],
    *,
    fit: str = "",
    source: str = "",
) -> Fit:
    """Put one section and the held-out errors of its classes into a file of fits, which is made if it is not there.

    `section`: a model, or a mapping of them. `fit` and `source` name a new file; an old one keeps its own unless given.
    Raises ValueError where `Fit` has no field `name`.
    """
    if name not in Fit.model_fields:
        raise ValueError(f"fit: no section {name!r} ({nearest(name, tuple(Fit.model_fields))})")
    old: dict[str, Any] = check(read_document(path), Fit).model_dump() if path.is_file() else {}
    heads = {"name": fit or old.get("name", path.stem), "source": source or old.get("source", origin)}
    error = old.get("error", {}) | {kind: found.model_dump() for kind, found in errors.items()}
    made = Fit.model_validate(old | heads | {"error": error, name: _plain(section)})
    write_fit(path, made, {name: origin})
    return made


def fit_text(fit: Fit, origins: Mapping[str, str]) -> str:
    """The file: a comment before each section, `# fitted` after each number of a section, 5 significant digits."""
    lines = [f"# {_HEADER}"]
    for name, value in _plain(fit).items():
        if name in origins:
            lines += ["", f"# {name}: {origins[name]}"]
        note = {"error": "  # held out", "name": "", "source": ""}.get(name, "  # fitted")
        lines += _lines(name, value, "", note)
    return "\n".join(lines) + "\n"


def read_origins(path: Path) -> dict[str, str]:
    """The comments of the sections of a file, by section; none where there is no file."""
    text = path.read_text("utf-8") if path.is_file() else ""
    return {name: said for name, said in re.findall(r"^# (\w+): (.*)$", text, re.MULTILINE) if name in Fit.model_fields}


def _plain(value: Any) -> Any:
    """Models as mappings, without what is not there."""
    if isinstance(value, BaseModel):
        return {name: _plain(inner) for name, inner in value.model_dump().items() if inner not in (None, {})}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _lines(key: str, value: Any, indent: str, note: str) -> Iterator[str]:
    """Mappings in blocks, rows of numbers in brackets, one row a line."""
    head = f"{indent}{_scalar(key)}:"
    if isinstance(value, dict) and value:
        yield head
        for name, inner in value.items():
            yield from _lines(name, inner, indent + "  ", note)
    elif isinstance(value, list) and value and all(isinstance(row, list) for row in value):
        yield head + note
        yield from (f"{indent}  - {_flow(row)}" for row in value)
    else:
        yield f"{head} {_flow(value)}" + ("" if isinstance(value, str) else note)


def _flow(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_flow(inner) for inner in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(inner)}" for key, inner in value.items()) + "}"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS and value == value.strip():
        return value
    return json.dumps(value, ensure_ascii=False)
