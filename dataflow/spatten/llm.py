"""The table of docs/llm.md: one decoding step of a Llama-3-8B-shaped model on a SpAtten machine.

python -m dataflow.spatten.llm                                       # the whole grid on spatten_llm
python -m dataflow.spatten.llm llama3_8b_decode_8k_pruned_kv4 --set memory.standard=hbm3e pipelines=8
"""

import argparse
from collections.abc import Sequence
from typing import Any

from accel.loading import Faults
from accel.machine import load_machine
from dataflow.simulate import simulate
from sim.result import Result
from workloads.llm_decode import decode_names, named_decode

HEADER = ("workload", "ms", "MB", "GB/s", "mJ", "DRAM mJ", "most time in")


def run_decode(name: str, machine: str = "spatten_llm", overrides: dict[str, Any] | None = None) -> Result:
    """One step by name (`workloads.llm_decode.named_decode`) on a machine; raises ValueError."""
    trace, work = named_decode(name)
    return simulate(load_machine(machine, overrides), trace, None, work=work)


def table_row(result: Result) -> tuple[str, ...]:
    """The figures of a step, all its layers, as text."""
    moved = sum(result.dram_read_bytes.values()) + sum(result.dram_write_bytes.values())
    energy, dram = (sum(part.values()) * 1e3 for part in (result.energy_j, result.dram_energy_j))
    figures = (result.latency_s * 1e3, moved / 1e6, moved / result.latency_s / 1e9, energy, dram)
    return (result.workload, *(f"{figure:.4g}" for figure in figures), result.limited_by)


def _value(text: str) -> Any:
    return int(text) if text.lstrip("-").isdigit() else text


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m dataflow.spatten.llm", description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="*", help="llama3_8b_decode_<k>k[_b<batch>][_pruned][_kv4|_kv8|_kv16]")
    parser.add_argument("--machine", default="spatten_llm")
    parser.add_argument("--set", nargs="*", default=[], metavar="PATH=VALUE", help="fields of the machine")
    given = parser.parse_args(arguments)
    try:
        overrides = {path: _value(value) for path, _, value in (text.partition("=") for text in given.set)}
        print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
        for name in given.name or decode_names():
            print(f"| {' | '.join(table_row(run_decode(name, given.machine, overrides)))} |", flush=True)
    except (Faults, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
