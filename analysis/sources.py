"""One hash over the sources that decide a result."""

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SOURCES = ("sim", "accel", "dataflow", "workloads")


@cache
def source_hash() -> str:
    """SHA-256 over the Python and YAML sources of the packages that decide a result."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(_source_files(root)):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def _source_files(root: Path) -> Iterator[Path]:
    for package in SOURCES:
        for pattern in ("*.py", "*.yaml"):
            yield from (root / package).rglob(pattern)
