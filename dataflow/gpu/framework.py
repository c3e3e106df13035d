"""Which kernel an eager operator runs as, by rules of PyTorch's dispatcher; what it takes is fitted elsewhere.

Elementwise operators whose tensors all lie in one piece with one shape take the vectorized kernel; a broadcast, a slice
or a transposed operand takes the one that computes an offset for each element and operand. Normalizations, softmax,
reductions, concatenations have kernels of their own. `CONTIGUOUS` names kernels of the memory-bound section of a fit,
everything else is a family of its framework section.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

UNARY = ("silu", "gelu", "tanh", "sigmoid", "exp", "sin", "cos", "softplus", "mish", "erf")
GATHERS = ("embedding", "gather", "scatter")
BROADCAST, STRIDED, TRANSPOSED = "broadcast", "strided", "transposed"
_CONTIGUOUS = {2: {1: "unary", 2: "binary"}, 4: {1: "unary_float32", 2: "binary_float32"}}
NARROW = 256  # elements of a row: a block of threads has hardly one each
ITEM_BYTES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "bool": 1, "int8": 1, "uint8": 1, "e4m3": 1}


@dataclass(frozen=True)
class Tensor:
    """An operand: sizes, strides in elements, and its number format."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    format: str

    @property
    def elements(self) -> int:
        """How many there are."""
        return prod(self.shape)

    @property
    def fastest(self) -> int:
        """The dimension along which neighbours lie side by side; counted from the last."""
        steps = [(stride, -place) for place, stride in enumerate(reversed(self.strides)) if self.shape[-1 - place] > 1]
        return -min(steps)[1] if steps else 0

    @property
    def in_one_piece(self) -> bool:
        """Whether its elements fill a range of memory, in whatever order of the dimensions."""
        pairs = sorted((stride, size) for size, stride in zip(self.shape, self.strides, strict=True) if size > 1)
        expected = 1
        for stride, size in pairs:
            if stride != expected:
                return False
            expected *= size
        return True


@dataclass(frozen=True)
class Kernel:
    """Family, and what it works on: elements of its largest tensor, rows and their width, launches, operators in it."""

    family: str
    elements: int
    rows: int = 0
    width: int = 0
    launches: int = 1
    operators: int = 1


def eager_kernel(kind: str, op: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Kernel:
    """The kernel of an operator that is no product. Operands without elements are taken as one number."""
    result = outputs[0] if outputs else inputs[0]
    elements = max([one.elements for one in (*inputs, *outputs)], default=1)
    if kind in ("layernorm", "rmsnorm", "softmax", "groupnorm", "batchnorm"):
        return _rows(kind, result)
    if kind == "reduce":
        return _reduction(inputs[0], result)
    if kind in ("cat", "copy", "resize", "pad", "fill", "quantize", *GATHERS):
        return _move(kind, op, inputs, result, elements)
    return Kernel(_elementwise(kind, [one for one in inputs if one.elements > 1], result), elements)


def _rows(kind: str, result: Tensor) -> Kernel:
    family = {"layernorm": "layer_norm", "rmsnorm": "rms_norm"}.get(kind, "softmax")
    width = result.shape[-1] if result.shape else 1
    if family == "softmax" and width <= 1024:
        family = "softmax_warp"
    if family == "rms_norm" and width <= NARROW:
        family = "rms_norm_narrow"
    return Kernel(family, result.elements, result.elements // max(width, 1), width)


def _reduction(x: Tensor, result: Tensor) -> Kernel:
    """Over the last dimensions: each result is the sum of a row."""
    rows = max(result.elements, 1)
    return Kernel("reduce" if item_bytes(x) == 2 else "mean_float32", x.elements, rows, x.elements // rows)


def _move(kind: str, op: str, inputs: Sequence[Tensor], result: Tensor, elements: int) -> Kernel:
    if kind == "quantize":
        width = inputs[0].shape[-1] if inputs[0].shape else 1
        return Kernel("quantize", inputs[0].elements, inputs[0].elements // max(width, 1), width)
    family = {"cat": "cat", "copy": "permute"}.get(kind, kind)
    if kind == "cat" and not all(one.in_one_piece for one in inputs):
        family = "cat_strided"
    if kind == "copy" and inputs and inputs[0].fastest != result.fastest:
        family = "permute_transposed"
    if kind == "copy" and all(one.in_one_piece for one in (*inputs, result)) and inputs[0].strides == result.strides:
        family = "copy"
    if kind in GATHERS:
        family, elements = "gather", result.elements
    if family == "cat":
        elements //= 2  # the family counts elements of one of two equal inputs
    stacked = op.startswith("aten.stack")  # one kernel an operand
    return Kernel(family, elements, launches=len(inputs) if stacked else 2 if kind == "pad" else 1)


def _elementwise(kind: str, inputs: Sequence[Tensor], result: Tensor) -> str:
    size = item_bytes(result)
    if size == 8:
        return "float64"
    together = all(one.shape == result.shape and one.strides == result.strides for one in inputs)
    if not (together and result.in_one_piece):
        return f"{_apart(inputs, result)}{'_float32' if size == 4 else ''}"
    if kind == "cast":
        return "widen" if size == 4 else "narrow"
    if kind in UNARY:
        return kind if size == 2 and kind in ("silu", "gelu") else "function"
    return _CONTIGUOUS.get(size, _CONTIGUOUS[2])[min(max(len(inputs), 1), 2)]


def _apart(inputs: Sequence[Tensor], result: Tensor) -> str:
    if any(one.shape != result.shape for one in inputs):
        same = all(one.fastest == result.fastest for one in inputs if one.elements == result.elements)
        return BROADCAST if same else TRANSPOSED
    return STRIDED if all(one.fastest == result.fastest for one in inputs) else TRANSPOSED


def item_bytes(tensor: Tensor) -> int:
    """Of an element, as PyTorch stores it."""
    return ITEM_BYTES.get(tensor.format, 2)
