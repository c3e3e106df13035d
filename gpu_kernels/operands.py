"""Checks of what a caller hands to a quantized GEMM: names, shapes, ranges and grids, each told with its place."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.arithmetic import round_to

State = Mapping[str, Any]  # logical tensors of a quantized linear layer, by name


def check_names(kind: str, state: State, required: Iterable[str], optional: Iterable[str] = ("bias",)) -> None:
    """ValueError unless the state has all required tensors and no unknown one."""
    names = {*required, *optional}
    for name in required:
        if name not in state:
            raise ValueError(f"{kind}: needs the tensor {name!r}, got {', '.join(sorted(state)) or 'none'}")
    for name in state:
        if name not in names:
            near = get_close_matches(name, names, 1, 0.5)
            hint = f" (nearest: {near[0]!r})" if near else ""
            raise ValueError(f"{kind}: unknown tensor {name!r}{hint}, knows {', '.join(sorted(names))}")


def matrix_shape(where: str, values: Any) -> tuple[int, int]:
    """(rows, columns), else ValueError."""
    shape = np.shape(values)
    if len(shape) != 2:
        raise ValueError(f"{where}: must be a matrix, got shape {shape}")
    return int(shape[0]), int(shape[1])


def codes_of(where: str, values: Any, shape: tuple[int, ...], low: int, high: int) -> NDArray[np.int8]:
    """The integers as contiguous int8 of that shape, all within low..high (at most -128..127), else ValueError."""
    codes = np.asarray(values)
    if codes.dtype.kind not in "iu" or codes.shape != shape:
        raise ValueError(f"{where}: must be integers of shape {shape}, got {codes.dtype} of shape {codes.shape}")
    if codes.size and (codes.min() < low or codes.max() > high):
        worst = codes.min() if codes.min() < low else codes.max()
        raise ValueError(f"{where}: must be within {low}..{high}, got {worst}")
    return np.ascontiguousarray(codes).astype(np.int8, copy=False)


def floats_of(where: str, values: Any, shape: tuple[int, ...], form: str) -> NDArray[np.float32]:
    """The values as contiguous float32 of that shape, all finite and on the grid of `form`, else ValueError."""
    given = np.asarray(values)
    if given.dtype.kind not in "fiu":
        raise ValueError(f"{where}: must be numbers, got {given.dtype}")
    if given.shape != shape:
        raise ValueError(f"{where}: must have shape {shape}, got {given.shape}")
    floats = round_to(given, form)
    off = given[~((floats == given) & np.isfinite(floats))]
    if len(off):
        rule = f"{form} values" if np.isfinite(off[0]) else "finite"
        raise ValueError(f"{where}: must be {rule}, got {off[0]}")
    return floats


def bias_of(where: str, bias: Any, outputs: int, form: str) -> NDArray[np.float32]:
    """The bias float32 [outputs], or [0] where there is none."""
    return np.empty(0, np.float32) if bias is None else floats_of(where, bias, (outputs,), form)


def activations_of(kind: str, x: Any, inputs: int, form: str) -> NDArray[np.float32]:
    """x [M, inputs] rounded to `form`; ValueError for another shape and for what is not finite there."""
    if np.ndim(x) != 2 or np.shape(x)[1] != inputs:
        raise ValueError(f"{kind}: x must be [M, {inputs}], got {np.shape(x)}")
    values = round_to(x, form)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0].tolist()
        worst = np.asarray(x)[row, column]
        raise ValueError(f"{kind}: x must be finite in {form}, got {worst} at token {row}, input {column}")
    return values
