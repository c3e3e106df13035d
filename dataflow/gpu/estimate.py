"""`Estimate`: what the model of a kernel returns for many problems at once."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """Arrays [points] of one class of kernels.

    kind              class of the error table: "gemm_bf16", "gemm_w4a8_group", "decode_attention_kv4", ...
    seconds           of one call among calls that follow at once in a CUDA graph: the launch gap is in it
    floor_s           no implementation on this device takes less: compulsory bytes over bandwidth, operations over rate
    dram_read_bytes, dram_write_bytes   that cross the memory bus
    l2_bytes          that multiprocessors read from or write to the L2
    operations        executed, by unit (fields of `accel.gpu.machine.Rates`); a multiply-add counts two
    terms             seconds that each resource alone would take ("dram", "l2", "tensor", "alu", "special", "launch",
                      "waves", ...): the largest is what limits
    """

    kind: str
    seconds: Floats
    floor_s: Floats
    dram_read_bytes: Floats
    dram_write_bytes: Floats
    l2_bytes: Floats
    operations: Mapping[str, Floats]
    terms: Mapping[str, Floats]

    def limited_by(self) -> list[str]:
        """Name of the largest term of each point."""
        names = list(self.terms)
        largest = np.argmax(np.stack([self.terms[name] for name in names]), axis=0)
        return [names[index] for index in np.atleast_1d(largest)]
