"""QServe's published throughput beside the sum of its unfitted kernels: A100 per channel, L40S with groups of 128.

    tokens a second <= batch x outputs / (linear layers of prompts + linear layers, attention, output layer of steps)

Only kernels that `dataflow/gpu/published_kernels` has, and the float16 output layer as bytes: norms, activations, flash
attention of the prompts, sampling and the host are left out, so this is an upper bound. Input 1024, output 512 tokens,
all sequences of a batch in step (no in-flight batching); batch and throughput as its README prints them.
"""

from dataclasses import dataclass

import numpy as np

from accel.gpu.machine import GpuMachine
from accel.machine import load_machine
from dataflow.gpu.published_kernels.attention import qserve_attention
from dataflow.gpu.published_kernels.gemm import published_gemm

PROMPT, OUTPUTS = 1024, 512
_CHUNK = 4096  # tokens of a prompt GEMM that is timed; longer ones are multiples
KERNELS = {"a100_80g_sxm": "qserve_w4a8_channel", "l40s": "qserve_w4a8_group"}


@dataclass(frozen=True)
class Model:
    """A decoder: sizes from its configuration file."""

    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int

    @property
    def linear(self) -> tuple[list[int], list[int]]:
        """(N, K) of a layer: query, key and value together; output; gate and up together; down."""
        size = self.width // self.heads
        n = [self.width + 2 * self.kv_heads * size, self.width, 2 * self.inner, self.width]
        return n, [self.width, self.width, self.width, self.inner]


MODELS = {
    "llama-3-8b": Model(32, 4096, 14336, 32, 8, 128256),
    "llama-2-7b": Model(32, 4096, 11008, 32, 32, 32000),
    "mistral-7b": Model(32, 4096, 14336, 32, 8, 32000),
    "llama-2-13b": Model(40, 5120, 13824, 40, 40, 32000),
    "llama-30b": Model(60, 6656, 17920, 52, 52, 32000),
    "yi-34b": Model(60, 7168, 20480, 56, 8, 64000),
    "llama-2-70b": Model(80, 8192, 28672, 64, 8, 32000),
    "qwen1.5-72b": Model(80, 8192, 24576, 64, 64, 152064),
}
PUBLISHED = {  # README of mit-han-lab/omniserve: (tokens a second, batch), in the order of MODELS
    "a100_80g_sxm": ((3005, 256), (2908, 190), (2970, 256), (1741, 128), (749, 64), (803, 196), (419, 96), (340, 32)),
    "l40s": ((3656, 128), (2394, 128), (3774, 128), (1327, 75), (504, 32), (869, 64), (286, 24), (59, 4)),
}


def tokens_per_s(machine: GpuMachine, kernel: str, model: Model, batch: int) -> float:
    """The upper bound."""
    prompts = batch * PROMPT / _CHUNK * _linear_s(machine, kernel, model, _CHUNK)
    context = np.arange(PROMPT + 1, PROMPT + OUTPUTS + 1)
    heads = {"heads": model.heads, "kv_heads": model.kv_heads, "head_size": model.width // model.heads}
    attention = model.layers * qserve_attention(machine, batch, context, **heads).seconds.sum()
    last = 2.0 * model.vocabulary * model.width / machine.memory.read_bytes_per_s
    steps = OUTPUTS * (_linear_s(machine, kernel, model, batch) + last) + attention
    return float(batch * OUTPUTS / (prompts + steps))


def claims() -> list[tuple[str, str, float, int]]:
    """(machine, model, predicted, published) tokens a second."""
    found = []
    for name, rows in PUBLISHED.items():
        machine = load_machine(name)
        assert isinstance(machine, GpuMachine)
        for (title, model), (published, batch) in zip(MODELS.items(), rows, strict=True):
            found.append((name, title, tokens_per_s(machine, KERNELS[name], model, batch), published))
    return found


def _linear_s(machine: GpuMachine, kernel: str, model: Model, tokens: int) -> float:
    n, k = model.linear
    return float(model.layers * published_gemm(machine, kernel, tokens, n, k).seconds.sum())


if __name__ == "__main__":
    for row in claims():
        print("{:14} {:12} {:8.0f} {:6}".format(*row))
