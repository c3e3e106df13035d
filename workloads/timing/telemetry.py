"""Clocks, power, temperature and energy of a GPU while it works, as its driver reports them (NVML).

Left out: anything shorter than a sample; the driver averages power over some 25 to 100 ms itself.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from statistics import median
from typing import Any

INTERVAL_S = 0.05
ENERGY_FROM_S = 1.0  # the counter of energy advances in steps; shorter loops say nothing
Probe = Callable[[], Mapping[str, float]]


class Sampler:
    """Readings of a probe, taken by a thread while `running` is open.

    probe   returns sm_mhz, memory_mhz, power_w, temperature_c, energy_j (any of them), or raises
    report  after `running`: each quantity's min, median, max; samples; seconds; energy_j over the time, or a reason
    """

    def __init__(self, probe: Probe | None, reason: str = "", interval_s: float = INTERVAL_S) -> None:
        self.probe, self.reason, self.interval_s = probe, reason, interval_s
        self.report: dict[str, Any] = {"reason": reason or "not run"}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Sample until the block is left. A probe that fails is reported, never raised."""
        if self.probe is None:
            self.report = {"reason": self.reason}
            yield
            return
        readings: list[Mapping[str, float]] = []
        faults: list[str] = []
        done = threading.Event()
        self._read(readings, faults)
        begin = time.perf_counter()
        thread = threading.Thread(target=self._sample, args=(done, readings, faults), daemon=True)
        thread.start()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begin
            done.set()
            thread.join()
            self._read(readings, faults)
            self.report = summary(readings, seconds) if readings else {"reason": (faults or ["no reading"])[0]}

    def _sample(self, done: threading.Event, readings: list[Mapping[str, float]], faults: list[str]) -> None:
        while not done.wait(self.interval_s):
            self._read(readings, faults)

    def _read(self, readings: list[Mapping[str, float]], faults: list[str]) -> None:
        try:
            assert self.probe is not None
            readings.append(self.probe())
        except Exception as error:
            faults.append(f"{type(error).__name__}: {error}")


def summary(readings: list[Mapping[str, float]], seconds: float) -> dict[str, Any]:
    """What `Sampler.report` holds. The first and last readings only bound the energy: the GPU may be idle then."""
    inside = readings[1:-1] or readings
    found: dict[str, Any] = {"samples": len(inside), "seconds": round(seconds, 4)}
    for name in sorted({name for one in inside for name in one} - {"energy_j"}):
        values = [one[name] for one in inside if name in one]
        found[name] = [round(f(values), 2) for f in (min, median, max)]
    if "energy_j" in readings[0] and "energy_j" in readings[-1] and seconds >= ENERGY_FROM_S:
        found["energy_j"] = round(readings[-1]["energy_j"] - readings[0]["energy_j"], 3)
    return found


def nvml_sampler() -> Sampler:
    """A sampler of the current CUDA device, or one that only reports why there is none."""
    try:
        return Sampler(_nvml_probe())
    except Exception as error:
        return Sampler(None, f"NVML: {type(error).__name__}: {error}")


def _nvml_probe() -> Probe:
    pynvml = import_module("pynvml")  # of nvidia-ml-py, which only machines with a GPU have
    pynvml.nvmlInit()
    handle = _handle(pynvml)
    readers: dict[str, Callable[[], float]] = {
        "sm_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "memory_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
        "power_w": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "temperature_c": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        "energy_j": lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000,
    }
    working = {name: read for name, read in readers.items() if _works(read)}
    if not working:
        raise RuntimeError("the driver answers none of the questions")
    return lambda: {name: float(read()) for name, read in working.items()}


def _handle(pynvml: Any) -> Any:
    import torch

    try:
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
    except Exception:  # an older torch or driver; a machine of one GPU has number 0 only
        return pynvml.nvmlDeviceGetHandleByIndex(0)


def _works(read: Callable[[], float]) -> bool:
    try:
        read()
    except Exception:
        return False
    return True
