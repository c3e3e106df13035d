"""`python -m gpu_kernels`: as `tilewright kernels`, for a machine that has the extra `gpu` and nothing else of ours."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_kernels import check as checks
from gpu_kernels import record
from gpu_kernels.bench.calibration.suite import chosen_parts as chosen_sources
from gpu_kernels.bench.calibration.suite import run_calibration
from gpu_kernels.bench.suite import FORMAT, chosen_parts, run_bench
from gpu_kernels.bench.tables import markdown


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, 3 where a case is wrong, 2 for a mistake or a package that is missing."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.run(given))
    except ModuleNotFoundError as missing:
        print(f"this needs {missing.name}: pip install '.[gpu]'", file=sys.stderr)
    except (ValueError, OSError, ArithmeticError) as mistake:
        print(mistake, file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gpu_kernels", description=__doc__)
    commands = parser.add_subparsers(required=True)
    check = commands.add_parser("check", help="numerics of every kernel against its model")
    check.add_argument("--kernel", action="append", default=[], metavar="NAME", help="only this folder; repeat")
    bench = commands.add_parser("bench", help="times beside torch's and beside what the card can do")
    bench.add_argument("--part", metavar="NAMES", help="some parts, with commas between")
    calibrate = commands.add_parser("calibrate", help="points for fitting GPU models; some are held out beforehand")
    calibrate.add_argument("--part", metavar="NAMES", help="some parts, with commas between")
    calibrate.add_argument("--quick", action="store_true", help="a few points of each part, to see that all runs")
    for one, run in ((check, _check), (bench, _bench), (calibrate, _calibrate)):
        one.add_argument("--out", type=Path, metavar="FILE", help="also write the record (JSON)")
        one.add_argument("--commit", metavar="HASH", help="commit for the record, where git cannot tell")
        one.set_defaults(run=run)
    show = commands.add_parser("show", help="the tables of a bench's record, as Markdown")
    show.add_argument("file", type=Path)
    show.set_defaults(run=_show)
    return parser


def _check(given: argparse.Namespace) -> int:
    some = checks.for_this_gpu(checks.chosen(given.kernel))
    rows = checks.run_checks(some, _told)
    if given.out:
        record.write(checks.full_record(some, rows, given.commit), given.out)
    wrong = sum(bool(row["fault"]) for row in rows)
    print(f"{len(rows)} cases, {wrong} wrong")
    return 3 if wrong else 0


def _told(row: Mapping[str, Any], done: int, total: int) -> None:
    seconds = f"GPU {row['gpu_s']:.2f} s, model {row['model_s']:.2f} s"
    print(f"{done}/{total} {row['kernel']} {row['case']['name']}: {row['fault'] or 'ok'} ({seconds})", flush=True)


def _bench(given: argparse.Namespace) -> int:
    found = run_bench(chosen_parts(given.part), given.out, given.commit, _said)
    print(markdown(found))
    return 0


def _said(done: int, total: int, text: str) -> None:
    print(f"{done}/{total} {text}", file=sys.stderr, flush=True)


def _calibrate(given: argparse.Namespace) -> int:
    parts = chosen_sources(given.part)
    run_calibration(parts, given.out, given.commit, given.quick, lambda text: print(text, file=sys.stderr, flush=True))
    return 0


def _show(given: argparse.Namespace) -> int:
    print(markdown(record.read(given.file, FORMAT)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
