"""`time_model`: one model of the zoo, measured part by part. A part that fails leaves its reason, the others go on."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from statistics import median
from typing import Any

from workloads.timing import clock
from workloads.timing.chrome import device_work, kernel_table
from workloads.timing.compiled import LABEL, compile_counts, compiled_blocks
from workloads.timing.rows import profile_events, profiled_rows
from workloads.timing.surroundings import surroundings
from workloads.timing.telemetry import Sampler, nvml_sampler
from workloads.zoo.registry import Place, Stage, find_model, label, options_of

EAGER = ("eager", "rows", "graph")
COMPILED = ("compiled", "compiled_kernels", "compiled_graph")
PARTS = (*EAGER, *COMPILED)
Log = Callable[[str], None]
Save = Callable[[Mapping[str, Any]], None]


def time_model(
    name: str,
    options: Mapping[str, Any] | None = None,
    place: Place | None = None,
    *,
    parts: Sequence[str] = PARTS,
    commit: str = "",
    log: Log = lambda text: None,
    save: Save = lambda record: None,
) -> dict[str, Any]:
    """The record of a model of the zoo on `place` (a CUDA device if not given), see `time_stages`.

    Raises ValueError for unknown names, options and parts.
    """
    begin = time.perf_counter()
    place = place or Place("cuda", find_model(name).dtype)
    stages, about = built(name, options or {}, place)
    log(f"built in {time.perf_counter() - begin:.1f} s")
    return time_stages(
        label(name, options or {}), stages, about, place.device, parts=parts, commit=commit, log=log, save=save
    )


def built(name: str, options: Mapping[str, Any], place: Place) -> tuple[list[Stage], dict[str, Any]]:
    """The stages of a model of the zoo, and what a trace of it says about the model."""
    model = find_model(name)
    chosen = options_of(model, options)
    about = {"name": name, "title": model.title, "origin": model.origin, "options": chosen, "format": place.dtype}
    return model.build(place, chosen), about


def time_stages(
    name: str,
    stages: Sequence[Stage],
    model: Mapping[str, Any],
    device: str,
    *,
    parts: Sequence[str] = PARTS,
    commit: str = "",
    log: Log = lambda text: None,
    save: Save = lambda record: None,
    known: Mapping[str, Any] | None = None,
    compile_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Times of the stages, run one after another, each once, in inference mode on `device`.

    eager             pass_us: median time from pass to pass, the host never waiting; wall_us and issue_us: passes that
                      the host waits for; host_bound: the host issues no faster than the device works
    rows              microseconds and kernels by operator of the exporter (`workloads/timing/rows.py`)
    graph             replays of a CUDA graph of the eager pass: the device without the host
    compiled          torch.compile of repeated blocks; first_s: seconds until the first pass was done
    compiled_graph    as `graph`, of the compiled pass
    compiled_kernels  kernels of the compiled pass by name
    failures          reason by part, for those that did not work
    log, save         called with a line of text, and with the record after each part
    known             a record to go on with: what it holds stays, other than `parts`
    Raises ValueError for an unknown part.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise ValueError(f"parts: must be among {', '.join(PARTS)}, got {unknown[0]!r}")
    record: dict[str, Any] = {"failures": {}, **(known or {}), "name": name, "model": dict(model)}
    record["failures"] = {part: why for part, why in record["failures"].items() if part not in ("model", *parts)}
    run = _Run(stages, device, record, tuple(parts), log, save)
    record["weights_bytes"] = sum(p.numel() * p.element_size() for s in stages for p in s.module.parameters())
    run.part("made", lambda: surroundings(device, commit), always=True)
    run.measure(compile_options or {})
    return record


def missing(record: Mapping[str, Any], parts: Sequence[str]) -> list[str]:
    """Those of `parts` of which a record has neither a result nor a reason."""
    return [part for part in parts if part not in record and part not in record.get("failures", {})]


class _Run:
    """The parts of one record, one after another."""

    def __init__(
        self, stages: Sequence[Stage], device: str, record: dict[str, Any], parts: Sequence[str], log: Log, save: Save
    ) -> None:
        self.stages, self.device, self.record, self.parts = stages, device, record, parts
        self.log, self.save = log, save

    def measure(self, compile_options: Mapping[str, Any]) -> None:
        """All parts that were asked for."""
        with _inference():
            self.part("eager", self.eager)
            self.part("rows", lambda: profiled_rows(self.stages, self.device))
            self.part("graph", self.graph)
            if "compiled" in self.parts:
                self.part("compiled", lambda: self.compiled(compile_options), keep=False)
                for part in missing(self.record, [one for one in self.parts if one in COMPILED]):
                    self.record["failures"][part] = "needs the compiled pass, which failed"
                self.save(self.record)

    def part(self, name: str, measure: Callable[[], Any], *, always: bool = False, keep: bool = True) -> None:
        """Measure, note the result or the reason that there is none, and save."""
        if name not in self.parts and not always:
            return
        begin = time.perf_counter()
        reason = ""
        try:
            result = measure()
            if keep:
                self.record[name] = result
                self.record["failures"].pop(name, None)
        except Exception as error:
            reason = _reason(error)
            self.record["failures"][name] = reason
        collect(self.device)
        self.log(f"{name}: {time.perf_counter() - begin:.1f} s {reason}")
        self.save(self.record)

    def forward(self) -> None:
        """One pass of every stage; results are dropped."""
        for stage in self.stages:
            stage.module(*stage.args, **stage.kwargs)

    def eager(self) -> dict[str, Any]:
        """Times, memory and clocks of the eager pass."""
        _reset_peak(self.device)
        found = self.timed(self.forward)
        found |= clock.one_by_one(self.forward, max(3, found["passes"] // 4), self.device)
        found["host_bound"] = found["issue_us"] >= 0.95 * found["wall_us"] if self.on_device else None
        return found | {"peak_bytes": _peak(self.device)}

    def timed(self, forward: Callable[[], Any]) -> dict[str, Any]:
        """Back-to-back passes with clocks and energy beside them."""
        passes = clock.enough(clock.warm_up(forward, self.device))
        sampler = nvml_sampler() if self.on_device else Sampler(None, "no GPU")
        with sampler.running():
            times = clock.back_to_back(forward, passes, self.device)
        found = {"pass_us": median(times), "fastest_us": min(times), "slowest_us": max(times), "passes": passes}
        joules = sampler.report.get("energy_j")
        return found | {"clocks": sampler.report, "pass_j": None if joules is None else joules / passes}

    @property
    def on_device(self) -> bool:
        """Whether there is a GPU to ask."""
        return self.device.startswith("cuda")

    def graph(self, forward: Callable[[], Any] | None = None) -> dict[str, Any]:
        """Replays of a captured pass."""
        if not self.on_device:
            raise ValueError("a CUDA graph needs a CUDA device")
        import torch

        forward = forward or self.forward
        _refuse_waiting(forward)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            forward()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            forward()
        found = self.timed(graph.replay)
        graph.reset()
        return found

    def compiled(self, options: Mapping[str, Any]) -> None:
        """The three parts of the compiled pass, which share the compilation."""
        with compiled_blocks(self.stages, **options) as blocks:
            self.part("compiled", lambda: self.compiled_pass(blocks))
            if "compiled" in self.record:
                self.part("compiled_kernels", self.compiled_kernels)
                self.part("compiled_graph", self.graph)

    def compiled_pass(self, blocks: Mapping[str, int]) -> dict[str, Any]:
        """Compile in a first pass, then time."""
        begin = time.perf_counter()
        self.forward()
        clock.synchronize(self.device)
        first_s = time.perf_counter() - begin
        self.log(f"compiled {dict(blocks)} in {first_s:.1f} s")
        _reset_peak(self.device)
        found = {"what": LABEL, "blocks": dict(blocks), "first_s": first_s} | self.timed(self.forward)
        return found | compile_counts() | {"peak_bytes": _peak(self.device)}

    def compiled_kernels(self, passes: int = 3) -> dict[str, Any]:
        """Kernels by name; passes that were not recorded."""
        events, _ = profile_events(lambda number: self.forward(), self.device, passes, self.forward)
        total = sum(event["dur"] for event in device_work(events))
        return {"passes": passes, "total_us": total / passes, "table": kernel_table(events, passes)}


@contextmanager
def _inference() -> Iterator[None]:
    """No gradients, and no fused encoder layers, as under the exporter."""
    import torch

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _refuse_waiting(forward: Callable[[], Any]) -> None:
    """RuntimeError where the pass waits for the device: a capture would fail and leave the allocator in its midst."""
    import torch

    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        forward()
    finally:
        torch.cuda.set_sync_debug_mode(before)


def collect(device: str) -> None:
    """Give memory back to the device."""
    gc.collect()
    if device.startswith("cuda"):
        import torch

        with suppress(RuntimeError):  # after a capture that failed
            torch.cuda.empty_cache()


def _reset_peak(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()


def _peak(device: str) -> int | None:
    if not device.startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.max_memory_allocated())


def _reason(error: BaseException) -> str:
    """Type and text, with those of what came first."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
    return text if error.__context__ is None else f"{_reason(error.__context__)}; then {text}"[:900]
