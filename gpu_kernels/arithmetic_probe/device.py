"""Runs the probed instructions on the current GPU: NumPy bits in, NumPy bits out."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_kernels.arithmetic_probe.instructions import COLUMNS, PRODUCTS, ROWS, SCALARS

SOURCE = Path(__file__).with_name("kernel.cu")
OPTIONS = {"std": "c++17"}
POISON = 0x7FA5A5A5  # a NaN: what no instruction wrote stays visible
Words = NDArray[np.uint32]


def compile_kernels(architecture: str) -> Any:
    """Every kernel that `architecture` ("sm_90a") has, as one cubin."""
    from cuda.core import Program, ProgramOptions

    program = Program(SOURCE.read_text(encoding="utf-8"), "c++", ProgramOptions(arch=architecture, **OPTIONS))
    return program.compile("cubin")


class Device:
    """The first GPU with its kernels; those that it lacks are not in `names`."""

    def __init__(self) -> None:
        import torch
        from cuda.core import Device as CudaDevice

        properties = torch.cuda.get_device_properties(0)
        self.sm = properties.major * 100 + properties.minor * 10
        suffix = "a" if self.sm == 900 else ""
        self.architecture = f"sm_{self.sm // 10}{suffix}"
        self._device = CudaDevice()
        self._device.set_current()
        self._stream = self._device.create_stream()
        code = compile_kernels(self.architecture)
        names = [name for name, one in PRODUCTS.items() if self.sm >= one.sm and (one.family == "mma" or suffix)]
        fp8, pairs = ("e4m3_of_float32", "e5m2_of_float32"), ("multiply_bfloat16", "add_bfloat16")
        lacks = (fp8 if self.sm < 890 else ()) + (pairs if self.sm < 900 else ())
        self.kernels = {name: code.get_kernel(name) for name in (*names, *(n for n in SCALARS if n not in lacks))}

    def product(self, name: str, a: NDArray[Any], b: NDArray[Any], c: Words) -> Words:
        """D of tiles: a [tiles, 64, K], b [tiles, 8, K] as bits of their type, c uint32 [tiles, 64, 8]."""
        import torch

        one = PRODUCTS[name]
        held = [self._words(x) for x in (a, b, c)]
        found = torch.full((len(a), ROWS, COLUMNS), POISON, dtype=torch.int32, device="cuda")
        self._launch(name, len(a), 128, *held, found, ctypes.c_int(a.shape[2] // one.depth))
        return found.cpu().numpy().view(np.uint32)

    def scalar(self, name: str, *operands: Words) -> Words:
        """Results of uint32 [n] operands (16-bit floats in the low half)."""
        import torch

        held = [self._words(x) for x in operands]
        found = torch.full((operands[0].size,), POISON, dtype=torch.int32, device="cuda")
        nothing = [0] * (3 - len(held))
        self._launch(name, -(-found.numel() // 256), 256, *held, *nothing, found, ctypes.c_uint64(found.numel()))
        return found.cpu().numpy().view(np.uint32)

    @staticmethod
    def _words(values: NDArray[Any]) -> Any:
        import torch

        return torch.from_numpy(np.ascontiguousarray(values).view(np.uint8)).cuda()

    def _launch(self, name: str, blocks: int, threads: int, *arguments: Any) -> None:
        import torch
        from cuda.core import LaunchConfig, launch

        torch.cuda.synchronize()
        plain = [one.data_ptr() if isinstance(one, torch.Tensor) else one for one in arguments]
        launch(self._stream, LaunchConfig(grid=blocks, block=threads), self.kernels[name], *plain)
        self._stream.sync()
