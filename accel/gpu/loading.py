"""Fits by name or path: `load_fit("h200")`, and the section of a fit that a machine uses."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from accel.fault import nearest
from accel.gpu.fit import Fit
from accel.gpu.machine import GpuMachine, is_path
from accel.loading import check, read_document

_FITS = Path(__file__).parents[1] / "fits"


def fit_names() -> tuple[str, ...]:
    """Names of the shipped fits, sorted."""
    return tuple(sorted(path.stem for path in _FITS.glob("*.yaml")))


def find_fit(name_or_path: str | Path) -> Path:
    """The file of a shipped fit, or the path itself if it looks like one. Raises ValueError with the nearest name."""
    name = str(name_or_path)
    if is_path(name):
        if Path(name).is_file():
            return Path(name)
        raise ValueError(f"fit {name!r}: no such file")
    if name not in fit_names():
        raise ValueError(f"no fit {name!r} ({nearest(name, fit_names())})")
    return _FITS / f"{name}.yaml"


def load_fit(name_or_path: str | Path) -> Fit:
    """A shipped fit, or that of a file. Raises ValueError for an unknown name, Faults for a faulty file."""
    path = find_fit(name_or_path)
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _read(path: Path, changed_ns: int) -> Fit:
    return check(read_document(path), Fit)


def section(machine: GpuMachine, name: str, key: str | None = None) -> tuple[Any, Fit, bool]:
    """(section, its fit, whether that is the machine's first) of the first of the machine's fits that has it.

    `name` is a field of `Fit`: "energy"; `key` an entry of it where it is a mapping: "gemm", "bf16". Raises ValueError
    if no fit has it.
    """
    for index, fit in enumerate(map(load_fit, machine.fit)):
        if (found := _part(fit, name, key)) is not None:
            return found, fit, index == 0
    wanted = name if key is None else f"{name}.{key}"
    raise ValueError(f"{machine.name}: fit: none of {', '.join(machine.fit)} has {wanted}; calibrate one that does")


def has_section(machine: GpuMachine, name: str, key: str | None = None) -> bool:
    """Whether a fit of the machine has it."""
    return any(_part(load_fit(fit), name, key) is not None for fit in machine.fit)


def _part(fit: Fit, name: str, key: str | None) -> Any:
    found = getattr(fit, name, None)
    return found if key is None or found is None else found.get(key)
