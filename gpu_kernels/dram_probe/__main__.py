"""`python -m gpu_kernels.dram_probe`: measure, list the patterns, or show a record."""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpu_kernels.dram_probe import record as records
from gpu_kernels.dram_probe.patterns import GIB, Pattern
from gpu_kernels.dram_probe.suite import FETCH_BYTES, FETCH_PATTERNS, VARIANTS, by_name, suite
from gpu_kernels.dram_probe.tables import tables

VARIANT_BY_NAME = {variant.name: variant for variant in VARIANTS}
EPILOG = """examples:
  python -m gpu_kernels.dram_probe --list                       what is read; needs no GPU
  python -m gpu_kernels.dram_probe --out dram.json              measure everything on the first GPU, about 4 minutes
  python -m gpu_kernels.dram_probe --out kv.json --only kv_64   a part of it; the sequential stream is always measured
  python -m gpu_kernels.dram_probe --show dram.json             tables of a record; needs no GPU

Measuring needs the extra `gpu` (torch, cuda-core, NVRTC), a GPU with up to 64 GiB of free memory (patterns that do not
fit are left out and named) and, for the bytes that DRAM delivered, Nsight Compute's `ncu` on the PATH with permission
to read counters. Clocks are neither set nor locked: the record says what they were."""


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    if given.launch:
        return _launch(json.loads(given.launch.read_text(encoding="utf-8")))
    if given.show:
        print(tables(records.read(given.show)))
    elif given.list:
        for pattern in suite():
            useful, footprint = pattern.useful_bytes / GIB, pattern.footprint_bytes / GIB
            print(f"{pattern.name:28} {useful:6.2f} GiB in {footprint:6.2f} GiB")
    elif given.out:
        record = measure(_chosen(given.only), given.rounds, given.seed, None if given.no_counters else given.ncu)
        records.write(record | records.surroundings(given.commit), given.out)
        print(tables(record))
    else:
        print("nothing to do: give --out FILE, --show FILE or --list; --help explains", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gpu_kernels.dram_probe",
        description="Reads a GPU's DRAM as SpAtten reads its own: sequential, strided and random rows, kept rows of K "
        "and V, an MSB plane and a part of the LSB plane. Records time, useful bandwidth and the bytes DRAM delivered.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="measure and write the record (JSON) to FILE")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the tables of a record")
    parser.add_argument("--list", action="store_true", help="print the patterns")
    parser.add_argument("--only", default="", metavar="REGEX", help="measure only the patterns whose names match")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="repeats of each launch (default 15)")
    parser.add_argument("--seed", type=int, default=2021, metavar="N", help="of the words in the buffer (default 2021)")
    parser.add_argument("--ncu", default="ncu", metavar="PATH", help="Nsight Compute (default: ncu on the PATH)")
    parser.add_argument("--no-counters", action="store_true", help="measure times only, without ncu")
    parser.add_argument("--commit", metavar="HASH", help="commit for the record, where git cannot tell")
    parser.add_argument(
        "--launch", type=Path, metavar="FILE", help="(for the profiler) launch what FILE lists, once each"
    )
    return parser


def _chosen(regex: str) -> list[Pattern]:
    return [pattern for pattern in suite() if pattern.name == "sequential" or re.search(regex, pattern.name)]


def measure(patterns: Sequence[Pattern], rounds: int, seed: int, ncu: str | None) -> dict[str, Any]:
    """The measured part of a record; counters only where `ncu` is given and found."""
    from gpu_kernels.dram_probe.probe import Probe

    fitting, left_out = _fitting(patterns)
    launches = [(pattern, variant) for pattern in fitting for variant in VARIANTS]
    probe = Probe(launches, seed)
    sums = probe.check(launches)
    _say(f"{len(launches)} kernels read what they should")
    rows, states = _timed_rows(probe, fitting, rounds)
    for row in rows:
        row["sum"] = sums[row["name"]]
    fetch = _fetch_rows(probe, fitting, rows, rounds)
    del probe
    if ncu and shutil.which(ncu):
        _count([*rows, *fetch], seed, ncu)
    return {
        "format": "dram_probe 1",
        "seed": seed,
        "rounds": rounds,
        "variants": {variant.name: asdict(variant) for variant in VARIANTS},
        "state": states,
        "left_out": left_out,
        "patterns": rows,
        "fetch_limit": fetch,
    }


def _fitting(patterns: Sequence[Pattern]) -> tuple[list[Pattern], list[str]]:
    import torch

    room = int(0.9 * torch.cuda.mem_get_info()[0])
    left_out = [pattern.name for pattern in patterns if pattern.footprint_bytes > room]
    return [pattern for pattern in patterns if pattern.name not in left_out], left_out


def _timed_rows(probe: Any, patterns: Sequence[Pattern], rounds: int) -> tuple[list[dict[str, Any]], list[Any]]:
    launches = [(pattern, variant) for pattern in patterns for variant in VARIANTS]
    probe.round(launches)
    results = [probe.round(launches) for _ in range(rounds)]
    columns = list(zip(*(times for times, _ in results), strict=True))
    rows = []
    for index, pattern in enumerate(patterns):
        mine = columns[index * len(VARIANTS) : (index + 1) * len(VARIANTS)]
        times = {variant.name: list(column) for variant, column in zip(VARIANTS, mine, strict=True)}
        row = records.described(pattern) | records.timed(times, pattern.useful_bytes)
        rows.append(row | dict(zip(("registers", "local_bytes"), probe.resources(pattern, _best(row)), strict=True)))
    records.with_ratios(rows)
    return rows, [state for _, state in results]


def _best(row: dict[str, Any]) -> Any:
    return VARIANT_BY_NAME[row["best"]]


def _fetch_rows(probe: Any, patterns: Sequence[Pattern], rows: Sequence[dict[str, Any]], rounds: int) -> list[Any]:
    """Some patterns again under each setting of the limit on the L2's fetch granularity."""
    from gpu_kernels.dram_probe.probe import fetch_limits

    best = {row["name"]: _best(row) for row in rows}
    launches = [(pattern, best[pattern.name]) for pattern in patterns if pattern.name in FETCH_PATTERNS]
    found = []
    for limit in fetch_limits(FETCH_BYTES):
        columns = zip(*(probe.round(launches)[0] for _ in range(rounds)), strict=True)
        for (pattern, variant), column in zip(launches, columns, strict=True):
            times = records.timed({variant.name: list(column)}, pattern.useful_bytes)
            found.append({"name": pattern.name, "fetch_limit_bytes": limit} | times)
    return found


def _count(rows: Sequence[dict[str, Any]], seed: int, ncu: str) -> None:
    import torch

    from gpu_kernels.dram_probe.counters import count

    torch.cuda.empty_cache()
    plan = [
        {"pattern": row["name"], "variant": row["best"], "fetch_limit_bytes": row.get("fetch_limit_bytes")}
        for row in rows
    ]
    for row, counters in zip(rows, count(plan, seed, ncu), strict=True):
        row["counters"] = counters


def _launch(plan: dict[str, Any]) -> int:
    """What the profiler watches: each launch of the plan once, in order."""
    import torch

    from gpu_kernels.dram_probe.probe import Probe, fetch_limit

    launches = [(by_name(row["pattern"]), VARIANT_BY_NAME[row["variant"]]) for row in plan["launches"]]
    probe = Probe(launches, plan["seed"])
    before = fetch_limit()
    for row, (pattern, variant) in zip(plan["launches"], launches, strict=True):
        fetch_limit(row["fetch_limit_bytes"] or before)
        probe.launch(pattern, variant)
        torch.cuda.synchronize()
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
