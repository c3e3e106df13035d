"""Our DRAM model beside two cycle-level simulators on the same traces: a table, a plot and a score.

    python -m analysis.dram.agreement --references DIR --traces DIR --out DIR [--page docs/dram.md]

references   `ramulator2.json` and `dramsim3.json`: {"simulator": {name, version, commit}, "rows": [...]}; a row has
             config, trace, mapping, mode, refresh, scheduler, cycles_nck, row_hit_rate_by_acts, burst_read_latency_nck
traces       `<trace>.csv`
page         its text between the two `agreement` comments is replaced by the table

The bars are those that were set before the model was written (`WIDTHS`); every row is shown, inside or not.
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIMULATORS = ("ramulator2", "dramsim3")
SCHEDULERS = {"FRFCFSRowHit": "fr_fcfs", "FRFCFS": "fr_fcfs_unprotected"}  # Ramulator's names
WIDTHS = {  # share of the run time by which the interval of the two references is widened
    "sequential": 0.02, "stride": 0.02, "random": 0.02, "timed": 0.02,
    "chase": 0.03, "gather": 0.03, "plane": 0.03, "mixed": 0.08,
}  # fmt: skip
ALONE = 0.05  # where the second reference leaves out what decides, the first counts alone
HIT_POINTS, HIT_POINTS_HARD = 0.01, 0.02  # hit rate: distance from the nearer reference
LATENCY_SHARE, LATENCY_CYCLES, LATENCY_BUSY = 0.05, 3.0, 0.10  # unloaded: from the nearer one; loaded: interval widened
SPARSE = ("kv64_k10", "kv128_k10", "plane_l06")  # low kept ratios
MEAN_ERROR = 0.02  # over gathers and planes of a standard, from the middle of the two
_KINDS = {"seq": "sequential", "stride": "stride", "rand": "random", "kv": "gather", "plane": "plane",
          "mix": "mixed", "chase": "chase"}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One trace on one configuration. Cycles of the memory clock; NaN where a simulator has no such row.

    low, high   the interval that the bar allows for `cycles`; `alone`: around Ramulator only
    """

    config: str
    trace: str
    mapping: str
    mode: str
    refresh: bool
    scheduler: str
    kind: str
    cycles: float
    ramulator2_cycles: float
    dramsim3_cycles: float
    low: float
    high: float
    alone: bool
    within: bool
    error: float
    row_hit_rate: float
    ramulator2_row_hit_rate: float
    dramsim3_row_hit_rate: float
    row_hits_within: bool
    mean_read_latency_cycles: float
    ramulator2_mean_read_latency_cycles: float
    dramsim3_mean_read_latency_cycles: float
    latency_within: bool

    @property
    def is_default(self) -> bool:
        """Whether the standard's own configuration was run."""
        return (self.mapping, self.refresh, self.scheduler) == ("bgi", True, "fr_fcfs")

    @property
    def spread(self) -> float:
        """Half the distance of the two references, as a share of their middle."""
        both = self.ramulator2_cycles, self.dramsim3_cycles
        return abs(both[0] - both[1]) / sum(both)

    @property
    def name(self) -> str:
        """What was run."""
        refresh = "" if self.refresh else " no refresh"
        return f"{self.config} {self.trace} {self.mapping} {self.mode}{refresh} {self.scheduler}"


Key = tuple[str, str, str, str, bool]
NONE = float("nan")


def read_references(folder: Path) -> tuple[list[dict[str, Any]], dict[Key, dict[str, Any]], list[dict[str, str]]]:
    """Rows of Ramulator, of DRAMsim3 by what was run, and both simulators' name, version and commit."""
    documents = [json.loads((folder / f"{name}.json").read_text("utf-8")) for name in SIMULATORS]
    others = {_key(row): row for row in documents[1]["rows"]}
    return documents[0]["rows"], others, [document["simulator"] for document in documents]


def _key(row: Mapping[str, Any]) -> Key:
    return row["config"], row["trace"], row["mapping"], row["mode"], row["refresh"]


def kind_of(trace: str, mode: str) -> str:
    """The family of traces that a bar is set for."""
    if mode == "timed":
        return "timed"
    return next(kind for start, kind in _KINDS.items() if trace.startswith(start))


def compare(reference: Mapping[str, Any], other: Mapping[str, Any] | None, ours: Mapping[str, Any]) -> Row:
    """One row: `ours` as `tilewright dram run --json` tells it; `other` is None where only Ramulator has it."""
    kind = kind_of(reference["trace"], reference["mode"])
    alone = other is None or _alone(reference)
    both = (reference["cycles_nck"], other["cycles_nck"] if other else NONE)
    low, high = _interval(both, WIDTHS[kind], alone)
    middle = both[0] if alone else (both[0] + both[1]) / 2
    hits = (reference["row_hit_rate_by_acts"], other["row_hit_rate_by_acts"] if other else NONE)
    latencies = (_latency(reference), _latency(other) if other else NONE)
    cycles, hit_rate = ours["cycles"], ours["row_hit_rate"]
    hard = kind == "mixed" or reference["trace"].startswith(SPARSE)
    return Row(
        **{name: reference[name] for name in ("config", "trace", "mapping", "mode", "refresh")},
        scheduler=SCHEDULERS[reference["scheduler"]], kind=kind,
        cycles=cycles, ramulator2_cycles=both[0], dramsim3_cycles=both[1],
        low=low, high=high, alone=alone, within=low <= cycles <= high, error=cycles / middle - 1,
        row_hit_rate=hit_rate, ramulator2_row_hit_rate=hits[0], dramsim3_row_hit_rate=hits[1],
        row_hits_within=min(abs(hit_rate - x) for x in hits if x == x) <= (HIT_POINTS_HARD if hard else HIT_POINTS),
        mean_read_latency_cycles=ours["mean_read_latency_cycles"],
        ramulator2_mean_read_latency_cycles=latencies[0], dramsim3_mean_read_latency_cycles=latencies[1],
        latency_within=_latency_fits(ours["mean_read_latency_cycles"], latencies, kind),
    )  # fmt: skip


def _alone(reference: Mapping[str, Any]) -> bool:
    """DRAMsim3 has no row-command bus that pseudo-channels share, and no look-ahead over rows of one bank group.

    A plain FR-FCFS, without protection of row hits, exists in Ramulator alone.
    """
    random_hbm2 = reference["config"] == "hbm2" and reference["trace"] in ("rand", "mixr")
    column_lowest = reference["config"] == "ddr4" and reference["mapping"] == "rbc"
    return random_hbm2 or column_lowest or SCHEDULERS[reference["scheduler"]] != "fr_fcfs"


def _interval(both: tuple[float, float], width: float, alone: bool) -> tuple[float, float]:
    if alone:
        return both[0] * (1 - ALONE), both[0] * (1 + ALONE)
    return min(both) * (1 - width), max(both) * (1 + width)


def _latency_fits(ours: float, both: tuple[float, float], kind: str) -> bool:
    """No bar for mixed traffic: how writes are drained decides, and the two are 22 % apart."""
    given = [x for x in both if x == x]
    if kind in ("timed", "chase"):
        return any(abs(ours - x) <= max(LATENCY_SHARE * x, LATENCY_CYCLES) for x in given)
    return kind == "mixed" or min(given) * (1 - LATENCY_BUSY) <= ours <= max(given) * (1 + LATENCY_BUSY)


def _latency(row: Mapping[str, Any]) -> float:
    return float(row["burst_read_latency_nck"]["avg"])


def run_ours(reference: Mapping[str, Any], traces: Path) -> dict[str, Any]:
    """The same trace on ours, configured as that row was."""
    from analysis.dram.report import run_requests
    from workloads.request_trace import read_requests

    options = {
        "map": reference["mapping"],
        "scheduler": SCHEDULERS[reference["scheduler"]],
        "refresh": "all_bank" if reference["refresh"] else "none",
    }
    requests = read_requests(traces / f"{reference['trace']}.csv")
    return run_requests(reference["config"], requests, reference["mode"], **options).to_dict()


def mean_errors(rows: Iterable[Row], default_only: bool = False) -> dict[str, float]:
    """Mean |error| from the middle of the two, over untimed gathers and planes, by configuration."""
    errors: dict[str, list[float]] = {}
    for row in rows:
        if row.kind in ("gather", "plane") and not row.alone and (row.is_default or not default_only):
            errors.setdefault(row.config, []).append(abs(row.error))
    return {config: sum(some) / len(some) for config, some in errors.items()}


def summary(rows: list[Row]) -> dict[str, Any]:
    """The score, every failed row by name."""
    return {
        "rows": len(rows),
        "time_within": sum(row.within for row in rows),
        "hits_within": sum(row.row_hits_within for row in rows),
        "latency_within": sum(row.latency_within for row in rows),
        "mean_error_bar": MEAN_ERROR,
        "mean_error_of_gathers_and_planes": mean_errors(rows),
        "mean_error_of_those_in_the_default_configuration": mean_errors(rows, default_only=True),
        "time_outside": {row.name: f"{row.error:+.2%}" for row in rows if not row.within},
        "hits_outside": {row.name: round(row.row_hit_rate, 4) for row in rows if not row.row_hits_within},
        "latency_outside": {row.name: row.mean_read_latency_cycles for row in rows if not row.latency_within},
    }


def main(arguments: list[str] | None = None) -> int:
    """Run, write `dram_agreement.csv`, `.json`, `.png`, `dram_references.csv`; exit status 1 where a bar is not met."""
    from analysis.cache import use_kernel_cache

    use_kernel_cache()
    from analysis.dram.views import draw, markdown, write_table
    from analysis.writing import put_on_page

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("references", "traces", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--page", type=Path)
    given = parser.parse_args(arguments)
    references, others, simulators = read_references(given.references)
    rows = [compare(row, others.get(_key(row)), run_ours(row, given.traces)) for row in references]
    given.out.mkdir(parents=True, exist_ok=True)
    write_table(rows, simulators, given.out / "dram_agreement.csv")
    write_table(rows, simulators, given.out / "dram_references.csv", facts_only=True)
    draw(rows, given.out / "dram_agreement.png")
    score = summary(rows)
    text = json.dumps(score, indent=1)
    (given.out / "dram_agreement.json").write_text(text + "\n", "utf-8")
    print(text)
    if given.page:
        put_on_page(given.page, markdown(rows))
    good = score["time_within"] == score["hits_within"] == score["latency_within"] == len(rows)
    return 0 if good and max(score["mean_error_of_gathers_and_planes"].values()) <= MEAN_ERROR else 1


if __name__ == "__main__":
    raise SystemExit(main())
