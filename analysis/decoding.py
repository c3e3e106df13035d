"""The grid of docs/llm.md: one decoding step of a Llama-3-8B-shaped model on a SpAtten-type machine.

python -m analysis.decoding                       # all of it on spatten_llm, about a minute on a free core
python -m analysis.decoding --machine spatten_llm --set memory.standard=hbm3e
"""

import sys
from typing import Annotated

import typer

from analysis.api import simulate_point
from analysis.commands.points import Settings, assignments
from analysis.console import guarded

HEAD = ("workload", "ms", "MB", "GB/s", "mJ", "DRAM mJ", "most time in")


@guarded
def table(
    machine: Annotated[str, typer.Option(help="A shipped machine or a YAML file.")] = "spatten_llm",
    settings: Settings = None,
) -> None:
    """Print the table as Markdown, a line as soon as it is known."""
    from workloads.llm_decode import decode_names

    overrides = assignments(settings)
    sys.stdout.write(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}\n")
    for name in decode_names():
        sys.stdout.write(f"| {' | '.join(_cells(machine, name, overrides))} |\n")
        sys.stdout.flush()


def _cells(machine: str, name: str, overrides: dict[str, object]) -> tuple[str, ...]:
    result = simulate_point(machine, name, overrides, {})
    moved = sum(result.dram_read_bytes.values()) + sum(result.dram_write_bytes.values())
    energy, dram = (sum(part.values()) * 1e3 for part in (result.energy_j, result.dram_energy_j))
    figures = (result.latency_s * 1e3, moved / 1e6, moved / result.latency_s / 1e9, energy, dram)
    return (name, *(f"{figure:.4g}" for figure in figures), result.limited_by)


if __name__ == "__main__":
    typer.run(table)
