"""`tilewright run`: one point, told in full."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from analysis.api import Engine, Memory, other_configuration, simulate_point
from analysis.console import Json, guarded, put_json, put_table, put_text, say
from analysis.writing import check_writable

Engines = Annotated[Engine, typer.Option(help="Both give the same cycles; simpy is the slow reference.")]
Memories = Annotated[Memory, typer.Option(help="ideal: memory answers at once.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override, e.g. machine.units.topk.comparators=4."),
]
Policies = Annotated[
    list[str] | None,
    typer.Option("--policy", metavar="KEY=VALUE", help="Pruning and formats, e.g. token_keep=0.5."),
]
_COUNTED = {  # how the released traces name them
    "rows": "rows (a head of a layer, a step)",
    "k_vectors": "K vectors",
    "v_vectors": "V vectors",
    "lsb_rows": "rows that need the low bits of K",
}


@guarded
def run(
    machine: Annotated[str, typer.Option(help="A shipped machine or a YAML file.")],
    workload: Annotated[str, typer.Option(help="A shipped workload, a trace file or a released CSV.")],
    settings: Settings = None,
    policies: Policies = None,
    engine: Engines = "compiled",
    memory: Memories = "dram",
    timeline: Annotated[Path | None, typer.Option(help="Write a Perfetto trace of the SimPy run.")] = None,
    as_json: Json = False,
) -> None:
    """Simulate one point and say what limited it.

    tilewright run --machine spatten --workload minilm

    tilewright run --machine spatten --workload minilm --policy token_keep=0.5 --set machine.memory.channels=8

    tilewright run --machine spatten --workload minilm --timeline out.json   (open it at ui.perfetto.dev)

    tilewright run --machine h200 --workload flux_dev --policy execution=compiled_graph --policy scheme=svdquant_int4
    """
    check_writable("--timeline", timeline)
    overrides, policy = assignments(settings), assignments(policies)
    names = ("--set", "--policy")
    result = simulate_point(machine, workload, overrides, policy, engine, memory, timeline, names)
    other = _other(machine, workload, overrides, policy, names) if memory == "dram" else None
    if as_json:
        put_json(result.to_dict() | ({"other_dram_configuration": other} if other else {}))
    else:
        put_result(result)
        if other:
            _put_other(result.to_dict(), other)
    if timeline:
        say(f"wrote {timeline}")


def _other(
    machine: str, workload: str, overrides: dict[str, Any], policy: dict[str, Any], names: tuple[str, str]
) -> dict[str, Any] | None:
    """The totals of the same point with the machine's other DRAM configuration, None where it has none."""
    found = other_configuration(machine, overrides)
    if found is None:
        return None
    row = simulate_point(found[0], workload, found[1], policy, origins=names).to_dict()
    keys = ("machine", "cycles", "latency_s", "dram_read_bytes", "dram_write_bytes", "energy_j", "limited_by")
    return {key: row[key] for key in keys}


def _put_other(row: dict[str, Any], other: dict[str, Any]) -> None:
    from analysis.quantities import shown

    keys = ("latency_s", "energy_j")
    lines = [(one["machine"], *(shown(key, one[key]) for key in keys), one["limited_by"]) for one in (row, other)]
    put_table("With either of its DRAM configurations", ["", "latency", "energy", "limited by"], lines)
    put_text(
        "Its sources disagree about the timings and the address map of its memory, so both are shown: "
        f"`tilewright machine show {other['machine']}` has the other with its origin on each line."
    )


def assignments(pairs: Iterable[str] | None) -> dict[str, Any]:
    """`["a.b=4", "c=[1, 0.5]"]` as a dictionary; raises ValueError for an entry without `=` or a repeated key."""
    found: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"must be written key=value, got {pair!r}")
        if key.strip() in found:
            raise ValueError(f"{key.strip()}: given twice, as {found[key.strip()]} and {text.strip()}")
        found[key.strip()] = _value(text.strip())
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def put_result(result: Any) -> None:
    """The point as tables on stdout."""
    from analysis.quantities import COUNTS, shown

    row = result.to_dict()
    area = shown("area_mm2", row["area_mm2"]) if row["area_mm2"] else "not modelled"
    totals = [
        ("latency", f"{shown('latency_s', row['latency_s'])}  ({row['cycles']:,} cycles)".replace(",", " ")),
        *_band(row),
        ("limited by", row["limited_by"]),
        ("DRAM read", shown("dram_bytes", row["dram_read_bytes"])),
        ("DRAM written", shown("dram_bytes", row["dram_write_bytes"])),
        ("energy", shown("energy_j", row["energy_j"])),
        ("area", area),
        ("executed", shown("executed_gops_per_s", row["executed_gops_per_s"])),
        ("effective (nothing pruned)", shown("effective_gops_per_s", row["effective_gops_per_s"])),
    ]
    put_table(f"{row['machine']} runs {row['workload']}", ["", ""], totals)
    counts = [(_COUNTED.get(key, key.replace("_", " ")), shown(key, row[key])) for key in COUNTS if key in row]
    if counts:
        put_table("Work", ["", ""], counts)
    _put_parts("Time on the device, by kind", _largest(row.get("latency_s_by_kind", {})), "latency_s")
    _put_parts("DRAM bytes read, by operand", row["dram_read_bytes_by_operand"], "dram_bytes")
    _put_parts("Energy, by component", row["energy_j_by_component"], "energy_j")
    _put_parts("What the time went to", row["critical_path_cycles_by_unit"], "cycles")
    busy = row["utilisation_by_unit"].items()
    put_table("Busy share of the run", ["unit", "busy", ""], [(unit, f"{x:.1%}", _bar(x)) for unit, x in busy])
    if row["left_out"]:
        put_text("Left out: " + "; ".join(row["left_out"]))


def _band(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How a GPU executes the model, and between what its latency lies."""
    from analysis.quantities import shown

    if "execution" not in row:
        return []
    low, high = (shown("latency_s", row[key]) for key in ("latency_low_s", "latency_high_s"))
    return [("90 % of measurements", f"{low} to {high}"), ("executed as", row["execution"].replace("_", " "))]


def _largest(parts: Mapping[str, float], most: int = 10) -> dict[str, float]:
    """The largest parts, and the sum of the others."""
    ordered = sorted(parts.items(), key=lambda item: -item[1])
    rest = sum(value for _, value in ordered[most:])
    return dict(ordered[:most]) | ({"others": rest} if rest else {})


def _put_parts(title: str, parts: Mapping[str, float], key: str) -> None:
    from analysis.quantities import shown

    whole = sum(parts.values())
    if not whole:
        return
    rows = [(name, shown(key, x), f"{x / whole:.1%}", _bar(x / whole)) for name, x in parts.items() if x]
    put_table(title, ["part", "amount", "share", ""], rows)


def _bar(share: float, width: int = 24) -> str:
    return ("█" * round(min(share, 1.0) * width)).ljust(width)
