"""Random operands without drawing them anew for every point: views into a few large pools of the GPU's memory."""

from typing import Any

SEED = 2033
ALIGN = 256  # bytes between sets: what an allocation of one's own would have


class Pool:
    """Random numbers of one type; matrices are views of it, contiguous, at multiples of ALIGN bytes.

    Normal for bfloat16, float16, float32 and float8_e4m3fn, uniform over all bytes for int8 and uint8.
    """

    def __init__(self, dtype: Any, size_bytes: int, seed: int = SEED) -> None:
        import torch

        draw = torch.Generator("cuda").manual_seed(seed)
        self.dtype, self.size_bytes = dtype, size_bytes
        if dtype in (torch.int8, torch.uint8):
            raw = torch.empty(size_bytes // 4, dtype=torch.int32, device="cuda")
            self.data = raw.random_(-(2**31), 2**31 - 1, generator=draw).view(dtype)
        elif dtype.itemsize == 1:
            wide = torch.empty(size_bytes, dtype=torch.bfloat16, device="cuda").normal_(generator=draw)
            self.data = wide.to(dtype)
        else:
            self.data = torch.empty(size_bytes // dtype.itemsize, dtype=dtype, device="cuda").normal_(generator=draw)

    def views(self, sets: int, *shape: int) -> list[Any]:
        """So many tensors of a shape that share no byte. Raises MemoryError where the pool is too small."""
        count = 1
        for extent in shape:
            count *= extent
        step = -(-count * self.dtype.itemsize // ALIGN) * ALIGN // self.dtype.itemsize
        if (sets - 1) * step + count > len(self.data):
            raise MemoryError(f"a pool of {self.size_bytes} bytes has no {sets} sets of {shape} in {self.dtype}")
        return [self.data[i * step : i * step + count].view(shape) for i in range(sets)]

    def view(self, *shape: int) -> Any:
        """One."""
        return self.views(1, *shape)[0]


def room(wanted: int, share: float = 0.25) -> int:
    """So many bytes, or that share of what is free, whichever is less: cards smaller than the points."""
    import torch

    free, _ = torch.cuda.mem_get_info()
    return min(wanted, int(share * free)) // ALIGN * ALIGN
