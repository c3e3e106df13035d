"""Which kernels an operator launches, and what each reads and writes: facts of the framework, not fitted.

PyTorch 2.11 on contiguous operands; `h` is a 16-bit type, `f` float32. Our own quantizers stand beside them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class Step:
    """One kernel.

    kernel                    its name in the fit
    read_bytes, write_bytes   an element of the operator's input (each "element") or a row of it (each "row")
    row_bytes                 read once a row beside them: statistics, scales
    fresh_bytes               of read_bytes, what the kernel before has just written
    rereads                   reads its row twice: from the L1 as long as the rows of all blocks in flight fit
    blocks                    "rows": work on whole rows; "reduce rows", "reduce all": PyTorch's reductions
    threads                   of a row, each with one element at a time in its registers: shorter rows cost as full ones
    quantizes                 mode of our quantizers of activations
    short_kernel              that takes its place for rows of up to `short_width`
    operations                (unit, how many an element), about; "int32" are all instructions of a thread. For energy:
                              time counts issue slots
    """

    kernel: str
    read_bytes: float
    write_bytes: float
    row_bytes: float = 0.0
    fresh_bytes: float = 0.0
    each: Literal["element", "row"] = "element"
    blocks: Literal["flat", "rows", "reduce rows", "reduce all"] = "flat"
    rereads: bool = False
    threads: int = 1
    quantizes: str = ""
    short_kernel: str = ""
    short_width: float = 0.0
    operations: tuple[tuple[str, float], ...] = (("int32", 6.6),)


@dataclass(frozen=True)
class Operator:
    """Kernels in turn.

    footprint    bytes an element that they touch altogether
    compulsory   that any implementation must move
    kind         class of the error table
    """

    steps: tuple[Step, ...]
    footprint: float
    compulsory: float
    kind: str = "elementwise"


# instructions of a thread: 0.7 of the issue slots that the time of a kernel shows where they limit it (the share that
# our GEMMs use, `w4.wgmma.issue`); of others, from machine code for sm_90 of the same arithmetic
_MOVE, _CAST, _ADD = (("int32", 1.75),), (("int32", 3.0),), (("int32", 6.6),)
_SIGMOID, _ERF = (("int32", 20.0), ("special", 2.0)), (("int32", 28.0), ("special", 1.0))
_TANH, _SOFTMAX = (("int32", 23.0), ("special", 2.0)), (("int32", 75.0), ("special", 2.0))
_LAYER, _NORM = (("int32", 33.0), ("special", 1.0)), (("int32", 27.0),)
_QUANTIZE, _REDUCE, _GATE = (("int32", 15.0),), (("int32", 3.0),), (("int32", 27.0), ("special", 1.0))
Counts = tuple[tuple[str, float], ...]


def _plain(kernel: str, read: float, write: float, operations: Counts = _ADD) -> Operator:
    return Operator((Step(kernel, read, write, operations=operations),), read + write, read + write)


def _rows(kernel: str, read: float, write: float, operations: Counts = _NORM) -> Operator:
    step = Step(kernel, read, write, rereads=True, blocks="rows", operations=operations)
    return Operator((step,), read + write, read + write, "rows")


_SILU, _AGAIN = Step("silu", 2, 2, operations=_SIGMOID), Step("binary", 4, 2, fresh_bytes=2)
_ELEMENTWISE = {
    "add": _plain("binary", 4, 2),
    "mul": _plain("binary", 4, 2),
    "copy": _plain("copy", 2, 2, _MOVE),
    "to_float32": _plain("widen", 2, 4, _CAST),
    "to_bfloat16": _plain("narrow", 4, 2, _CAST),
    "silu": Operator((_SILU,), 4, 4),
    "gelu": _plain("gelu", 2, 2, _ERF),
    "gelu_tanh": _plain("gelu_tanh", 2, 2, _TANH),
    "relu": _plain("unary", 2, 2),
    "add_float32": _plain("binary_float32", 8, 4),
    "fill": _plain("fill", 0, 2, _MOVE),
    # SiLU is stored and read again: 5 accesses where a fused kernel has 3
    "silu_mul": Operator((_SILU, _AGAIN), 6, 6),
    # 1 + b, times a, plus b
    "modulate": Operator((Step("unary", 2, 2), _AGAIN, _AGAIN), 6, 6),
}
_SOFTMAX_STEP = Step(
    "softmax", 2, 2, blocks="rows", threads=1024, short_kernel="softmax_warp", short_width=1024, operations=_SOFTMAX
)
_ROWS = {
    "layer_norm": _rows("layer_norm", 2, 2, _LAYER),
    "rms_norm": _rows("rms_norm", 2, 2),
    "softmax": Operator((_SOFTMAX_STEP,), 4, 4, "rows"),
    "mean_rows": Operator((Step("reduce", 2, 0, blocks="reduce rows", operations=_REDUCE),), 2, 2, "rows"),
    "sum": Operator((Step("reduce_all", 2, 0, blocks="reduce all", operations=_REDUCE),), 2, 2, "rows"),
    "cat": Operator((Step("cat", 2, 4, operations=_MOVE),), 6, 6, "rows"),  # of a tensor with itself
    "transpose": Operator((Step("transpose", 2, 2, operations=_MOVE),), 4, 4, "rows"),
    # as vLLM had them in 2024: a block a token, 16 bits a load; a gate halves its row, queries and keys turn in place
    "rms_norm_narrow": _rows("rms_norm_narrow", 2, 2),
    "silu_mul_narrow": Operator((Step("silu_mul_narrow", 4, 2, blocks="rows", operations=_GATE),), 6, 6, "rows"),
    "rope": Operator((Step("rope", 2, 2, blocks="rows", operations=_ERF),), 2, 2, "rows"),
    # cast to float32, square, mean, add epsilon, root, multiply by it, cast back, multiply by the weight
    "rms_norm_eager": Operator(
        (
            Step("widen", 2, 4),
            Step("unary_float32", 4, 4, fresh_bytes=4),
            Step("reduce_float32", 4, 0, fresh_bytes=4, blocks="reduce rows", operations=_REDUCE),
            Step("small", 4, 4, each="row"),
            Step("small", 4, 4, each="row"),
            Step("scale_rows", 4, 4, row_bytes=4),
            Step("narrow", 4, 2, fresh_bytes=4),
            Step("scale_columns", 2, 2, fresh_bytes=2),
        ),
        14,
        4,
        "rows",
    ),
}


# int8 codes from 16-bit inputs; norm adds a residual that is read and written (`gpu_kernels/activations`)
def _quantizer(mode: str, read: float, write: float, operations: Counts) -> Operator:
    kernel = "quantize" if mode == "plain" else f"quantize_{mode}"
    step = Step(kernel, read, write, blocks="rows", quantizes=mode, operations=operations)
    distinct = 5 if mode == "norm" else read + write  # the residual is written where it was read
    return Operator((step,), distinct, distinct, "quantize")


_QUANTIZERS = {
    "quantize": _quantizer("plain", 2, 1, _QUANTIZE),
    "quantize_norm": _quantizer("norm", 4, 3, _QUANTIZE),
    "quantize_gate": _quantizer("gate", 4, 1, _GATE),
}
OPERATORS: Mapping[str, Operator] = MappingProxyType(_ELEMENTWISE | _ROWS | _QUANTIZERS)
