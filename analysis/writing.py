"""Files that are there whole or not at all."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

PICTURES = (".png", ".svg", ".pdf")


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


def check_writable(option: str, path: Path | None, taken: Collection[Path] = ()) -> None:
    """Before a long run: raises ValueError where its result could not be written, or would replace one of `taken`."""
    if path and path.resolve() in {other.resolve() for other in taken}:
        raise ValueError(f"{option}: must not be the file of another option or the trace itself, got {path}")
    if path and (path.is_dir() or not path.parent.is_dir()):
        raise ValueError(f"{option}: must name a file in a folder that exists, got {path}")


def check_picture(path: Path) -> None:
    """As `check_writable`, for a picture, whose suffix says what it is."""
    check_writable("--out", path)
    if path.suffix not in PICTURES:
        raise ValueError(f"--out: must end in {', '.join(PICTURES)}, got {path}")


def put_on_page(page: Path, table: str, name: str = "agreement") -> None:
    """Replace what stands between the page's two comments of that name. Raises ValueError where they are not there."""
    start, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.read_text("utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page}: must hold the lines {start} and {end}")
    with replacing(page) as scratch:
        scratch.write_text(f"{before}{start}\n{table}\n{end}{after}", "utf-8")
