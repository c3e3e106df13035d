"""Facts of GPU generations that kernel models need and data sheets leave out: latencies, register files, issue.

None is fitted to a kernel that is predicted with it. Latencies of pointer chases are those of gpu-benches (Ernst) as
published; each is kept in cycles up to the far half of the L2, and in seconds beyond it, since DRAM has its own clock.
"""

from dataclasses import dataclass

SCHEDULERS = 4  # a multiprocessor's, an instruction a cycle each: CUDA programming guide, since Maxwell
REGISTERS = 65_536  # of 32 bits, a multiprocessor: CUDA programming guide
REGISTER_STEP = 8  # a thread's registers are given out in eights: CUDA occupancy calculator, unit of 256 a warp
RESERVED_SHARED = 1024  # bytes a block that the system takes: CUDA programming guide, since sm_80
SHARED_BYTES = 128  # a cycle of a multiprocessor: one wavefront
HALF_RATE = 2.0  # cycles of a scheduler for an integer or logic instruction: 64 lanes of 128, throughput table
ARRIVE = 64.0  # bytes a cycle that a multiprocessor takes from the L2: CUDA's profiler calls it the peak since Volta
START_S = 1.5e-6
"""Until reads from DRAM flow: measured: 64 MB at 4.0e12 bytes a second (gpu_kernels/w4a8_portable/README.md) where long
reads reach 4.616e12, less launch; assumed: the same on other GPUs."""


@dataclass(frozen=True)
class Microarchitecture:
    """Of one compute capability.

    mma_sync          share of the tensor cores' rate that mma.sync reaches
    threads           resident at most, a multiprocessor
    l1_cycles         load that hits the L1
    shared_cycles     ldmatrix or load from shared memory until its value is used
    l2_cycles         mean load that hits the L2
    l2_far_cycles     of its far half; the last of a block's loads comes from there
    dram_beyond_s     DRAM behind the L2: latency of a miss less the mean hit
    barrier_cycles    __syncthreads of a block whose warps arrive together
    """

    mma_sync: float
    threads: int
    l1_cycles: float
    shared_cycles: float
    l2_cycles: float
    l2_far_cycles: float
    dram_beyond_s: float
    barrier_cycles: float

    def last_load_cycles(self, clock_hz: float) -> float:
        """Of loads from DRAM that many threads issue at once: until the last has come."""
        return self.l2_far_cycles + self.dram_beyond_s * clock_hz


KNOWN = {
    "sm_80": Microarchitecture(
        mma_sync=1.0,  # verified: the data sheet's rate is that of mma.sync, 624 TOPS
        threads=2048,  # verified: CUDA programming guide
        l1_cycles=36,  # verified: published pointer chase, A100
        shared_cycles=23,  # recalled: microbenchmarks of Ampere, arXiv 2208.11174
        l2_cycles=317,  # derived: middle of 211 to 423
        l2_far_cycles=423,  # verified: published pointer chase, A100, the larger of 211 to 423
        dram_beyond_s=1.79e-7,  # derived: (570 - 317) cycles at 1.41 GHz
        barrier_cycles=30,  # recalled: 20 to 40
    ),
    "sm_89": Microarchitecture(
        mma_sync=1.0,  # verified: the data sheet's rate is that of mma.sync
        threads=1536,  # verified: CUDA programming guide
        l1_cycles=36,  # verified: published pointer chase, L40
        shared_cycles=23,  # assumed: as Ampere
        l2_cycles=276,  # verified: published pointer chase, L40
        l2_far_cycles=276,  # assumed: one latency; the chase shows no second step
        dram_beyond_s=1.35e-7,  # derived: RTX 4090, (636 - 296) cycles at 2.52 GHz
        barrier_cycles=30,  # recalled: 20 to 40
    ),
    "sm_90": Microarchitecture(
        mma_sync=0.6077,  # measured: s8, 1.301e15 a second (kernels_bench_h200.json) of 2.141e15 at 1.98 GHz
        threads=2048,  # verified: CUDA programming guide
        l1_cycles=34,  # verified: published pointer chase, H100 PCIe
        shared_cycles=33,  # recalled: microbenchmarks of Hopper, arXiv 2402.13499
        l2_cycles=372,  # derived: middle of 266 to 478
        l2_far_cycles=478,  # verified: published pointer chase, H100 PCIe, the larger of 266 to 478
        dram_beyond_s=1.58e-7,  # derived: (650 - 372) cycles at 1.755 GHz
        barrier_cycles=30,  # recalled: 20 to 40
    ),
    "sm_120": Microarchitecture(
        mma_sync=1.0,  # verified: the data sheet's rate is that of mma.sync
        threads=1536,  # verified: CUDA programming guide
        l1_cycles=44,  # verified: published pointer chase, RTX 5090
        shared_cycles=30,  # assumed: between Ampere and Hopper
        l2_cycles=360,  # verified: published pointer chase, RTX 5090
        l2_far_cycles=360,  # assumed: one latency
        dram_beyond_s=2.39e-7,  # derived: (936 - 360) cycles at 2.407 GHz
        barrier_cycles=30,  # recalled: 20 to 40
    ),
}


def microarchitecture(architecture: str) -> Microarchitecture:
    """Of `GpuMachine.architecture`. Raises ValueError where nothing is known: older than sm_80, or newer."""
    found = KNOWN.get(architecture.rstrip("af"))
    if found is None:
        raise ValueError(f"architecture: published kernels are modelled on {', '.join(KNOWN)}, got {architecture}")
    return found
