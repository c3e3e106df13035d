"""The file of a trace: one sealed zip that a re-export writes byte for byte again.

A zip with fixed order and timestamps: `trace.json` (format version, model, how it was made, SHA-256 of each
member), `operators/<column>.npy`, `operands/<column>.npy`, `weights/<column>.npy` and `facts/<name>.npy`.
Members are packed with bzip2, whose output, unlike deflate's, is the same in every library in use.  The zip
comment, the last 64 bytes, is the SHA-256 of all bytes before it: any alteration is noticed.
"""

import hashlib
import io
import json
import lzma
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.trace import TABLES, TEXT_COLUMNS, Trace

FORMAT = 2  # 1 had no operands, no weights and fewer columns of operators; it is still read
_SEAL = 64  # hexadecimal digits of SHA-256
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold


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
    for table, columns in TABLES.items():
        values = getattr(trace, table)
        for column in (name for name in columns if name in values):
            dtype = None if column in TEXT_COLUMNS else np.int64
            yield f"{table}/{column}.npy", np.asarray(values[column], dtype)
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
    except (NotImplementedError, EOFError, KeyError) as error:
        raise ValueError(f"{path}: altered, cannot be unpacked: {error}") from error
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
    folders: dict[str, dict[str, NDArray[Any]]] = {folder: {} for folder in (*TABLES, "facts")}
    for name, values in arrays.items():
        folder, column = name.removesuffix(".npy").split("/")
        folders[folder][column] = values
    return Trace(head["name"], head["model"], head["made"], **folders)


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
    if type(version) is not int or version < 1:
        raise ValueError(f"trace.json: format must be an integer >= 1, got {version!r}")
    if version > FORMAT:
        raise ValueError(f"trace.json: format must be <= {FORMAT}, got {version}: from a newer tilewright")
    missing = {"name", "model", "made", "sha256"} - set(head)
    if missing:
        raise ValueError(f"trace.json: keys {sorted(missing)} must be there")
    for key, kind in {"name": str, "model": dict, "made": dict, "sha256": dict}.items():
        if not isinstance(head[key], kind):
            raise ValueError(f"trace.json: {key} must be a {kind.__name__}, got {head[key]!r}")
    return head


def _checked(archive: zipfile.ZipFile, name: str, digest: str) -> NDArray[Any]:
    data = _member(archive, name)
    if _digest(data) != digest:
        raise ValueError(f"{name}: altered: SHA-256 must be {digest}, got {_digest(data)}")
    return np.load(io.BytesIO(data), allow_pickle=False)
