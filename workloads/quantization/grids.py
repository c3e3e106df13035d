"""Grids: which weights [N, K] a kind of layer can hold. A grid is measured from weights; it encodes, decodes, snaps.

Codes are taken with the rounded scales of the state, to nearest even, saturating. The recipes are those of
`accel.formats` (groups, blocks, progressive), float64 but for the roundings named there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workloads.quantization import numbers
from workloads.quantization.numbers import Tensor, divide, grouped, rounded_scale

State = dict[str, Tensor]
LIMIT = 119  # of the first level of progressive groups: the second then stays within 8 bits (QServe, section 4.1)


@dataclass(frozen=True)
class Kind:
    """How layers of one kind hold weights and take activations.

    group: columns that share a scale (None: a whole row), a divisor of K. codes: least and greatest (None: a code
    book). measure(weight float64, group, dtype) -> scale tensors of the state. activations(x, dtype, unsigned) -> x on
    the grid of the quantized activations. columns: K must be a multiple.
    """

    name: str
    group: int | None
    codes: tuple[int, int] | None
    measure: Callable[[Tensor, int, Any], State]
    activations: Callable[[Tensor, Any, bool], Tensor]
    columns: int = 1


@dataclass(frozen=True)
class Grid:
    """The weights that some scales allow. step, zero: float64 [N, groups]; scales: as the state holds them."""

    kind: str
    scales: State
    step: Tensor
    zero: Tensor | None
    group: int

    def encode(self, weight: Tensor, columns: Any = slice(None)) -> Tensor:
        """Codes (uint8, int8 for symmetric kinds) nearest to weight [N, k]; columns: which ones, slice or integers."""
        step, zero = self._at(columns)
        return ENCODERS.get(self.kind, _encode_affine)(self, weight.to(step.dtype), step, zero)

    def decode(self, codes: Tensor, columns: Any = slice(None)) -> Tensor:
        """float32 weights of the codes [N, k]."""
        step, zero = self._at(columns)
        book = DECODERS.get(self.kind)
        values = (codes if book is None else book(codes)).to(step.dtype)
        return ((values if zero is None else values - zero) * step).float()

    def snap(self, weight: Tensor, columns: Any = slice(None)) -> Tensor:
        """float32: the nearest weights of the grid."""
        return self.decode(self.encode(weight, columns), columns)

    def state(self, weight: Tensor) -> State:
        """Codes and scales of weight [N, K]."""
        return {"codes": self.encode(weight), **self.scales}

    def _at(self, columns: Any) -> tuple[Tensor, Tensor | None]:
        import torch

        width = self.step.shape[1]
        if width == 1:
            return self.step, self.zero
        if isinstance(columns, slice):
            columns = torch.arange(width * self.group, device=self.step.device)[columns]
        index = columns // self.group
        return self.step[:, index], None if self.zero is None else self.zero[:, index]


def check_kind(kind: str, columns: int | None = None, group: int | None = None) -> None:
    """ValueError unless the kind exists and rows of `columns` weights can be of it."""
    if kind not in KINDS:
        raise ValueError(f"kind: must be one of {', '.join(KINDS)}, got {kind!r}")
    size = group or KINDS[kind].columns
    if columns is not None and columns % size:
        raise ValueError(f"{kind}: K must be a multiple of {size}, got {columns}")


def measured(kind: str, weight: Tensor, dtype: Any, group: int | None = None, wide: bool = True) -> Grid:
    """The grid of a weight [N, K]; 16-bit scales as `dtype`. group: another group than the kind's own. wide=False:
    float32 instead of float64 where no rounding is meant, for searches.

    Raises ValueError for another kind and for K that is no multiple of the group.
    """
    check_kind(kind, weight.shape[1], group)
    group = group or KINDS[kind].group or weight.shape[1]
    grid = _grid(
        kind, KINDS[kind].measure(weight.double() if wide else weight.float(), group, dtype), len(weight), group
    )
    if wide:
        return grid
    return Grid(kind, grid.scales, grid.step.float(), None if grid.zero is None else grid.zero.float(), group)


def of_state(kind: str, state: State) -> Grid:
    """The grid of a layer's state."""
    rows, columns = state["codes"].shape
    scales = {name: state[name] for name in SCALES if name in state}
    grid = _grid(kind, scales, rows, columns)
    return Grid(kind, scales, grid.step, grid.zero, columns // grid.step.shape[1])


SCALES = ("scale", "zero", "group_scale", "group_zero", "absmax", "tensor_scale")


def _grid(kind: str, scales: State, rows: int, group: int) -> Grid:
    step, zero = _STEPS.get(kind, _affine_steps)(scales)
    return Grid(kind, scales, step.reshape(rows, -1), None if zero is None else zero.double().reshape(rows, -1), group)


def _affine_steps(scales: State) -> tuple[Tensor, Tensor | None]:
    return scales["scale"].double(), scales.get("zero")


def _progressive_steps(scales: State) -> tuple[Tensor, Tensor | None]:
    return scales["group_scale"].double() * scales["scale"].double()[:, None], scales["group_zero"]


def _nvfp4_steps(scales: State) -> tuple[Tensor, Tensor | None]:
    scale = numbers.decode_e4m3(scales["scale"]).double()
    return scale * scales["tensor_scale"].double().reshape(-1, 1), None


def _nf4_steps(scales: State) -> tuple[Tensor, Tensor | None]:
    return scales["absmax"].double(), None


_STEPS: dict[str, Callable[[State], tuple[Tensor, Tensor | None]]] = {
    "w4a8_group": _progressive_steps,
    "w4a4_nvfp4": _nvfp4_steps,
    "nf4": _nf4_steps,
}


def _encode_affine(grid: Grid, weight: Tensor, step: Tensor, zero: Tensor | None) -> Tensor:
    low, high = KINDS[grid.kind].codes or (0, 0)
    codes = divide(weight, step).round()
    return _integers(codes if zero is None else codes + zero, low, high)


def _integers(codes: Tensor, low: int, high: int) -> Tensor:
    import torch

    return codes.clamp(low, high).to(torch.int8 if low < 0 else torch.uint8)


def _encode_progressive(grid: Grid, weight: Tensor, step: Tensor, zero: Tensor | None) -> Tensor:
    outer = grid.scales["scale"].double()[:, None]
    eight = divide(weight, outer).round().clamp(-LIMIT, LIMIT)
    inner = divide(step, outer).round()  # the integer step of the second level
    return _integers(divide(eight, inner).round() + zero, 0, 15)


def _encode_nvfp4(grid: Grid, weight: Tensor, step: Tensor, zero: Tensor | None) -> Tensor:
    return numbers.encode_e2m1(divide(weight, step))


def _encode_nf4(grid: Grid, weight: Tensor, step: Tensor, zero: Tensor | None) -> Tensor:
    """x (1 / absmax), both rounded to float32, as bitsandbytes does."""
    return numbers.encode_nf4(weight.float() * divide(step.new_ones(()), step).float())


ENCODERS: dict[str, Callable[..., Tensor]] = {
    "w4a8_group": _encode_progressive,
    "nf4": _encode_nf4,
    "w4a4_nvfp4": _encode_nvfp4,
}
DECODERS: dict[str, Callable[[Tensor], Tensor]] = {"nf4": numbers.decode_nf4, "w4a4_nvfp4": numbers.decode_e2m1}


def _symmetric(weight: Tensor, group: int, dtype: Any) -> State:
    return {"scale": rounded_scale(grouped(weight, group).abs().amax(-1) / 7, dtype)}


def _symmetric_rows(weight: Tensor, group: int, dtype: Any) -> State:
    return {"scale": rounded_scale(weight.abs().amax(-1) / 127, dtype)}


def _asymmetric(weight: Tensor, group: int, dtype: Any) -> State:
    """Ranges that hold 0; zero: the code of 0."""
    import torch

    parts = grouped(weight, group)
    low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
    scale = rounded_scale((high - low) / 15, dtype)
    return {"scale": scale, "zero": (-low / scale.double()).round().clamp(0, 15).to(torch.uint8)}


def _asymmetric_rows(weight: Tensor, group: int, dtype: Any) -> State:
    return {name: values[:, 0] for name, values in _asymmetric(weight, weight.shape[1], dtype).items()}


def _progressive(weight: Tensor, group: int, dtype: Any) -> State:
    """QoQ: 8 bits by row within +-119, then unsigned 4 bits by group on the integers (QServe, section 4.1)."""
    import torch

    scale = rounded_scale(weight.abs().amax(1) / LIMIT, dtype)
    eight = grouped((weight / scale.double()[:, None]).round().clamp(-LIMIT, LIMIT), group)
    low, high = eight.amin(-1).clamp(max=0), eight.amax(-1).clamp(min=0)
    inner = ((high - low) / 15).round().clamp(min=1)
    zero = (-low / inner).round().clamp(0, 15)
    return {"scale": scale, "group_scale": inner.to(torch.uint8), "group_zero": zero.to(torch.uint8)}


def _nf4(weight: Tensor, group: int, dtype: Any) -> State:
    return {"absmax": grouped(weight, group).abs().amax(-1).flatten().float()}


def _nvfp4(weight: Tensor, group: int, dtype: Any) -> State:
    """The scale of the tensor brings the greatest scale of a group to 448."""
    tensor_scale = (weight.abs().amax() / (numbers.E2M1_MAX * numbers.E4M3_MAX)).float()
    tensor_scale = tensor_scale if tensor_scale > 0 else tensor_scale.new_ones(())
    scale = grouped(weight, group).abs().amax(-1) / numbers.E2M1_MAX / tensor_scale.double()
    return {"scale": numbers.encode_e4m3(scale), "tensor_scale": tensor_scale}


def _kept(weight: Tensor, group: int, dtype: Any) -> State:
    raise ValueError("unquantized: weights have no grid")


KINDS = {
    kind.name: kind
    for kind in (
        Kind("w4a8_channel", None, (0, 15), _asymmetric_rows, numbers.int8_tokens),
        Kind("w4a8_group", 128, (0, 15), _progressive, numbers.int8_tokens, 128),
        Kind("w8a8", None, (-127, 127), _symmetric_rows, numbers.int8_tokens),
        Kind("w4a16", 64, (0, 15), _asymmetric, numbers.sixteen_bits, 64),
        Kind("nf4", 64, None, _nf4, numbers.sixteen_bits, 64),
        Kind("w4a4", 64, (-7, 7), _symmetric, numbers.int4_groups, 64),
        Kind("w4a4_nvfp4", 16, None, _nvfp4, numbers.nvfp4_groups, 16),
        Kind("unquantized", None, None, _kept, lambda x, dtype, unsigned: x),
    )
}
