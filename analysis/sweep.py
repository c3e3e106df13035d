"""`Sweep`: which points to simulate and what to look for; read from YAML, checked whole before the run."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from accel.loading import nearest, read_document
from analysis.axes import Constraint, Linear, Logarithmic, axis_values, parse_constraint
from workloads.policy import Policy

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
_AXIS_SCHEMA = {
    "anyOf": [
        {"type": "array", "minItems": 1},
        Linear.model_json_schema(),
        Logarithmic.model_json_schema(),
    ]
}
Axis = Annotated[Any, WithJsonSchema(_AXIS_SCHEMA)]
Sense = Literal["min", "max"]


class Search(BaseModel):
    """Which points of the grid are run."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    method: Literal["grid", "random"] = "grid"
    """grid: every point; random: `points` different ones, drawn with the seed"""
    points: Annotated[int, Field(ge=1)] | None = None
    """how many, for random"""


class SweepFile(BaseModel):
    """A sweep as it is written; paths in it are relative to the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    machine: str
    """a shipped name or a machine file"""
    workload: str
    """a shipped name, a trace file or a released CSV"""
    policy: Policy = Policy()
    """what every point shares; axes may override it"""
    axes: Annotated[dict[str, Axis], Field(alias="set", min_length=1)]
    """axes by dotted path, `machine.…` or `policy.…`: a list, {from, to, steps} or {from, to, log}"""
    search: Search = Search()
    """which points of the grid are run"""
    objectives: Annotated[dict[str, Sense], Field(min_length=1)]
    """keys of the result with min or max; they span the Pareto front"""
    constraints: tuple[str, ...] = ()
    """`area_mm2 <= 20`: points that break one stay out of the front"""
    baselines: tuple[str, ...] = ()
    """machines to compare with"""
    seed: Annotated[int, Field(ge=0)] = 1
    """of the random search and of the draws from assumed ranges"""
    workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """processes; left out: one per core"""


@dataclass(frozen=True)
class Sweep:
    """A checked sweep; `machine`, `workload` and `baselines` are shipped names or absolute paths."""

    name: str
    machine: str
    workload: str
    policy: Policy
    axes: dict[str, tuple[Any, ...]]
    objectives: dict[str, Sense]
    search: Search = field(default_factory=Search)
    constraints: tuple[Constraint, ...] = ()
    baselines: tuple[str, ...] = ()
    seed: int = 1
    workers: int | None = None
    file: Path | None = field(default=None, compare=False)

    @property
    def grid_size(self) -> int:
        """Points of the full grid."""
        return math.prod(map(len, self.axes.values()))


def read_sweep(name_or_path: str | Path) -> Sweep:
    """Read and check a sweep file or a shipped example; raises Faults with everything that is wrong."""
    from analysis.sweep_check import check_sweep, resolve

    path = find_sweep(name_or_path)
    document = read_document(path)
    written = check_sweep(document)
    axes = {name: tuple(axis_values(axis)) for name, axis in document.data["set"].items()}
    return Sweep(
        name=path.stem,
        machine=resolve(written.machine, path),
        workload=resolve(written.workload, path),
        policy=written.policy,
        axes=axes,
        objectives=written.objectives,
        search=written.search,
        constraints=tuple(map(parse_constraint, written.constraints)),
        baselines=tuple(resolve(name, path) for name in written.baselines),
        seed=written.seed,
        workers=written.workers,
        file=path,
    )


def example_names() -> list[str]:
    """Names of the shipped sweeps."""
    return sorted(path.stem for path in EXAMPLES.glob("*.yaml"))


def find_sweep(name_or_path: str | Path) -> Path:
    """The file itself, else the shipped example of that base name; raises ValueError for a name of none."""
    path = Path(name_or_path)
    shipped = EXAMPLES / f"{path.stem}.yaml"
    if not path.is_file() and shipped.is_file():
        return shipped
    if not path.exists() and path.name == str(name_or_path) and not path.suffix:
        raise ValueError(f"no sweep {path.name!r} ({nearest(path.name, example_names())})")
    return path


def selected(sweep: Sweep) -> Sequence[int]:
    """Grid indices of the points to run, ascending; the same for the same sweep."""
    grid = range(sweep.grid_size)
    wanted = sweep.search.points
    if sweep.search.method == "grid" or wanted is None or wanted >= len(grid):
        return grid
    return sorted(random.Random(sweep.seed).sample(grid, wanted))


def point(sweep: Sweep, index: int) -> dict[str, Any]:
    """Values by dotted path at a grid index; the last axis changes fastest."""
    settings: dict[str, Any] = {}
    for path, values in reversed(sweep.axes.items()):
        index, digit = divmod(index, len(values))
        settings[path] = values[digit]
    return dict(reversed(settings.items()))


def points(sweep: Sweep) -> list[dict[str, Any]]:
    """Every point of the sweep, in order."""
    return [point(sweep, index) for index in selected(sweep)]
