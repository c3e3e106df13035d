"""`tilewright machine`: the shipped machines, and how to start one of your own."""

from pathlib import Path
from typing import Annotated

import typer

from analysis.console import Json, guarded, put_json, put_table, put_text

app = typer.Typer(no_args_is_help=True, help="Show, copy and list machines.")
Name = Annotated[str, typer.Argument(help="A shipped machine or a YAML file.")]


@app.command()
@guarded
def show(name: Name, as_json: Json = False) -> None:
    """Print a machine file with its sources; as JSON: the checked machine.

    tilewright machine show spatten
    """
    from accel.machine import assumptions, find_machine, load_machine

    machine = load_machine(name)
    if as_json:
        assumed = {path: list(span) for path, span in assumptions(name).items()}
        put_json({**machine.model_dump(mode="json"), "assumed_ranges": assumed})
    else:
        put_text(find_machine(name).read_text(encoding="utf-8"))


@app.command()
@guarded
def copy(
    name: Name,
    to: Annotated[Path, typer.Argument(help="The new file.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    as_json: Json = False,
) -> None:
    """Start a machine of your own from another; files inherit nothing.

    tilewright machine copy spatten my.yaml
    """
    from accel.machine import find_machine

    source = find_machine(name)
    if to.is_dir():
        raise ValueError(f"{to}: is a folder; name the file in it, for instance {to / source.name}")
    if to.exists() and not force:
        raise ValueError(f"{to}: exists; --force replaces it")
    to.write_bytes(source.read_bytes())
    if as_json:
        put_json({"from": str(source), "to": str(to)})
    else:
        put_text(f"wrote {to}; check it with: tilewright validate {to}")


@app.command("list")
@guarded
def list_machines(as_json: Json = False) -> None:
    """The shipped machines.

    tilewright machine list
    """
    from accel.machine import load_machine, machine_names

    machines = [load_machine(name) for name in machine_names()]
    if as_json:
        put_json({"machines": {m.name: {"planner": m.planner, "source": m.source} for m in machines}})
    else:
        put_table("Machines", ["name", "planner", "source"], [(m.name, m.planner, m.source) for m in machines])
