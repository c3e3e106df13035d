"""`python -m gpu_kernels.arithmetic_probe`: probe the first GPU's arithmetic, or show a record."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_kernels.arithmetic_probe.record import measure, read


def table(record: dict[str, Any]) -> str:
    """Markdown: results compared and wrong, by instruction."""
    counts: dict[str, list[int]] = {}
    for row in (*record["products"], *record["scalars"]):
        count = counts.setdefault(row["instruction"], [0, 0])
        count[0] += row["checked"]
        count[1] += row["wrong"]
    lines = ["| instruction | results compared | unlike our rule |", "| --- | --- | --- |"]
    lines += [f"| {name} | {checked:,} | {wrong} |" for name, (checked, wrong) in counts.items()]
    lines += ["", "| approximate | from | to | largest error, units in the last place |", "| --- | --- | --- | --- |"]
    lines += [
        "| {instruction} | {from} | {to} | {largest_error_units} |".format(**row) for row in record["approximate"]
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gpu_kernels.arithmetic_probe", description=__doc__)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--out", type=Path, metavar="FILE", help="probe the first GPU, write the record (JSON)")
    choice.add_argument("--show", type=Path, metavar="FILE", help="table of a record; needs no GPU")
    parser.add_argument("--commit", metavar="HASH", help="commit for the record")
    given = parser.parse_args(arguments)
    if given.out:
        record = measure(given.commit)
        given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    else:
        record = read(given.show)
    print(table(record))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
