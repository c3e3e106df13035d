"""Where results and compiled kernels are kept between runs."""

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """`$TILEWRIGHT_CACHE`, else the platform's cache folder for the user; created when missing."""
    folder = Path(os.environ.get("TILEWRIGHT_CACHE") or _platform_folder() / "tilewright").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def use_kernel_cache() -> Path:
    """Let Numba keep machine code in the cache folder; a value the user has set wins.

    Call it before Numba is imported: an installed package may lie in a folder that cannot be written.
    """
    folder = Path(os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_folder() / "kernels")))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _platform_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
