"""Number formats of GEMM kernels on GPUs: operand bits, the unit that multiplies, what runs where that unit is missing.

    chosen, warning = resolve(load_machine("h200"), "w4a4_int4")    # w4a8_group, "h200 has no int4 tensor cores ..."

y [M, N] = x [M, K] W^T, W [N, K].
"""

from dataclasses import dataclass
from typing import TypedDict

from accel.fault import nearest
from accel.gpu.machine import GpuMachine, Unit


class _Needs(TypedDict):
    needs: int
    without: str


@dataclass(frozen=True)
class Format:
    """One kind of GEMM.

    unit                  field of `Rates` that does the products
    x_bits, w_bits, y_bits    of an element of activations, weights and output, as stored
    group, group_bits     inputs that share scales, and the bits of these scales and zeros; 0: none
    x_group, x_group_bits likewise of the activations
    channel_bits          scales and zeros of each output channel
    token_bits            scales (and sums) of each row of x
    needs, without        compute capability that kernels of it need; what runs below
    runs                  what is timed: the kernel that the models know
    """

    name: str
    unit: Unit
    x_bits: int
    w_bits: int
    y_bits: int
    accumulate: str
    runs: str
    group: int = 0
    group_bits: int = 0
    x_group: int = 0
    x_group_bits: int = 0
    channel_bits: int = 0
    token_bits: int = 0
    needs: int = 0
    without: str = ""

    def weight_bytes(self, n: float, k: float) -> float:
        """Bytes of W with its scales."""
        groups = n * k / self.group * self.group_bits if self.group else 0.0
        return (n * k * self.w_bits + groups + n * self.channel_bits) / 8

    def activation_bytes(self, m: float, k: float) -> float:
        """Bytes of x with its scales."""
        groups = m * k / self.x_group * self.x_group_bits if self.x_group else 0.0
        return (m * k * self.x_bits + groups + m * self.token_bits) / 8


_OURS: _Needs = {"needs": 80, "without": "w8a8"}  # cp.async and mma.sync of 8 bits
_ALL = (
    Format("fp32", "fp32", 32, 32, 32, "float32", "torch.matmul on CUDA cores"),
    Format("fp16", "fp16", 16, 16, 16, "float32", "torch.matmul"),
    Format("bf16", "fp16", 16, 16, 16, "float32", "torch.matmul"),
    Format("int8", "int8", 8, 8, 32, "int32", "torch._int_mm, the int32 sums are the output"),
    Format("fp8", "fp8", 8, 8, 16, "float32", "torch._scaled_mm by rows, bf16 out", channel_bits=32, token_bits=32),
    Format("w8a8", "int8", 8, 8, 16, "int32", "INT8 with scales in the epilogue", channel_bits=16, token_bits=16),
    Format("w4a16", "fp16", 16, 4, 16, "float32", "weights unpacked to float16", group=128, group_bits=16),
    Format("nf4", "fp16", 16, 4, 16, "float32", "bitsandbytes: unpacked in memory, torch.matmul", 64, 32),
    Format("w4a8", "int8", 8, 4, 16, "int32", "QoQ with a scale a channel", channel_bits=32, token_bits=32, **_OURS),
    Format("w4a8_group", "int8", 8, 4, 16, "int32", "QoQ with groups", 128, 16, 0, 0, 16, 16, **_OURS),
    Format("w4a4_int4", "int4", 4, 4, 16, "int32", "SVDQuant in INT4 (Nunchaku)", 64, 16, 64, 16),
    Format("w4a4_nvfp4", "nvfp4", 4, 4, 16, "float32", "SVDQuant in NVFP4 (Nunchaku)", 16, 8, 16, 8),
)
FORMATS = {one.name: one for one in _ALL}
ALIASES = {"w4a8_channel": "w4a8", "float16": "fp16", "bfloat16": "bf16", "nvfp4": "w4a4_nvfp4", "int4": "w4a4_int4"}
_LOW_BITS = ("w4a4_int4", "w4a4_nvfp4")
# of a format whose unit is missing, by the unit that takes over; what keeps most of its bits of weights
_INSTEAD = {
    ("fp16", "fp32"): "fp32",
    ("bf16", "fp32"): "fp32",
    ("w4a16", "fp32"): "fp32",
    ("nf4", "fp32"): "fp32",
    ("fp8", "int8"): "w8a8",
    ("fp8", "fp16"): "bf16",
    **{(name, "int4"): "w4a4_int4" for name in _LOW_BITS},
    **{(name, "nvfp4"): "w4a4_nvfp4" for name in _LOW_BITS},
    **{(name, "int8"): "w4a8_group" for name in _LOW_BITS},
    **{(name, "fp8"): "fp8" for name in _LOW_BITS},
    **{(name, "fp16"): "w4a16" for name in _LOW_BITS},
}
_WHY = {
    "int4": "mma with s4 operands is emulated there: right for checks, useless for speed",
    "fp8": "there were none before Ada and Hopper",
    "nvfp4": "there were none before Blackwell",
    "fp16": "there were none before Volta",
}


def find_format(name: str) -> Format:
    """A format by its name, `-` and case do not matter. Raises ValueError with the nearest."""
    plain = name.lower().replace("-", "_")
    plain = ALIASES.get(plain, plain)
    if plain not in FORMATS:
        raise ValueError(f"format: no such format of a GEMM, got {name!r} ({nearest(plain, FORMATS)})")
    return FORMATS[plain]


def resolve(machine: GpuMachine, name: str) -> tuple[Format, str | None]:
    """The format that runs on the machine, and a warning where it is not the one that was asked for.

    Raises ValueError for an unknown format, and where the machine names nothing in place of a missing unit.
    """
    asked = found = find_format(name)
    while (other := _instead(machine, found)) is not None:
        found = other
    return found, None if found is asked else _warning(machine, asked, found)


def _instead(machine: GpuMachine, found: Format) -> Format | None:
    """What takes over, None where the format itself runs."""
    if getattr(machine.rates, found.unit):
        return FORMATS[found.without] if machine.capability < found.needs else None
    unit = machine.fallback.get(found.unit)
    if unit is None or (found.name, unit) not in _INSTEAD:
        has = "and its file names no fallback" if unit is None else f"and {unit} cannot take over {found.name}"
        raise ValueError(f"{machine.name}: no {found.unit} units for {found.name}, {has}")
    return FORMATS[_INSTEAD[found.name, unit]]


def _warning(machine: GpuMachine, asked: Format, found: Format) -> str:
    if getattr(machine.rates, asked.unit):
        lacks = f"is {machine.architecture}, kernels of {asked.name} need sm_{asked.needs}"
    else:
        why = _WHY.get(asked.unit, "") if machine.rates.fp16 else _WHY["fp16"]
        lacks = f"has no {asked.unit} tensor cores ({why})"
    return f"{machine.name} {lacks}: {asked.name} falls back to {found.name}"
