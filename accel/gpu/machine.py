"""Schema of GPUs (`planner: gpu`): what a data sheet and microbenchmarks say. Fitted numbers are in `accel/gpu/fit.py`.

Each number of a file carries a flag on its line: *verified* (read in the named source), *measured* (by us), *derived*
(arithmetic on verified numbers), *recalled* (known, not read again) or *conflicting* (sources disagree; both are told).
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from accel.quantities import Positive, Share

_STRICT = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
Count = Annotated[int, Field(ge=0)]
Trust = Literal["calibrated", "anchored", "blind"]
Unit = Literal["fp16", "int8", "fp8", "int4", "nvfp4", "fp32"]


class Rates(BaseModel):
    """Operations a cycle of one multiprocessor; a multiply-add counts two; 0: the unit does not exist."""

    model_config = _STRICT
    fp16: Count
    """tensor cores, float16 or bfloat16 operands, float32 sums"""
    int8: Count
    """tensor cores, or dp4a before there were any"""
    fp8: Count
    """tensor cores, float32 sums"""
    int4: Count
    """tensor cores; 0 where the instruction is emulated: see `fallback`"""
    nvfp4: Count
    fp32: Count
    """CUDA cores"""
    half2: Count
    """CUDA cores, packed float16"""
    int32: Count
    """integer and logic operations of CUDA cores (one each)"""
    special: Count
    """exponentials, reciprocals (one each)"""


class Cache(BaseModel):
    """The L2."""

    model_config = _STRICT
    bytes: Annotated[int, Field(ge=1)]
    bytes_per_s: Positive
    """read bandwidth of a buffer that fits"""


class BoardMemory(BaseModel):
    """DRAM of the board."""

    model_config = _STRICT
    kind: Literal["hbm2e", "hbm3", "hbm3e", "gddr5x", "gddr6", "gddr6x", "gddr7"]
    bytes: Annotated[int, Field(ge=1)]
    peak_bytes_per_s: Positive
    """data sheet"""
    read_bytes_per_s: Positive
    """what a kernel that only reads reaches"""


class Launch(BaseModel):
    """Device time between kernels on top of their work."""

    model_config = _STRICT
    graph_s: Annotated[float, Field(ge=0)]
    """an empty kernel in a CUDA graph"""
    stream_s: Annotated[float, Field(ge=0)]
    """an empty kernel in a stream that never runs dry"""


class Board(BaseModel):
    """Watts."""

    model_config = _STRICT
    limit_w: Positive
    idle_w: Positive
    """after 30 s of rest"""


class GpuMachine(BaseModel):
    """A GPU. Closed-form models of its kernels are in `dataflow/gpu`."""

    model_config = _STRICT
    name: str
    planner: Literal["gpu"]
    source: str
    architecture: Annotated[str, Field(pattern=r"^sm_\d+[a-z]?$")]
    """compute capability as the compiler names it: sm_90"""
    process_nm: Positive
    clock_hz: Annotated[int, Field(ge=1)]
    """highest clock that it runs at under load without a power limit; the clock of all rates"""
    multiprocessors: Annotated[int, Field(ge=1)]
    rates: Rates
    shared_bytes: Annotated[int, Field(ge=1)]
    """shared memory of a multiprocessor"""
    cache: Cache
    memory: BoardMemory
    launch: Launch
    pcie_bytes_per_s: Positive
    """one direction, large pinned copies"""
    power: Board
    fallback: dict[Unit, Unit] = {}
    """for a unit of `rates` that is missing here: the one whose formats run in its place (`accel/gpu/formats.py`)"""
    fit: Annotated[tuple[str, ...], Field(min_length=1)]
    """fits whose dimensionless numbers it uses, by name (`accel/fits/NAME.yaml`) or path: the first that has the
    section of a kernel counts"""
    calibrated: bool
    """the first of `fit` was made from measurements of this device"""
    scale: dict[str, Positive] = {}
    """times by class over those of the carried fit, from at most 12 published anchors (`analysis/gpu/anchors.py`)"""
    error: dict[str, Share] = {}
    """by class, or `default`: 90 % of held-out or published points lie within this share of a prediction, where no fit
    of this device says so itself"""

    def per_s(self, unit: str) -> float:
        """Operations a second of all multiprocessors at `clock_hz`; `unit` is a field of `Rates`."""
        return float(getattr(self.rates, unit)) * self.multiprocessors * self.clock_hz

    @property
    def capability(self) -> int:
        """Compute capability as a number: 90 of sm_90."""
        return int("".join(filter(str.isdigit, self.architecture)))

    def trust(self, kind: str, own: bool) -> Trust:
        """How a class is known here; `own`: its section comes from the first fit of `fit`."""
        if self.calibrated and own:
            return "calibrated"
        return "anchored" if kind in self.scale else "blind"


def beside(machine: GpuMachine, file: str) -> GpuMachine:
    """The machine of a file, with relative paths of its fits turned into absolute ones, from the folder of the file."""
    paths = tuple(str((Path(file).parent / name).resolve()) if is_path(name) else name for name in machine.fit)
    return machine if paths == machine.fit else machine.model_copy(update={"fit": paths})


def is_path(name: str) -> bool:
    """Whether a fit is named by its file."""
    return Path(name).suffix in (".yaml", ".yml") or len(Path(name).parts) > 1
