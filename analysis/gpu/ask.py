"""What `tilewright predict` is asked: lists of numbers as text, every combination of them, on every machine."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from accel.fault import nearest
from accel.gpu.machine import GpuMachine
from accel.machine import load_machine, machine_names
from dataflow.gpu import predict
from dataflow.gpu.estimate import Floats
from dataflow.gpu.prediction import Prediction

MOST_POINTS = 100_000
CONVOLUTION = ("batch", "channels", "out", "side", "kernel", "stride")


def gpu(name: str) -> GpuMachine:
    """A machine that these models describe. Raises ValueError with the nearest name otherwise."""
    machine = load_machine(name)
    if isinstance(machine, GpuMachine):
        return machine
    others = [other for other in machine_names() if load_machine(other).planner == "gpu"]
    raise ValueError(
        f"--machine: {name} is no GPU of these models, planner {machine.planner} ({nearest(name, others)})"
    )


def numbers(option: str, text: str) -> list[int]:
    """`"1,16,64"` or `"1..4096"` (powers of two) as whole numbers >= 1. Raises ValueError that names the option."""
    found = [value for part in text.split(",") for value in _span(option, part.strip())]
    if not found:
        raise ValueError(f"{option}: must be whole numbers like 64 or 1,16,64, got {text!r}")
    return found


def _span(option: str, part: str) -> list[int]:
    first, dots, last = part.partition("..")
    low = _whole(option, first)
    if not dots:
        return [low]
    high = _whole(option, last)
    if high < low:
        raise ValueError(f"{option}: a range goes upwards, got {part!r}")
    return [low << step for step in range(64) if low << step <= high]


def _whole(option: str, text: str) -> int:
    plain = text.replace("_", "").strip()
    try:
        value = float(plain) if "e" in plain.lower() else int(plain)
    except ValueError:
        raise ValueError(f"{option}: must be whole numbers like 64 or 1,16,64, got {text!r}") from None
    if not 1 <= value < 2**53 or value != int(value):
        raise ValueError(f"{option}: must be whole and from 1 to 2^53, got {text!r}")
    return int(value)


def grid(lists: Mapping[str, Sequence[int]]) -> dict[str, Floats]:
    """Every combination, the last name changing fastest, as one array a name. Raises ValueError for too many."""
    count = int(np.prod([len(values) for values in lists.values()]))
    if count > MOST_POINTS:
        raise ValueError(f"{', '.join(lists)}: at most {MOST_POINTS} combinations, got {count}")
    columns = np.array(list(product(*lists.values())), dtype=np.float64).T
    return dict(zip(lists, columns, strict=True))


def machines(text: str) -> list[GpuMachine]:
    """`"h200,l40s"` loaded. Raises ValueError as `gpu` does."""
    return [gpu(name) for name in words("--machine", text)]


def words(option: str, text: str) -> list[str]:
    """A list of names. Raises ValueError for an empty one."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise ValueError(f"{option}: must be a name or a list of names, got {text!r}")
    return found


def asked(lists: Mapping[str, str]) -> dict[str, Floats]:
    """Every combination of the numbers of options that are given as text, by name of the option without dashes."""
    return grid({name: numbers("--" + name.replace("_", "-"), text) for name, text in lists.items()})


def gemms(machine: str, formats: str, shape: Mapping[str, str], rank: int, fused: bool) -> list[Prediction]:
    """`shape`: m, n, k."""
    points = asked(shape)
    return [
        predict.predict_gemm(device, form, **points, rank=rank, fused=fused)
        for device in machines(machine)
        for form in words("--format", formats)
    ]


def decodes(machine: str, shape: Mapping[str, str], kv_bits: str, kernels: str) -> list[Prediction]:
    """`shape`: batch, context, heads, kv_heads, head_size, perhaps kept."""
    points = asked(shape)
    return [
        predict.predict_attention(device, **points, kv_bits=bits, kernel=kernel)
        for device in machines(machine)
        for kernel in words("--kernel", kernels)
        for bits in numbers("--kv-bits", kv_bits)
    ]


def prefills(machine: str, shape: Mapping[str, str], causal: bool, kernels: str | None) -> list[Prediction]:
    """`shape`: batch, length, heads, kv_heads, head_size; `kernels` None: what PyTorch takes."""
    points = asked(shape)
    return [
        predict.predict_prefill(device, **points, causal=causal, kernel=kernel)
        for device in machines(machine)
        for kernel in ([None] if kernels is None else words("--kernel", kernels))
    ]


def linear_attentions(machine: str, shape: Mapping[str, str], fused: bool) -> list[Prediction]:
    """`shape`: batch, tokens, heads, head_size."""
    points = asked(shape)
    return [predict.predict_linear_attention(device, **points, fused=fused) for device in machines(machine)]


def elementwise(machine: str, operators: str, elements: str) -> list[Prediction]:
    """Operators without rows on every machine."""
    points = asked({"elements": elements})
    return [
        predict.predict_elementwise(device, operator, **points)
        for device in machines(machine)
        for operator in words("--operator", operators)
    ]


def by_rows(machine: str, operators: str, rows: str, width: str) -> list[Prediction]:
    """Operators that work on rows on every machine."""
    points = asked({"rows": rows, "width": width})
    return [
        predict.predict_rows(device, operator, **points)
        for device in machines(machine)
        for operator in words("--operator", operators)
    ]


def convolutions(
    machine: str, shape: Mapping[str, str], depthwise: bool, channels_last: bool, bias: bool
) -> list[Prediction]:
    """`shape`: batch, channels, out, side, kernel, stride."""
    points = tuple(asked({name: shape[name] for name in CONVOLUTION}).values())
    form = {"depthwise": depthwise, "channels_last": channels_last, "bias": bias}
    return [predict.predict_convolution(device, *points, **form) for device in machines(machine)]


def copies(machine: str, ways: str, size_bytes: str) -> list[Prediction]:
    """Within the GPU or over PCIe."""
    points = grid({"size_bytes": numbers("--bytes", size_bytes)})
    return [
        predict.predict_copy(device, **points, way=way) for device in machines(machine) for way in words("--way", ways)
    ]
