"""Compiles kernels by NVRTC, keeps their cubins, and launches them on torch's current stream.

    kernel = load("w4a8_gemm/kernel.cu", "w4a8", {"TOKENS": 64})
    launch(kernel, grid=132, block=384, arguments=(x, ctypes.c_int(m)), shared_bytes=98304, early=True)

A source includes others by their path under `gpu_kernels` (`#include "common/ptx.cuh"`). Variants are macros: one
cubin a set of macros, kept in `cubin_folder()` and found again by the hash of text, options and compiler. Launching
allocates nothing and never waits, so CUDA graphs capture it.
"""

import ctypes
import hashlib
import os
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
OPTIONS = {"std": "c++17"}
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90a")  # what our kernels are written for
_INCLUDE = re.compile(r'^#include "([^"]+)"\n', re.MULTILINE)
_ELF = b"\x7fELF"  # what a cubin begins with; a damaged one in the cache is made again
_DEFAULT_SHARED_BYTES = 48 << 10  # more has to be asked for (CUDA C++ programming guide, shared memory)


def source(name: str) -> str:
    """Text of `gpu_kernels/<name>`, with the files that it includes in their places, each once."""
    seen: set[str] = set()

    def text(file: str) -> str:
        if file in seen:
            return ""
        seen.add(file)
        return _INCLUDE.sub(lambda found: text(found[1]), (FOLDER / file).read_text(encoding="utf-8"))

    return text(name)


def source_hash(name: str) -> str:
    """SHA-256 of what NVRTC reads for `gpu_kernels/<name>`: what a record keeps."""
    return hashlib.sha256(source(name).encode()).hexdigest()


def cubin_folder() -> Path:
    """Where cubins are kept: `$TILEWRIGHT_CACHE`, else the user's cache folder."""
    if own := os.environ.get("TILEWRIGHT_CACHE"):
        base = Path(own).expanduser()
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "tilewright"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tilewright"
    return base / "cubins"


def compile_cubin(name: str, architecture: str, macros: Mapping[str, object] | None = None, text: str = "") -> Any:
    """`cuda.core.ObjectCode` of `gpu_kernels/<name>` (or of `text`, by that name) for `architecture` ("sm_90a").

    Raises `cuda.core`'s error with NVRTC's log where the source does not compile.
    """
    from cuda.core import ObjectCode, Program, ProgramOptions
    from cuda.core.utils import FileStreamProgramCache, make_program_cache_key

    code = text or source(name)
    defines = [(key, str(value)) for key, value in sorted((macros or {}).items())]
    options = ProgramOptions(arch=architecture, name=name.replace("/", "-"), define_macro=defines or None, **OPTIONS)
    key = make_program_cache_key(code=code, code_type="c++", options=options, target_type="cubin")
    try:
        with FileStreamProgramCache(cubin_folder()) as kept:
            found = kept.get(key)
            if found is None or not found.startswith(_ELF):
                found = bytes(Program(code, "c++", options).compile("cubin").code)
                kept[key] = found
    except OSError:  # a folder that cannot be written costs time, nothing else
        found = bytes(Program(code, "c++", options).compile("cubin").code)
    return ObjectCode.from_cubin(found, name=name)


@cache
def architecture() -> str:
    """Of torch's current GPU: "sm_80", "sm_90a". Raises RuntimeError where torch sees none."""
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("kernels need a CUDA device: torch.cuda.is_available() is False")
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}{'a' if major >= 9 else ''}"


def require(kind: str, architectures: tuple[str, ...]) -> str:
    """This GPU's architecture; RuntimeError unless the kernel is written for it."""
    found = architecture()
    if found not in architectures:
        raise RuntimeError(f"{kind}: written for {', '.join(architectures)}, this GPU is {found}")
    return found


def check_device(where: str, tensor: Any) -> None:
    """ValueError unless the tensor is on torch's current GPU: that is where kernels are launched."""
    import torch

    if tensor.is_cuda and tensor.device.index != torch.cuda.current_device():
        here = torch.cuda.current_device()
        raise ValueError(f"{where}: tensors must be on the current device cuda:{here}, got {tensor.device}")


@cache
def multiprocessors() -> int:
    """Of torch's current GPU."""
    import torch

    return int(torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count)


_LOADED: dict[tuple[Any, ...], Any] = {}


def load(name: str, symbol: str, macros: Mapping[str, object] | None = None, shared_bytes: int = 0) -> Any:
    """The kernel `symbol` (extern "C") of a source with these macros on this GPU, allowed that much shared memory."""
    import torch

    key = (name, symbol, tuple(sorted((macros or {}).items())), shared_bytes, torch.cuda.current_device())
    if key not in _LOADED:
        _LOADED[key] = _load(name, symbol, macros, shared_bytes)
    return _LOADED[key]


def _load(name: str, symbol: str, macros: Mapping[str, object] | None, shared_bytes: int) -> Any:
    import torch
    from cuda.bindings import driver
    from cuda.core import Device

    device = Device(torch.cuda.current_device())
    device.set_current()  # torch's primary context
    kernel = compile_cubin(name, architecture(), macros).get_kernel(symbol)
    if shared_bytes > _DEFAULT_SHARED_BYTES:
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        handle = driver.CUkernel(int(kernel.handle))
        (status,) = driver.cuKernelSetAttribute(attribute, shared_bytes, handle, driver.CUdevice(device.device_id))
        if int(status):
            raise RuntimeError(f"{name}: {shared_bytes} bytes of shared memory are refused: {status!r}")
    return kernel


def launch(
    kernel: Any,
    grid: Any,
    block: int,
    arguments: tuple[Any, ...],
    shared_bytes: int = 0,
    cluster: int = 0,
    early: bool = False,
) -> None:
    """Start a kernel on torch's current stream; tensors are passed as pointers, numbers as ctypes, maps as they are.

    grid      blocks, a number or up to three; with `cluster` a number of clusters of that many blocks
    early     the kernel may start while the one before it still runs (programmatic dependent launch); it calls
              `griddepcontrol.wait` before it reads what that one wrote

    Raises RuntimeError where the driver refuses. (`cuda.core.launch` takes no tensor map without keeping its tensor.)
    """
    import torch
    from cuda.bindings import driver

    x, y, z = (*((grid,) if isinstance(grid, int) else grid), 1, 1)[:3]
    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = x * max(cluster, 1), y, z
    config.blockDimX, config.blockDimY, config.blockDimZ = block, 1, 1
    config.sharedMemBytes = shared_bytes
    config.hStream = torch.cuda.current_stream().cuda_stream
    config.attrs = attributes = _attributes(cluster, early)
    config.numAttrs = len(attributes)
    (status,) = driver.cuLaunchKernelEx(config, driver.CUfunction(int(kernel.handle)), _parameters(arguments), 0)
    if int(status):
        raise RuntimeError(f"kernel is refused: {status!r}, grid {grid}, {block} threads, {shared_bytes} shared bytes")


@cache
def _attributes(cluster: int, early: bool) -> list[Any]:
    from cuda.bindings import driver

    found = []
    if cluster:
        one = driver.CUlaunchAttribute()
        one.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        one.value.clusterDim.x, one.value.clusterDim.y, one.value.clusterDim.z = cluster, 1, 1
        found.append(one)
    if early:
        one = driver.CUlaunchAttribute()
        one.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        one.value.programmaticStreamSerializationAllowed = 1
        found.append(one)
    return found


def _parameters(arguments: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Values and their ctypes; None for what brings its own bytes (a tensor map)."""
    values: list[Any] = []
    types: list[Any] = []
    for one in arguments:
        if hasattr(one, "data_ptr"):
            values.append(one.data_ptr())
            types.append(ctypes.c_void_p)
        elif isinstance(one, ctypes._SimpleCData):
            values.append(one.value or 0)
            types.append(type(one))
        else:
            values.append(one)
            types.append(ctypes.c_void_p if isinstance(one, int) else None)
    return tuple(values), tuple(types)


def tensor_map(
    address: int,
    sizes: tuple[int, ...],
    pitches: tuple[int, ...],
    box: tuple[int, ...],
    element_bytes: int = 1,
    swizzle: bool = False,
) -> Any:
    """A TMA descriptor on the current GPU, innermost dimension first. PTX ISA, "Tensors", "Swizzling modes".

    sizes    elements of each dimension; what lies outside arrives as zeros
    pitches  bytes from one to the next, of all dimensions but the innermost; multiples of 16, as the address
    box      elements of each dimension that one copy brings, at most 256
    swizzle  128-byte swizzle: the box's innermost dimension is 128 bytes

    Raises ValueError where the driver refuses.
    """
    from cuda.bindings import driver

    types, u32, u64 = driver.CUtensorMapDataType, driver.cuuint32_t, driver.cuuint64_t
    swizzles = driver.CUtensorMapSwizzle
    status, found = driver.cuTensorMapEncodeTiled(
        {1: types.CU_TENSOR_MAP_DATA_TYPE_UINT8, 8: types.CU_TENSOR_MAP_DATA_TYPE_UINT64}[element_bytes],
        len(sizes),
        address,
        [u64(size) for size in sizes],
        [u64(pitch) for pitch in pitches],
        [u32(size) for size in box],
        [u32(1) for _ in box],
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        swizzles.CU_TENSOR_MAP_SWIZZLE_128B if swizzle else swizzles.CU_TENSOR_MAP_SWIZZLE_NONE,
        driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    )
    if int(status):
        raise ValueError(f"tensor map of {sizes} at {address:#x}, pitches {pitches}, box {box} is refused: {status!r}")
    return found
