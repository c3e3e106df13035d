"""One run of the bench: ceilings first, then part after part; the record is on disk after every row."""

import time
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gpu_kernels import record, runtime
from gpu_kernels.bench.contest import guarded
from gpu_kernels.bench.parts import PARTS, counts, rows_of
from gpu_kernels.bench.variants import compile_all, wanted

FORMAT = "kernels_bench 1"
SOURCES = ("bench/ceilings.cu", "bench/timing.py", "bench/shapes.py")
Progress = Callable[[int, int, str], None]  # rows done, of all, what was done last


def chosen_parts(names: str | None) -> tuple[str, ...]:
    """Parts by name, with commas between; all without. Raises ValueError for an unknown one."""
    if not names:
        return PARTS
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in PARTS:
            near = get_close_matches(name, PARTS, 1)
            hint = f"; nearest: {near[0]}" if near else ""
            raise ValueError(f"--part: must be some of {', '.join(PARTS)}, got {name!r}{hint}")
    return tuple(name for name in PARTS if name in wanted)


def kernel_sources() -> tuple[str, ...]:
    """Every CUDA source that may be timed, and the tiles it is timed with."""
    kept = [file.relative_to(runtime.FOLDER).as_posix() for file in sorted(runtime.FOLDER.glob("*/*.cu"))]
    configured = [f"{name.rpartition('/')[0]}/config.py" for name in kept]
    probes = ("arithmetic_probe/", "dram_probe/", "bench/")
    names = [name for name in (*kept, *dict.fromkeys(configured)) if not name.startswith(probes)]
    return (*SOURCES, *(name for name in names if (runtime.FOLDER / name).is_file()))


def run_bench(
    parts: Sequence[str] = PARTS,
    out: Path | None = None,
    commit: str | None = None,
    progress: Progress = lambda done, total, text: None,
) -> dict[str, Any]:
    """Measure on torch's current GPU; the record, written to `out` after every row.

    Raises ValueError without a GPU, ArithmeticError where the ceilings that all floors need could not be measured.
    """
    try:
        runtime.architecture()
    except RuntimeError as fault:
        raise ValueError(str(fault)) from None
    begin, total, done = time.time(), sum(counts(part) for part in parts) + 1 + ("ceilings" not in parts), 0
    with record.Watch() as watch:
        found: dict[str, Any] = {"format": FORMAT, **record.surroundings(commit)}
        found |= {"sources": record.source_hashes(kernel_sources()), "parts": list(parts), "ceilings": {}, "rows": []}
        for text in _steps(found, parts, watch):
            done += 1
            found |= {"seconds": round(time.time() - begin, 1), "state": watch.since(begin)}
            if out:
                record.write(found, out)
            progress(done, total, text)
    return found


def _steps(found: dict[str, Any], parts: Sequence[str], watch: record.Watch) -> Iterator[str]:
    """Fill the record, step by step; what each was."""
    from gpu_kernels.bench.ceilings import ceilings

    here = found["architecture"]
    some = wanted(parts, here, runtime.multiprocessors())
    found["compiled"] = guarded(lambda: {"variants": compile_all(some, here)})
    yield "compiled"
    found["ceilings"] = ceilings("ceilings" in parts, watch)
    yield "ceilings"
    rates = [name for name in found["ceilings"] if name.startswith(("read_bytes", "int8_", "mma_"))]
    if len(rates) < 2 and set(parts) != {"ceilings"}:
        raise ArithmeticError(f"no floors without read bandwidth and an INT8 rate: {found['ceilings'].get('refused')}")
    limits = found["ceilings"] | {"l2_bytes": found["l2_bytes"]}
    for part in (part for part in parts if part != "ceilings"):
        begin = time.time()
        yield from _rows(found, part, limits)
        found.setdefault("seconds_by_part", {})[part] = round(time.time() - begin, 1)


def _rows(found: dict[str, Any], part: str, limits: dict[str, Any]) -> Iterator[str]:
    rows = rows_of(part)(limits)
    while True:
        step = guarded(lambda: {"row": next(rows, None)})
        row = step.get("row", {"part": part, "name": "", "columns": {}} | step)
        if row is None:
            return
        found["rows"].append(row)
        yield f"{part} {row['name']}"
        if "row" not in step:
            return
