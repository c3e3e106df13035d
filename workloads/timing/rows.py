"""Device time of each operator row of the exporter, from a profile of the same eager passes.

The exporter's own recorder runs, and below it a second mode opens a labelled range around every operator that the
recorder lets through; kernels are put down to the range that launched them (`workloads/timing/chrome.py`).  Kernel
times hold no gaps; under the two modes the host issues slower than by itself, so the device idles more between kernels
than in a timed pass, and clocks may differ.  On a CPU a row's time is that of its range on the host.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads.timing.chrome import Attribution, Event, Share, attribute, kernel_table, middle
from workloads.timing.clock import synchronize
from workloads.zoo.registry import Stage

PASSES = 3  # counted; one more before them is not
_LABEL = "tw"


@dataclass(frozen=True)
class Names:
    """Rows of one pass: operator and module of each, and the range (number) that holds it."""

    ops: list[str]
    modules: list[str]
    ranges: list[int]


def profiled_rows(stages: Sequence[Stage], device: str, passes: int = PASSES) -> dict[str, Any]:
    """What the record holds under "rows", and the kernels of these passes by name.

    Raises ValueError where passes dispatch different operators, or the device's times are missing.
    """
    from workloads.export.recorder import whole_operators

    with whole_operators():
        events, names = profile_events(
            lambda number: named_pass(stages, number), device, passes, first=lambda: named_pass(stages, -1)
        )
    _same(names)
    attribution = attribute(events, f"{_LABEL} ")
    on_device = device.startswith("cuda")
    if on_device and not attribution.total_us:
        raise ValueError("profile: the trace must hold kernels, got none (CUPTI not available?)")
    return _rows(names, attribution, events, on_device)


def profile_events(
    run: Callable[[int], Any], device: str, passes: int, first: Callable[[], Any]
) -> tuple[list[Event], list[Any]]:
    """`traceEvents` of `passes` passes in one profile, and what each returned; `first` runs before, not profiled."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * device.startswith("cuda")
    first()
    with profile(activities=kinds):  # the first profile of a process may miss what comes early
        synchronize(device)
    with profile(activities=kinds) as profiler:
        results = []
        for number in range(passes):
            results.append(run(number))
            synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        return json.loads(file.read_text(encoding="utf-8", errors="replace"))["traceEvents"], results


def named_pass(stages: Sequence[Stage], number: int) -> Names:
    """One pass under the exporter's recorder, with a range "tw PASS SERIAL" around each operator."""
    from workloads.export.recorder import Recorder, module_paths

    recorder = Recorder()
    owners: list[int] = []  # of each range: the row that is noted next
    for stage in stages:
        with (
            _ranges(recorder, owners, number),
            module_paths(recorder, stage.module, stage.name, lambda: None),
            recorder,
        ):
            stage.module(*stage.args, **stage.kwargs)
    last = {row: serial for serial, row in enumerate(owners)}  # questions about tensors come before their row
    rows = recorder.rows
    return Names([r.op for r in rows], [r.module for r in rows], [last[index] for index in range(len(rows))])


@contextmanager
def _ranges(recorder: Any, owners: list[int], number: int) -> Iterator[None]:
    from torch.profiler import record_function
    from torch.utils._python_dispatch import TorchDispatchMode

    class Ranges(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            owners.append(len(recorder.rows))
            with record_function(f"{_LABEL} {number} {len(owners) - 1}"):
                return func(*args, **(kwargs or {}))

    with Ranges():
        yield


def _same(names: Sequence[Names]) -> None:
    for number, other in enumerate(names[1:], 1):
        for column in ("ops", "modules"):
            if getattr(other, column) != getattr(names[0], column):
                raise ValueError(f"pass {number}: {column} must be those of pass 0, got others")


def _rows(names: Sequence[Names], found: Attribution, events: Sequence[Event], on_device: bool) -> dict[str, Any]:
    shares = [
        [found.shares.get(f"{_LABEL} {number} {serial}", Share()) for serial in one.ranges]
        for number, one in enumerate(names)
    ]
    host = [
        [found.host_us.get(f"{_LABEL} {number} {serial}", 0.0) for serial in one.ranges]
        for number, one in enumerate(names)
    ]
    times = [[share.us for share in one] for one in shares] if on_device else host
    table = kernel_table(events, len(names))
    number_of = {row["name"]: number for number, row in enumerate(table)} | {"": -1}
    attributed = sum(map(sum, times))
    total = found.total_us if on_device else attributed
    return {
        "what": "kernel time on the device" if on_device else "time of the operator on the host",
        "op": names[0].ops,
        "module": names[0].modules,
        "us": [middle(values) for values in zip(*times, strict=True)],
        "kernels": [share.kernels for share in shares[0]],
        "longest": [number_of[share.longest[:200]] for share in shares[0]],
        "passes": len(names),
        "attributed_us": attributed / len(names),
        "unattributed_us": (total - attributed) / len(names),
        "total_us": total / len(names),
        "kernel_table": table,
    }
