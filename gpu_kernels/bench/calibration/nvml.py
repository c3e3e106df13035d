"""Energy, power and clocks as the driver counts them (NVML), by ctypes: it comes with every driver."""

import ctypes
import time
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
SM, MEMORY = 1, 2  # nvmlClockType_t


class Card:
    """The current CUDA device, or number 0 where it cannot be told. Raises OSError or RuntimeError without NVML."""

    def __init__(self, uuid: str = "") -> None:
        self.library = ctypes.CDLL(LIBRARY)
        _check("nvmlInit_v2", self.library.nvmlInit_v2())
        self.handle = ctypes.c_void_p()
        by_uuid = self.library.nvmlDeviceGetHandleByUUID
        if not uuid or by_uuid(uuid.encode(), ctypes.byref(self.handle)):
            status = self.library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.handle))
            _check("nvmlDeviceGetHandleByIndex_v2", status)

    def _read(self, name: str, form: Any, *arguments: int) -> int:
        value = form()
        _check(name, getattr(self.library, name)(self.handle, *arguments, ctypes.byref(value)))
        return int(value.value)

    def energy_j(self) -> float:
        """Since the driver was loaded; it advances in steps."""
        return self._read("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong) / 1000

    def power_w(self) -> float:
        """As the driver averages it."""
        return self._read("nvmlDeviceGetPowerUsage", ctypes.c_uint) / 1000

    def clock_mhz(self, which: int = SM) -> int:
        """Of the multiprocessors or the memory."""
        return self._read("nvmlDeviceGetClockInfo", ctypes.c_uint, which)

    def temperature_c(self) -> int:
        """Of the chip."""
        return self._read("nvmlDeviceGetTemperature", ctypes.c_uint, 0)


def _check(name: str, status: int) -> None:
    if status:
        raise RuntimeError(f"NVML: {name} gives status {status}")


@cache
def card() -> Card:
    """Of torch's current GPU."""
    import torch

    return Card(f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}")


@dataclass(frozen=True)
class Look:
    """One reading: seconds (a clock of the caller's), joules, watts, MHz, degrees."""

    second: float
    energy_j: float
    power_w: float
    sm_mhz: int
    memory_mhz: int
    temperature_c: int


def look(one: Card, begin: float) -> Look:
    """Everything, now."""
    clocks = one.clock_mhz(SM), one.clock_mhz(MEMORY)
    return Look(time.perf_counter() - begin, one.energy_j(), one.power_w(), *clocks, one.temperature_c())


def steps(readings: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (second, joules), those at which the counter advanced: the first after each step."""
    return [now for before, now in pairwise(readings) if now[1] != before[1]]


def mean_power(readings: list[tuple[float, float]], after_s: float = 0.0, before_s: float = float("inf")) -> float:
    """Watts between the first and the last step of the counter within a time; ValueError where there are fewer than 2.

    From step to step the counter's own period drops out.
    """
    inside = [one for one in steps(readings) if after_s <= one[0] <= before_s]
    if len(inside) < 2:
        raise ValueError(f"NVML: the energy counter advanced {len(inside)} times, a mean needs 2")
    (first, begin), (last, end) = inside[0], inside[-1]
    return (end - begin) / (last - first)
