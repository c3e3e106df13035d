"""What the probe reads: every pattern of the record, by name, and the ways in which the kernel reads it."""

from dataclasses import dataclass

from gpu_kernels.dram_probe.patterns import GIB, HEADS, MIB, ROW_BYTES, TOKENS, Gather, Pattern, Walk

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")  # kernel.cu compiles for these
KEEP_PERCENT = (5, 10, 25, 50, 75, 100)
LSB_PERCENT = (6, 25, 50)
STRIDES = tuple(2**power for power in range(6, 17))  # 64 B to 64 KiB
USEFUL_BYTES = 2 * GIB  # of one launch: some thirty times the L2, and long beside the launch itself
FOOTPRINT_BYTES = 16 * GIB
BUFFER_BYTES = 64 * GIB
FETCH_BYTES = (32, 64, 128)  # settings of the limit on the L2's fetch granularity
FETCH_PATTERNS = (
    "sequential",
    "strided_128_read_32",
    "random_32_in_16GiB",
    "random_64_in_16GiB",
    *(f"kv_32_keep{keep}" for keep in (10, 25, 50)),
    "kv_64_keep10",
)


@dataclass(frozen=True)
class Variant:
    """How the kernel reads: threads a block, 16-byte loads in flight a thread, and whether blocks stay resident
    (a grid that fills the chip once and strides over the stream) or each reads one chunk."""

    threads: int
    loads: int
    resident: bool

    @property
    def name(self) -> str:
        return f"{self.threads}x{self.loads}{'r' if self.resident else ''}"


VARIANTS = (
    *(Variant(threads, loads, False) for loads in (1, 2) for threads in (256, 512, 1024)),
    Variant(512, 3, False),
    *(Variant(threads, 4, False) for threads in (256, 512)),
    Variant(256, 8, False),
    Variant(128, 16, False),
    *(Variant(512, loads, True) for loads in (2, 4)),
)


def suite() -> tuple[Pattern, ...]:
    """All patterns, the sequential stream first."""
    return (
        Walk("sequential", 128, USEFUL_BYTES // 128, USEFUL_BYTES),
        *(strided(stride, row) for row in (32, 64) for stride in STRIDES if stride > row),
        *(random(row, FOOTPRINT_BYTES) for row in ROW_BYTES),
        *(random(32, footprint * GIB) for footprint in (2, 8, 32, 64)),
        *(Walk("cached", row, USEFUL_BYTES // row, 16 * MIB, seed=row) for row in ROW_BYTES),
        *(gather("kv", row, keep) for row in ROW_BYTES for keep in KEEP_PERCENT),
        *(gather("planes", row, 100, lsb) for row in ROW_BYTES for lsb in LSB_PERCENT),
        *(gather("planes", 64, 50, lsb) for lsb in LSB_PERCENT),
    )


def by_name(name: str) -> Pattern:
    """The pattern of that name; `ValueError` if the suite has none."""
    for pattern in suite():
        if pattern.name == name:
            return pattern
    raise ValueError(f"no pattern is called {name!r}")


def strided(stride_bytes: int, row_bytes: int) -> Walk:
    rows = min(USEFUL_BYTES // 2 // row_bytes, FOOTPRINT_BYTES // max(stride_bytes, 256) * max(1, stride_bytes // 256))
    return Walk("strided", row_bytes, rows, FOOTPRINT_BYTES, stride_bytes)


def random(row_bytes: int, footprint_bytes: int) -> Walk:
    rows = min(USEFUL_BYTES // 2, footprint_bytes // 2) // row_bytes
    return Walk("random", row_bytes, rows, footprint_bytes, seed=row_bytes + footprint_bytes // GIB)


def gather(kind: str, row_bytes: int, keep_percent: int, second_percent: int = 100) -> Gather:
    layer_bytes = HEADS * TOKENS * row_bytes
    one = Gather(
        kind, row_bytes, keep_percent, 1, layer_bytes, row_bytes + keep_percent + second_percent, second_percent
    )
    layers = -(-USEFUL_BYTES // one.useful_bytes)
    return Gather(kind, row_bytes, keep_percent, layers, layers * layer_bytes, one.seed, second_percent)
