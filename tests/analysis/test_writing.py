"""A file is there whole or not at all."""

import errno
from pathlib import Path

import pytest

from analysis.writing import replacing


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(OSError, match=r"report\.html"):
        _fill_the_disk(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _fill_the_disk(path: Path) -> None:
    with replacing(path) as scratch:
        scratch.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")


def test_the_new_file_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with replacing(path) as scratch:
        scratch.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
