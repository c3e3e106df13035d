"""Sizes of a decode layer. No torch, no CUDA."""

from dataclasses import dataclass

GROUP = 128  # inputs that share a scale and zero of the weights
EPSILON = 1e-5
ROTARY_BASE = 500000.0
PAGE = 64  # tokens of a cache page


@dataclass(frozen=True)
class Sizes:
    """Channels and heads; `inner` is the width between up and down."""

    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    inner: int

    @property
    def projected(self) -> int:
        """Channels of query, key and value together."""
        return (self.heads + 2 * self.kv_heads) * self.head_size

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """(N, K) of each: query, key and value in one, gate and up in one."""
        width = self.heads * self.head_size
        return {
            "qkv": (self.projected, self.hidden),
            "o": (self.hidden, width),
            "gate_up": (2 * self.inner, self.hidden),
            "down": (self.hidden, self.inner),
        }

    @property
    def weights(self) -> int:
        """Numbers in the matrices."""
        return sum(n * k for n, k in self.matrices.values())

    def cache_numbers(self, batch: int, context: int) -> int:
        """Of keys and values."""
        return 2 * batch * context * self.kv_heads * self.head_size


LLAMA3_8B = Sizes(4096, 32, 8, 128, 14336)
