"""On what a measurement was made: device, driver, versions, settings that choose kernels."""

import platform
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGES = ("torch", "triton", "transformers", "diffusers", "numpy")


def surroundings(device: str, commit: str = "") -> dict[str, Any]:
    """Facts for the record; what cannot be told is None."""
    import torch

    return {
        "device": _device(device),
        "driver": _driver() if device.startswith("cuda") else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device.startswith("cuda") else None,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit or None,
        "settings": {
            "matmul_allow_tf32": torch.backends.cuda.matmul.allow_tf32,
            "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
        },
    }


def _device(device: str) -> dict[str, Any]:
    import torch

    if not device.startswith("cuda"):
        return {"name": platform.machine(), "kind": device}
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "kind": "cuda",
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "memory_bytes": found.total_memory,
        "l2_bytes": getattr(found, "L2_cache_size", None),
    }


def _driver() -> str | None:
    try:
        pynvml = import_module("pynvml")
        pynvml.nvmlInit()
        text = pynvml.nvmlSystemGetDriverVersion()
        return text.decode() if isinstance(text, bytes) else str(text)
    except Exception:
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
