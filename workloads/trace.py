"""`Trace`: what a model computed, in one sealed file. No torch here.

A trace file is a zip with fixed order and timestamps: `trace.json` (format version, model, how it was
made, SHA-256 of each member), `operators/<column>.npy` and `facts/<name>.npy`.  Members are packed with
bzip2, whose output, unlike deflate's, is the same in every library in use.  The zip comment, the last 64
bytes, is the SHA-256 of all bytes before it: any alteration is noticed.
"""

import hashlib
import io
import json
import lzma
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = 1
SUFFIX = ".trace.zip"
DATA = Path(__file__).parent / "data"
BENCHMARKS = Path(__file__).parent / "benchmarks" / "specs"
TEXT_COLUMNS = ("kind", "part", "format")
COLUMNS = (
    *("kind", "part", "sequence", "step", "layer", "flops"),
    *("read_bytes", "write_bytes", "repeat", "format", "launches"),
)
_SEAL = 64  # hexadecimal digits of SHA-256
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold


@dataclass(frozen=True, eq=False)
class Trace:
    """Operators with shapes and formats, plus the data-dependent facts that hardware reacts to.

    model      name, layers, heads, head_size, hidden, ... of the model
    made       how the trace came about: `kind` ("dense": replay under any policy; "recorded": the pruning is
               part of the trace; "benchmark": stated numbers, no run), source, versions, in-loop policies,
               rounding rules
    operators  one entry per eager operator, all of one length: kind (linear, bmm, softmax, copy, add, mul,
               gelu, layernorm, view, ...), part ("attention", "fc", "other"), sequence, step, layer, flops,
               read_bytes, write_bytes, repeat (int64), format ("float32"), launches (1: a device kernel is
               launched; 0: a view, host work only). layer is -1 outside the layers. Empty: not recorded
    facts      arrays by name; `workloads/replay.py` and `workloads/released.py` say which
    """

    name: str
    model: Mapping[str, Any]
    made: Mapping[str, Any]
    operators: Mapping[str, NDArray[Any]]
    facts: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.operators:
            _check_operators(self.name, self.operators)


def _check_operators(name: str, operators: Mapping[str, NDArray[Any]]) -> None:
    if set(operators) != set(COLUMNS):
        raise ValueError(f"{name}: operators: columns must be {sorted(COLUMNS)}, got {sorted(operators)}")
    lengths = {column: len(values) for column, values in operators.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{name}: operators: columns must have one length, got {lengths}")


def write_trace(trace: Trace, path: str | Path) -> None:
    """Write the file under a temporary name, then rename it. The same trace gives the same bytes."""
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(trace_bytes(trace))
    scratch.replace(path)


def trace_bytes(trace: Trace) -> bytes:
    """The bytes of the trace file."""
    members = {name: _array_bytes(values) for name, values in _arrays(trace)}
    head = {
        "format": FORMAT,
        "name": trace.name,
        "model": dict(trace.model),
        "made": dict(trace.made),
        "sha256": {name: _digest(data) for name, data in members.items()},
    }
    text = json.dumps(head, indent=1, ensure_ascii=True).encode() + b"\n"
    return _seal({"trace.json": text, **members})


def _arrays(trace: Trace) -> Iterator[tuple[str, NDArray[Any]]]:
    for column in COLUMNS if trace.operators else ():
        dtype = None if column in TEXT_COLUMNS else np.int64
        yield f"operators/{column}.npy", np.asarray(trace.operators[column], dtype)
    for name in sorted(trace.facts):
        yield f"facts/{name}.npy", np.asarray(trace.facts[name])


def _array_bytes(values: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
    np.lib.format.write_array(stream, little, version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def _seal(members: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_BZIP2
            info.create_system = 3  # the same bytes on every system
            info.external_attr = 0o644 << 16
            archive.writestr(info, data, compresslevel=9)
        archive.comment = b"0" * _SEAL
    body = stream.getvalue()[:-_SEAL]
    return body + _digest(body).encode()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_trace(path: str | Path) -> Trace:
    """Read and check a trace file.

    Raises FileNotFoundError, or ValueError (file, member, rule, value) for a truncated, altered or newer
    trace.
    """
    path = Path(path)
    data = path.read_bytes()
    try:
        return _unpack(data)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: must be a whole trace file, got {len(data)} bytes: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _unpack(data: bytes) -> Trace:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        head = _head(_member(archive, "trace.json"))
        expected = ["trace.json", *head["sha256"]]
        if names != expected:
            raise ValueError(f"members must be {expected}, got {names}")
        arrays = {name: _checked(archive, name, digest) for name, digest in head["sha256"].items()}
    if data[-_SEAL:] != _digest(data[:-_SEAL]).encode():
        raise ValueError("altered or truncated: the seal (SHA-256 of the file) must match its bytes")
    folders: dict[str, dict[str, NDArray[Any]]] = {"operators": {}, "facts": {}}
    for name, values in arrays.items():
        folder, column = name.removesuffix(".npy").split("/")
        folders[folder][column] = values
    return Trace(head["name"], head["model"], head["made"], folders["operators"], folders["facts"])


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except KeyError:
        raise ValueError(f"member {name} must be there; this is no trace file") from None
    except (OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{name}: altered, cannot be unpacked: {error}") from error


def _head(text: bytes) -> dict[str, Any]:
    try:
        head = json.loads(text)
    except ValueError as error:
        raise ValueError(f"trace.json: must be JSON: {error}") from error
    version = head.get("format") if isinstance(head, dict) else None
    if not isinstance(version, int) or version < 1:
        raise ValueError(f"trace.json: format must be an integer >= 1, got {version!r}")
    if version > FORMAT:
        raise ValueError(f"trace.json: format must be <= {FORMAT}, got {version}: from a newer tilewright")
    missing = {"name", "model", "made", "sha256"} - set(head)
    if missing:
        raise ValueError(f"trace.json: keys {sorted(missing)} must be there")
    return head


def _checked(archive: zipfile.ZipFile, name: str, digest: str) -> NDArray[Any]:
    data = _member(archive, name)
    if _digest(data) != digest:
        raise ValueError(f"{name}: altered: SHA-256 must be {digest}, got {_digest(data)}")
    return np.load(io.BytesIO(data), allow_pickle=False)


def workload_names() -> list[str]:
    """Names of the shipped workloads."""
    return sorted(path.name.removesuffix(SUFFIX) for path in DATA.glob(f"*{SUFFIX}"))


def benchmark_names() -> list[str]:
    """Names of the shipped benchmarks (`workloads/benchmarks`)."""
    return sorted(path.stem for path in BENCHMARKS.glob("*.yaml"))


def load_workload(name_or_path: str | Path) -> Trace:
    """The trace of a shipped workload or benchmark, of a trace file, of a benchmark file (.yaml), of a CSV
    file that SpAtten's authors released, or of a decoding step by name (`workloads.llm_decode`).

    The file is read once as long as it does not change. Raises ValueError for an unknown name or a faulty
    file.
    """
    from workloads.llm_decode import NAMES, decode_trace, is_decode_name

    if is_decode_name(str(name_or_path)):
        return decode_trace(str(name_or_path))
    path = _find(str(name_or_path), NAMES)
    stat = path.stat()
    return _load(path.resolve(), stat.st_mtime_ns, stat.st_size)


def _find(name: str, others: str) -> Path:
    if name in workload_names():
        return DATA / f"{name}{SUFFIX}"
    if name in benchmark_names():
        return BENCHMARKS / f"{name}.yaml"
    if Path(name).is_file():
        return Path(name)
    near = get_close_matches(name, [*workload_names(), *benchmark_names()], 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    known = f"{', '.join(workload_names())}, one of the {len(benchmark_names())} benchmarks, {others}"
    kinds = "a trace (.zip), .yaml or .csv file"
    raise ValueError(f"workload: must be one of {known}, or {kinds}, got {name!r}{hint}")


@lru_cache(maxsize=16)
def _load(path: Path, modified: int, size: int) -> Trace:
    if path.suffix == ".csv":
        from workloads.released import read_released

        return read_released(path)
    if path.suffix in (".yaml", ".yml"):
        from workloads.benchmarks import benchmark_trace

        return benchmark_trace(path)
    return read_trace(path)


def describe(trace: Trace) -> list[tuple[str, str]]:
    """Rows (what, value) of `tilewright trace show`."""
    rows = [("name", trace.name)]
    rows += [(f"model.{key}", _short(value)) for key, value in trace.model.items()]
    rows += [(f"made.{key}", _short(value)) for key, value in trace.made.items()]
    rows += list(_operator_rows(trace.operators))
    for name, values in trace.facts.items():
        rows.append((f"facts.{name}", f"{values.dtype} {list(values.shape)}"))
    return rows


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _operator_rows(operators: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, str]]:
    for part in sorted(set(operators.get("part", ()))):
        mine = operators["part"] == part
        repeat = operators["repeat"][mine]
        total = {name: int((operators[name][mine] * repeat).sum()) for name in ("launches", "flops")}
        moved = int(((operators["read_bytes"] + operators["write_bytes"])[mine] * repeat).sum())
        counts = f"{repeat.sum()} operators, {total['launches']} launches"
        yield f"operators.{part}", f"{counts}, {total['flops']} flops, {moved} bytes"
