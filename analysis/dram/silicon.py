"""The HBM3E model beside an H200's DRAM: the address streams that the probe read, through the controller.

Run `python -m analysis.dram.silicon --help`. The model is told the number of channels and the memory clock; the map,
the queues and the timings are those of `standards/hbm3e.yaml`. Compared is the useful bandwidth of each pattern over
that of the sequential stream of the same run: a prediction, made before any other map was tried.

The column `hashed_map` came after it, to find out why it misses: the same controller with 256 bytes in a channel before
the next, and channels mixed with row and bank bits. It is an explanation, not a prediction.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from analysis.writing import put_on_page, replacing
from dataflow.memory import default_spec
from gpu_kernels.dram_probe.patterns import Pattern, requests
from gpu_kernels.dram_probe.record import read, rebuilt
from sim.dram.spec import DramSpec
from sim.dram.stream import RequestStream

FETCH_BYTES = 64  # what the H200 fetches at least: the probe's DRAM bytes of 32-byte rows
RESULTS = Path(__file__).parents[2] / "gpu_kernels" / "results"
RECORDS = ("dram_probe_h200.json", "dram_probe_h200_second_card.json")
HEAD = ("pattern", "silicon", "second_card", "model", "error", "model_limited_by", "hashed_map", "role")
SIZES, KEPT, SHARES = (32, 64, 128, 256), (5, 10, 25, 50, 75, 100), (6, 25, 50)
STRIDES = (128, 256, 512, 1024, 2048, 4096, 65536)
_PIECE_COLUMNS = 3  # of 32 bytes: 256 bytes
_HASHED_CHANNEL_BITS = 6  # the mix needs a power of two; ratios do not depend on the number of channels


@dataclass(frozen=True)
class Compared:
    """Useful bandwidth over that of the sequential stream: on two cards, and in the model."""

    pattern: str
    silicon: float
    second_card: float
    model: float
    limited_by: str
    hashed_map: float

    @property
    def error(self) -> float:
        """Of the model, relative to the first card."""
        return self.model / self.silicon - 1

    def cells(self) -> tuple[Any, ...]:
        ratios = (f"{x:.3f}" for x in (self.silicon, self.second_card, self.model))
        return (self.pattern, *ratios, f"{self.error:+.3f}", self.limited_by, f"{self.hashed_map:.3f}", "prediction")


def useful_rate(spec: DramSpec, pattern: Pattern) -> tuple[float, str]:
    """Useful bytes a memory cycle of a pattern as fast as the controller takes it, and what limited it most."""
    addresses = requests(pattern.starts(0, pattern.rows), pattern.row_bytes, FETCH_BYTES)
    stream, zero = RequestStream(spec, "asap", FETCH_BYTES), np.zeros(1 << 18, np.int64)
    for start in range(0, len(addresses), len(zero)):
        part = addresses[start : start + len(zero)]
        stream.feed(zero[: len(part)], part, np.zeros(len(part), bool))
    result = stream.finish()
    return pattern.useful_bytes / result.cycles, max(result.idle, key=lambda cause: result.idle[cause])


def with_hashed_map(spec: DramSpec) -> DramSpec:
    """The same controller on 64 channels with pieces of 256 bytes, every channel bit mixed with several others."""
    width = {name: sum(bits for field, bits in spec.fields if field == name) for name, _ in spec.fields}
    groups, banks, columns, channels = width["bank_group"], width["bank"], width["column"], _HASHED_CHANNEL_BITS
    fields = (
        ("column", _PIECE_COLUMNS), ("channel", channels), ("pseudo_channel", width["pseudo_channel"]),
        ("bank_group", groups), ("column", columns - _PIECE_COLUMNS), ("bank", banks), ("row", width["row"]),
    )  # fmt: skip
    others = [("bank_group", i) for i in range(groups)] + [("bank", i) for i in range(banks)]
    others += [("pseudo_channel", i) for i in range(width["pseudo_channel"])]
    others += [("column", i) for i in range(_PIECE_COLUMNS, columns)] + [("row", i) for i in range(channels)]
    mixed = [("channel", i % channels, *other) for i, other in enumerate(others)]
    mixed += [("bank_group", i, "row", channels + 1 + i) for i in range(groups)]
    mixed += [("pseudo_channel", i, "row", channels + i) for i in range(width["pseudo_channel"])]
    return replace(spec, channels=1 << channels, fields=fields, xor=tuple(mixed))


def compare(spec: DramSpec, records: Sequence[dict[str, Any]], useful_bytes: int) -> list[Compared]:
    """Every pattern of the first record, its beginning of that many useful bytes."""
    ratios = [{row["name"]: row["ratio"] for row in record["patterns"]} for record in records]
    rows = [row for row in records[0]["patterns"] if row["fields"]["kind"] != "cached"]
    streams = {row["name"]: rebuilt(row).prefix(useful_bytes) for row in rows}
    plain, hashed = (
        {name: useful_rate(s, stream) for name, stream in streams.items()} for s in (spec, with_hashed_map(spec))
    )
    one, other = plain["sequential"][0], hashed["sequential"][0]
    return [
        Compared(name, ratios[0][name], ratios[-1][name], rate / one, cause, hashed[name][0] / other)
        for name, (rate, cause) in plain.items()
    ]


def as_csv(rows: Iterable[Compared]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEAD)
    writer.writerows(row.cells() for row in rows)
    return text.getvalue()


def markdown(rows: Sequence[Compared]) -> str:
    """Two tables for a page: K and V rows by size and kept share, then planes, random rows and strides.

    A cell holds silicon / model / model with the hashed map.
    """
    cell = {row.pattern: f"{row.silicon:.2f} / {row.model:.2f} / {row.hashed_map:.2f}" for row in rows}
    kept = [(f"{size} B", *(cell[f"kv_{size}_keep{keep}"] for keep in KEPT)) for size in SIZES]
    planes = [
        (f"MSB plane of {size} B rows, then {share} % of the LSB rows", cell[f"planes_{size}_keep100_lsb{share}"])
        for size in SIZES
        for share in SHARES
    ]
    planes += [(f"the same, 64 B, 50 % kept, {share} %", cell[f"planes_64_keep50_lsb{share}"]) for share in SHARES]
    other = [(f"random {size} B", cell[f"random_{size}_in_16GiB"]) for size in SIZES]
    other += [(f"64 B every {stride} B", cell[f"strided_{stride}_read_64"]) for stride in STRIDES]
    return "\n\n".join(
        [
            as_markdown(("K/V rows, kept", *(f"{keep} %" for keep in KEPT)), kept),
            as_markdown(("pattern", "silicon / model / hashed map"), planes + other),
            _errors(rows),
        ]
    )


def _errors(rows: Sequence[Compared]) -> str:
    gathers = [abs(row.error) for row in rows if row.pattern.startswith(("kv", "planes"))]
    others = [abs(row.error) for row in rows if not row.pattern.startswith(("kv", "planes"))]
    explained = [abs(row.hashed_map / row.silicon - 1) for row in rows]
    return (
        f"Mean error of the prediction: {np.mean(gathers):.1%} over gathers and planes, {np.mean(others):.1%} over "
        f"random rows and strides, {np.max(gathers + others):.0%} at most. "
        f"With the hashed map: {np.mean(explained):.1%} over all."
    )


def as_markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(
    out: Annotated[Path, typer.Option(help="The CSV to write.")] = Path("dram_silicon.csv"),
    standard: Annotated[str, typer.Option(help="The DRAM standard of the model.")] = "hbm3e",
    mebibytes: Annotated[int, typer.Option(min=1, help="Useful bytes of each pattern to simulate, in MiB.")] = 32,
    page: Annotated[Path | None, typer.Option(help="A page whose table is made anew.")] = None,
) -> None:
    """Simulate the streams of the probe's record and put the ratios side by side."""
    records = [read(RESULTS / name) for name in RECORDS]
    rows = compare(default_spec(standard), records, mebibytes << 20)
    with replacing(out) as scratch:
        scratch.write_text(as_csv(rows), encoding="utf-8")
    if page:
        put_on_page(page, markdown(rows), "silicon")
    typer.echo(f"wrote {out}: {len(rows)} patterns. {_errors(rows)}")


if __name__ == "__main__":
    typer.run(main)
