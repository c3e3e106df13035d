"""Kernels of a profile, put down to the labelled ranges whose code launched them. No torch here.

torch.profiler writes a Chrome trace.  A launch (cudaLaunchKernel, cuLaunchKernelEx, cudaMemcpyAsync, ...) is an event
of the host that shares its correlation number with the kernel, copy or fill on the device; a range of `record_function`
is an event of the host too.  A kernel belongs to the innermost range that its launch lies in, on the same thread.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
LAUNCHES = ("cuda_runtime", "cuda_driver")
RANGES = ("user_annotation",)  # "gpu_user_annotation" repeats them on the device's time line
Event = Mapping[str, Any]


@dataclass
class Share:
    """What a range launched: microseconds on the device, number of kernels, and the name of the longest."""

    us: float = 0.0
    kernels: int = 0
    longest: str = ""
    longest_us: float = field(default=-1.0, repr=False)

    def add(self, name: str, us: float) -> None:
        """Count one kernel."""
        self.us += us
        self.kernels += 1
        if us > self.longest_us:
            self.longest, self.longest_us = name, us


@dataclass(frozen=True)
class Attribution:
    """Shares by range name; what no range launched; and microseconds that ranges took on the host.

    total_us   all device work of the profile: the shares and `unattributed` together
    """

    shares: Mapping[str, Share]
    unattributed: Share
    total_us: float
    host_us: Mapping[str, float]


def attribute(events: Iterable[Event], prefix: str = "") -> Attribution:
    """Device work by range, of the ranges whose name starts with `prefix`.

    events   `traceEvents` of a Chrome trace: complete events ("ph": "X") with ts and dur in microseconds
    """
    complete = [event for event in events if event.get("ph") == "X"]
    ranges = [e for e in complete if e.get("cat") in RANGES and e["name"].startswith(prefix)]
    launches = _launches(complete)
    owners = _owners(ranges, launches.values())
    shares = {event["name"]: Share() for event in ranges}
    rest, total = Share(), 0.0
    for event in device_work(complete):
        launch = launches.get(event.get("args", {}).get("correlation"))
        owner = owners.get(id(launch)) if launch is not None else None
        (rest if owner is None else shares[owner]).add(event["name"], event["dur"])
        total += event["dur"]
    return Attribution(shares, rest, total, {event["name"]: event["dur"] for event in ranges})


def device_work(events: Iterable[Event]) -> list[Event]:
    """Kernels, copies and fills on the device."""
    return [event for event in events if event.get("ph") == "X" and event.get("cat") in DEVICE_WORK]


def _launches(events: Iterable[Event]) -> dict[Any, Event]:
    """By correlation number; of a runtime call and the driver call in it, the first."""
    found: dict[Any, Event] = {}
    for event in sorted((e for e in events if e.get("cat") in LAUNCHES), key=lambda e: e["ts"]):
        found.setdefault(event.get("args", {}).get("correlation"), event)
    return found


def _owners(ranges: Sequence[Event], launches: Iterable[Event]) -> dict[int, str]:
    """id(launch) -> name of the innermost range around it; threads are told apart where they have ranges."""
    threads = {_thread(event) for event in ranges}
    found: dict[int, str] = {}
    groups: dict[Any, list[Event]] = {}
    for launch in launches:
        groups.setdefault(_thread(launch) if _thread(launch) in threads else None, []).append(launch)
    for thread, group in groups.items():
        mine = [event for event in ranges if thread is None or _thread(event) == thread]
        found |= _innermost(mine, group)
    return found


def _thread(event: Event) -> tuple[Any, Any]:
    return event.get("pid"), event.get("tid")


def _innermost(ranges: Sequence[Event], launches: Sequence[Event]) -> dict[int, str]:
    """A sweep in time with a stack of open ranges; of two that open together the longer is the outer."""
    opening = sorted(ranges, key=lambda e: (e["ts"], -e["dur"]))
    found: dict[int, str] = {}
    stack: list[Event] = []
    following = 0
    for launch in sorted(launches, key=lambda e: e["ts"]):
        while following < len(opening) and opening[following]["ts"] <= launch["ts"]:
            stack.append(opening[following])
            following += 1
        stack = [event for event in stack if event["ts"] + event["dur"] >= launch["ts"]]
        if stack:
            found[id(launch)] = stack[-1]["name"]
    return found


def kernel_table(events: Iterable[Event], passes: int) -> list[dict[str, Any]]:
    """Device work by name, the longest first: name (200 characters), count and microseconds of one pass (the mean)."""
    found: dict[str, Share] = {}
    for event in device_work(events):
        found.setdefault(event["name"][:200], Share()).add(event["name"], event["dur"])
    rows = [{"name": k, "count": one.kernels / passes, "us": one.us / passes} for k, one in found.items()]
    return sorted(rows, key=lambda row: (-row["us"], row["name"]))


def middle(values: Sequence[float]) -> float:
    """The median, 0 of nothing."""
    return median(values) if values else 0.0
