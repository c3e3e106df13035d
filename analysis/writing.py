"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it at the end, removed when anything goes wrong.

    An OSError that names no file (a full disk) leaves with the name of `path`.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield scratch
        scratch.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        scratch.unlink(missing_ok=True)
