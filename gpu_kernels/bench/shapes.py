"""What is timed: GEMMs of Llama-3-8B, FLUX and Qwen-72B, decode attention of Llama-3-8B; bytes, operations, floors."""

from collections.abc import Iterator
from dataclasses import dataclass

GROUP = 128
TOKENS = {
    "l3-8b": (1, 16, 64, 128, 256, 1024, 4096),
    "flux": (4096, 4608),
    "qw72": (1, 16, 64, 128, 256, 1024, 4096),
}
LAYERS = {  # (N, K)
    "l3-8b": {"qkv": (6144, 4096), "o": (4096, 4096), "gateup": (28672, 4096), "down": (4096, 14336)},
    "flux": {
        "qkv": (9216, 3072),
        "o": (3072, 3072),
        "up": (12288, 3072),
        "down": (3072, 12288),
        "sgl-out": (3072, 15360),
    },
    "qw72": {"qkv": (24576, 8192), "o": (8192, 8192), "gateup": (49152, 8192), "down": (8192, 24576)},
}
HEADS, KV_HEADS, HEAD_SIZE = 32, 8, 128  # Llama-3-8B
BATCHES, CONTEXTS = (1, 64, 128, 256), (1024, 2048, 4096, 8192)
CLASSES = ("M <= 64", "M 128 to 256", "M >= 1024", "FLUX")


@dataclass(frozen=True)
class Gemm:
    """y [M, N] = x [M, K] W^T, W [N, K]."""

    layer: str
    m: int
    n: int
    k: int

    @property
    def name(self) -> str:
        return f"{self.m}x{self.n}x{self.k}"

    @property
    def operations(self) -> int:
        return 2 * self.m * self.n * self.k

    def bytes_moved(self, grouped: bool = False) -> int:
        """W4A8: codes, activations, 16-bit outputs, scales of channels; two bytes a group of 128 weights."""
        groups = 2 * self.n * self.k // GROUP if grouped else 0
        return self.n * self.k // 2 + self.m * self.k + 2 * self.m * self.n + 4 * self.n + groups

    def floor_us(self, bytes_per_s: float, operations_per_s: float, grouped: bool = False) -> float:
        """No kernel that reads each operand once and multiplies in INT8 takes less."""
        return 1e6 * max(self.bytes_moved(grouped) / bytes_per_s, self.operations / operations_per_s)

    @property
    def kind(self) -> str:
        """The class whose mean it enters."""
        if self.layer.startswith("flux"):
            return "FLUX"
        return CLASSES[0] if self.m <= 64 else CLASSES[1] if self.m <= 256 else CLASSES[2]


@dataclass(frozen=True)
class Attention:
    """One decode step of one layer: `batch` sequences with `context` cached tokens each."""

    batch: int
    context: int

    @property
    def name(self) -> str:
        return f"batch {self.batch} context {self.context}"

    def bytes_moved(self, bits: int) -> int:
        """Keys and values once; 4 and 8 bits with a float16 scale and zero a token and head."""
        row = HEAD_SIZE * bits // 8 + (4 if bits < 16 else 0)
        return 2 * KV_HEADS * self.batch * self.context * row

    def floor_us(self, bytes_per_s: float, bits: int = 4) -> float:
        return 1e6 * self.bytes_moved(bits) / bytes_per_s


def gemms() -> Iterator[Gemm]:
    """All 66, as h200's peers were measured."""
    for model, layers in LAYERS.items():
        for layer, (n, k) in layers.items():
            yield from (Gemm(f"{model} {layer}", m, n, k) for m in TOKENS[model])


def attentions() -> Iterator[Attention]:
    """All 16, short contexts first."""
    for context in CONTEXTS:
        yield from (Attention(batch, context) for batch in BATCHES)
