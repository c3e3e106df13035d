"""Where results and compiled kernels are kept between runs."""

import os
import shutil
import sys
import time
from pathlib import Path

from analysis.sources import source_hash

_MONTH_S = 30 * 86_400


def cache_folder() -> Path:
    """`$TILEWRIGHT_CACHE`, else the platform's cache folder for the user; created when missing."""
    folder = Path(os.environ.get("TILEWRIGHT_CACHE") or _platform_folder() / "tilewright").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def use_kernel_cache() -> Path:
    """Let Numba keep machine code in the cache folder, or in the user's `$NUMBA_CACHE_DIR`.

    Call it before Numba is imported.  Each version of the sources has a folder of its own: Numba looks only
    at the file of a function, so a kernel whose callee has changed in another file would be run as it was
    (seen: a segmentation fault).  An installed package may also lie where nothing can be written.
    """
    own = f"tilewright-{source_hash()[:16]}"
    base = Path(os.environ.get("NUMBA_CACHE_DIR") or cache_folder() / "kernels")
    folder = base if base.name == own else base / own
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _forget_old(folder.parent)
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    return folder


def _forget_old(folder: Path) -> None:
    """Remove kernels of sources that nobody has compiled for a month."""
    for old in folder.glob("tilewright-*"):
        if time.time() - old.stat().st_mtime > _MONTH_S:
            shutil.rmtree(old, ignore_errors=True)


def _platform_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
