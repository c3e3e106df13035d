"""Compiles kernel.cu by NVRTC, one cubin with every instantiation that is asked for."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpu_kernels.dram_probe.patterns import Gather, Pattern
from gpu_kernels.dram_probe.suite import Variant

if TYPE_CHECKING:
    from cuda.core import ObjectCode

SOURCE = Path(__file__).with_name("kernel.cu")
OPTIONS = {"std": "c++17"}


def instantiation(pattern: Pattern, variant: Variant) -> str:
    """C++ name of the kernel that reads `pattern` by `variant`."""
    return f"dram_probe<{stream(pattern)}, {variant.threads}, {variant.loads}>"


def stream(pattern: Pattern) -> str:
    """C++ type of the stream."""
    if isinstance(pattern, Gather):
        return f"Gather<{pattern.row_bytes}, {pattern.kept}, {pattern.head_rows}>"
    if pattern.kind == "sequential":
        return f"Sequential<{pattern.row_bytes}>"
    if pattern.kind == "strided":
        return f"Strided<{pattern.row_bytes}, {pattern.stride_bytes}, {pattern.rows_per_pass}>"
    return f"Random<{pattern.row_bytes}, {pattern.bits}>"


def compile_kernels(architecture: str, names: Sequence[str]) -> "ObjectCode":
    """Compile the instantiations `names` for `architecture` (sm_90, ...)."""
    from cuda.core import Program, ProgramOptions

    options = ProgramOptions(arch=architecture, **OPTIONS)
    program = Program(SOURCE.read_text(encoding="utf-8"), "c++", options)
    return program.compile("cubin", name_expressions=sorted(set(names)))
