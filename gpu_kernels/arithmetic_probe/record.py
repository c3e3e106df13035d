"""The record of a run: facts, hashes of operands and results by suite, and how often our rules were wrong."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_kernels.arithmetic_probe import replay, scalars
from gpu_kernels.arithmetic_probe.device import OPTIONS, Device
from gpu_kernels.arithmetic_probe.facts import facts
from gpu_kernels.arithmetic_probe.instructions import PRODUCTS, SCALARS
from gpu_kernels.arithmetic_probe.operands import operands, suites

FOLDER = Path(__file__).parent
SOURCES = ("kernel.cu", "instructions.py", "operands.py", "scalars.py", "facts.py", "device.py")
FORMAT = "arithmetic_probe 1"
TILES, STEPS, SEED = 16, 2, 2026  # of the products that the tests replay
MANY_TILES, MANY_SEED = 2048, 7  # of those that are only counted, here against the rules
NUMBERS = 1 << 16  # operands of a scalar instruction that the tests replay
CHUNK = 1 << 26  # float32 numbers converted at once
STRIDE = 61  # of all 2^32 words, each so manieth is converted; every one where the rule is our own code


def digest(*arrays: NDArray[Any]) -> str:
    """SHA-256 of the bytes of arrays."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def source_hashes() -> dict[str, str]:
    """SHA-256 of each file that decides what is run."""
    return {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in SOURCES}


def product_rows(device: Device) -> Iterator[dict[str, Any]]:
    """A row for each matrix instruction and suite."""
    for name, product in PRODUCTS.items():
        if name not in device.kernels:
            continue
        for suite in suites(product.operand):
            given = operands(product, suite, TILES, STEPS, SEED)
            found = device.product(name, *given)
            row = {"instruction": name, "suite": suite, "operands": digest(*given), "results": digest(found)}
            many = operands(product, suite, MANY_TILES, STEPS, MANY_SEED)
            wrong = device.product(name, *many) != replay.products(name, *many, _architecture(device))
            yield row | {"checked": int(wrong.size), "wrong": int(wrong.sum())}


def _architecture(device: Device) -> str:
    return device.architecture.rstrip("a")


def scalar_rows(device: Device) -> Iterator[dict[str, Any]]:
    """A row for each scalar instruction whose result is defined."""
    for name in SCALARS:
        if name not in device.kernels or name in scalars.APPROXIMATE:
            continue
        given = scalars.operands(name, NUMBERS, SEED)
        found = device.scalar(name, *given)
        row = {"instruction": name, "operands": digest(*given), "results": digest(found)}
        checked, wrong = _all(device, name)
        yield row | {"checked": checked, "wrong": wrong}


def _all(device: Device, name: str) -> tuple[int, int]:
    """(operands, wrong ones): float32 words in order for conversions, every pair of significands for the quotient."""
    counts = [_compared(device, name, given) for given in _given(name)]
    return sum(size for size, _ in counts), sum(wrong for _, wrong in counts)


def _given(name: str) -> Iterator[list[Any]]:
    if SCALARS[name][0] > 1:
        if name == "divide_float16":
            yield scalars.significands()
        yield scalars.operands(name, 1 << 24, MANY_SEED)
        return
    stride = 1 if name in ("float16_of_float32", "bfloat16_of_float32") else STRIDE
    for low in range(0, 2**32, CHUNK * stride):
        yield [np.arange(low, min(low + CHUNK * stride, 2**32), stride, dtype=np.uint64).astype(np.uint32)]


def _compared(device: Device, name: str, given: list[Any]) -> tuple[int, int]:
    wrong = device.scalar(name, *given) != scalars.expected(name, *given)
    return int(wrong.size), int(wrong.sum())


def approximate_rows(device: Device) -> Iterator[dict[str, Any]]:
    """Largest error of the approximate instructions, in units in the last place of the exact result."""
    for name, (function, low, high) in scalars.APPROXIMATE.items():
        steps = np.linspace(low, high, 1 << 24, dtype=np.float32)
        exact = function(steps.astype(np.float64))
        found = device.scalar(name, steps.view(np.uint32)).view(np.float32)
        unit = np.ldexp(1.0, np.frexp(exact)[1] - 24)
        row = {"instruction": name, "from": low, "to": high, "checked": len(steps)}
        yield row | {"largest_error_units": round(float(np.max(np.abs(found - exact) / unit)), 4)}


def surroundings(device: Device, commit: str | None) -> dict[str, Any]:
    """Device, driver, versions, date, commit, hashes."""
    import torch
    from cuda.bindings import nvrtc

    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    return {
        "device": torch.cuda.get_device_name(0),
        "architecture": device.architecture,
        "driver": subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip(),
        "cuda": torch.version.cuda,
        "nvrtc": ".".join(map(str, nvrtc.nvrtcVersion()[1:])),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("torch", "numpy", "numba", "cuda-core", "cuda-bindings")},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "sources": source_hashes(),
        "options": OPTIONS,
    }


def measure(commit: str | None) -> dict[str, Any]:
    """Run everything on the first GPU."""
    device = Device()
    floats = [name for name in PRODUCTS if name in device.kernels and PRODUCTS[name].operand != "int8"]
    return {
        "format": FORMAT,
        **surroundings(device, commit),
        "facts": {name: facts(lambda *abc, n=name: device.product(n, *abc), PRODUCTS[name]) for name in floats},
        "products": list(product_rows(device)),
        "scalars": list(scalar_rows(device)),
        "approximate": list(approximate_rows(device)),
    }


def read(file: Path) -> dict[str, Any]:
    """A record; ValueError if it is of another form."""
    record = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"{file}: not a record of the arithmetic probe")
    return record
