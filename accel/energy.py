"""Published energies and areas of a CMOS node, and how they scale: widths, capacities, nodes.

technology = load_technology("cmos45")
technology.energy_pj("multiply", 12) * technology.energy_scale(40)
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from accel.fault import dotted, nearest
from accel.loading import Document, check, read_document
from accel.quantities import Positive, Share

Kind = Literal["add", "multiply", "float_add", "float_multiply"]
Points = Annotated[tuple[Positive, ...], Field(min_length=2)]
_FOLDER = Path(__file__).parent / "technology"


def _same_length(*columns: Sequence[float]) -> None:
    if len(set(map(len, columns))) > 1:
        raise PydanticCustomError("points", "lists must be of one length")
    if list(columns[0]) != sorted(set(columns[0])):
        raise PydanticCustomError("points", "the first list must ascend")


class Operation(BaseModel):
    """An arithmetic unit at some widths: energy of one operation, area of the unit."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    bits: Points
    energy_pj: Points
    area_um2: Points

    @model_validator(mode="after")
    def _points(self) -> "Operation":
        _same_length(self.bits, self.energy_pj, self.area_um2)
        return self


class SramTable(BaseModel):
    """Reads of `access_bytes` by capacity; the area of a bit cell and how much of a macro is cells."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    access_bytes: Annotated[int, Field(ge=1)]
    capacity_bytes: Points
    energy_pj: Points
    cell_um2: Positive
    array_efficiency: Share

    @model_validator(mode="after")
    def _points(self) -> "SramTable":
        _same_length(self.capacity_bytes, self.energy_pj)
        return self


class Technology(BaseModel):
    """A node. Left out: leakage, clock tree, voltage (energies are those of the published voltage)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    source: str
    node_nm: Positive
    unverified: Annotated[tuple[str, ...], Field(min_length=1)]
    add: Operation
    multiply: Operation
    float_add: Operation
    float_multiply: Operation
    register_pj: Positive
    register_um2: Positive
    mux_um2: Positive
    sram: SramTable
    placement_density: Share
    wire_pj_per_bit_mm: Positive

    def energy_pj(self, kind: Kind, bits: float) -> float:
        """Energy of one operation of that width at the technology's own node."""
        operation: Operation = getattr(self, kind)
        return power_law(operation.bits, operation.energy_pj, bits)

    def area_um2(self, kind: Kind, bits: float) -> float:
        """Area of one unit of that width at the technology's own node: cells alone, not placed."""
        operation: Operation = getattr(self, kind)
        return power_law(operation.bits, operation.area_um2, bits)

    def sram_pj_per_byte(self, capacity_bytes: float) -> float:
        """Energy of a byte read from (or written to) a memory of that capacity, at the technology's own node."""
        return power_law(self.sram.capacity_bytes, self.sram.energy_pj, capacity_bytes) / self.sram.access_bytes

    def sram_um2(self, capacity_bytes: float) -> float:
        """Area of a memory with decoders and sense amplifiers."""
        return 8 * capacity_bytes * self.sram.cell_um2 / self.sram.array_efficiency

    def energy_scale(self, node_nm: float) -> float:
        """Energy at another node over that at the own one: capacitance goes with length, the voltage stays."""
        return node_nm / self.node_nm

    def area_scale(self, node_nm: float) -> float:
        """The same for area."""
        return (node_nm / self.node_nm) ** 2


def power_law(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """y at x: straight lines through the points in log-log, the outer ones prolonged. x > 0; xs ascend."""
    right = min(max(1, sum(known < x for known in xs)), len(xs) - 1)
    slope = math.log(ys[right] / ys[right - 1]) / math.log(xs[right] / xs[right - 1])
    return float(ys[right - 1] * (x / xs[right - 1]) ** slope)


def load_technology(name: str = "cmos45", overrides: Mapping[str, Any] | None = None) -> Technology:
    """A shipped technology (`technology/<name>.yaml`), after values at dotted paths are replaced.

    Raises ValueError with the nearest name, or Faults.
    """
    document = _document(name)
    return check(document.override(overrides) if overrides else document, Technology)


def technology_assumptions(name: str = "cmos45") -> dict[str, tuple[float, float]]:
    """Ranges (low, high) of the numbers that a technology assumes, by dotted path."""
    return {dotted(path): span for path, span in _document(name).ranges.items()}


def _document(name: str) -> Document:
    names = tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))
    if name not in names:
        raise ValueError(f"no technology {name!r} ({nearest(name, names)})")
    return read_document(_FOLDER / f"{name}.yaml")
