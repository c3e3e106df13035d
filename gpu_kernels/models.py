"""The functional model of each kind of quantized linear layer: its kernel's arithmetic, bit for bit.

    from gpu_kernels.models import kernel_model

    run = kernel_model("w4a8_group")
    y = run(x, state, "float16")   # x float32 [M, K] on the float16 grid, state: the layer's arrays; y float32 [M, N]

Modules are imported when they are asked for, since Numba compiles on the first call.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from numpy.typing import NDArray

Model = Callable[[NDArray[Any], Mapping[str, NDArray[Any]], str], NDArray[Any]]
MODULES = {
    "w4a8_channel": "w4a8_gemm",
    "w4a8_group": "w4a8_gemm",
    "w8a8": "w8a8_gemm",
    "w4a16": "w4a16_gemm",
    "nf4": "w4a16_gemm",
    "w4a4": "w4a4_gemm",
    "w4a4_nvfp4": "nvfp4_gemm",
}


def kernel_model(kind: str) -> Model:
    """`linear(x, state, form)` of the kernel that runs this kind of layer. Raises ValueError for another kind."""
    if kind not in MODULES:
        near = get_close_matches(kind, MODULES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"kernel model: kind must be one of {', '.join(MODULES)}, got {kind!r}{hint}")
    found: Model = import_module(f"gpu_kernels.{MODULES[kind]}.model").linear
    return found
