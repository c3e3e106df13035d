"""The HBM3E model beside an H200's DRAM: the address streams that the probe read, through the controller.

Run `python -m analysis.dram_silicon --help`. The model is told the number of channels and the memory clock; the map,
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

from analysis.writing import replacing
from dataflow.memory import default_spec
from gpu_kernels.dram_probe.patterns import Pattern, requests
from gpu_kernels.dram_probe.record import read, rebuilt
from sim.dram.spec import DramSpec
from sim.dram.stream import RequestStream

FETCH_BYTES = 64  # what the H200 fetches at least: the probe's DRAM bytes of 32-byte rows
RESULTS = Path(__file__).parent.parent / "gpu_kernels" / "results"
RECORDS = ("dram_probe_h200.json", "dram_probe_h200_second_card.json")
HEAD = ("pattern", "silicon", "second_card", "model", "error", "model_limited_by", "hashed_map", "role")
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


def main(
    out: Annotated[Path, typer.Option(help="The CSV to write.")] = Path("dram_silicon.csv"),
    standard: Annotated[str, typer.Option(help="The DRAM standard of the model.")] = "hbm3e",
    mebibytes: Annotated[int, typer.Option(min=1, help="Useful bytes of each pattern to simulate, in MiB.")] = 32,
) -> None:
    """Simulate the streams of the probe's record and put the ratios side by side."""
    records = [read(RESULTS / name) for name in RECORDS]
    rows = compare(default_spec(standard), records, mebibytes << 20)
    with replacing(out) as scratch:
        scratch.write_text(as_csv(rows), encoding="utf-8")
    gathers = [abs(row.error) for row in rows if row.pattern.startswith(("kv", "planes"))]
    typer.echo(
        f"wrote {out}: {len(rows)} patterns, mean |error| {np.mean([abs(row.error) for row in rows]):.1%}, "
        f"of gathers and planes {np.mean(gathers):.1%}"
    )


if __name__ == "__main__":
    typer.run(main)
