"""Main loops of published GEMMs: tiles, stages and what one trip of a warp issues. Facts read, none fitted.

Where each comes from
- tiles, stages, block order, which guard surrounds the output: sources of mit-han-lab/omniserve (kernels/csrc/qgemm)
  and IST-DASLab/marlin (marlin_cuda_kernel.cu);
- instructions and registers of QServe's W4A8: machine code for sm_90 of the wheel sgl-kernel 0.3.21, which carries the
  same two kernels; within 9 % of counts in a build of the originals;
- W8A8: 64 x 64 x 64 counted in a build of the original; 128 x 256 x 64 derived from it (products, operand loads,
  copies), its registers from its accumulators (one block fits either way), its pace from the per-channel loops';
- Marlin: machine code for sm_90 (CUDA 13.0) of the kernel with scales a group of 128.
"""

from dataclasses import dataclass

from accel.gpu.machine import GpuMachine
from accel.gpu.microarchitecture import REGISTER_STEP, REGISTERS, RESERVED_SHARED, microarchitecture


@dataclass(frozen=True)
class Loop:
    """A tile of M x N outputs, walked through in trips of `depth` inputs.

    warps            of a block
    stages           of its cp.async pipeline
    products         mma.sync of a warp, a trip, each 16 x 8 x 32 (s8) or 16 x 8 x 16 (float16)
    others, alu      its other instructions, and those of them that run at half rate (integer, logic, shifts)
    alone            cycles by which machine code spaces the other instructions (stall counts): the pace of a lone warp
    wavefronts       of shared memory that they take, copies into it included: from the tile's shapes
    registers        of a thread
    shared           bytes of a block
    before           instructions of a warp before the loop
    sections, section    of the output: guarded parts one after another, instructions of each
    missed           loads from DRAM that wait for one another in them
    exchange         wavefronts by which warps that share a tile along K add their sums
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    products: int
    others: float
    alu: float
    alone: float
    wavefronts: int
    registers: int
    shared: int
    before: int
    sections: int
    section: int
    missed: int
    exchange: int = 0

    def resident(self, machine: GpuMachine) -> int:
        """Blocks of a multiprocessor at once: registers, shared memory, threads. At least one is assumed."""
        threads = 32 * self.warps
        registers = -(-self.registers // REGISTER_STEP) * REGISTER_STEP * threads
        most = microarchitecture(machine.architecture).threads // threads
        return max(1, min(REGISTERS // registers, machine.shared_bytes // (self.shared + RESERVED_SHARED), most))


MARLIN_SHARED = 96 * 1024  # bytes that its launcher asks for, whatever the tile
_TABLE = """
kernel  tile     M   N   K warps stages products others alu alone waves regs before parts part missed exchange
channel large  128 128  64     8      3       32    146  83   279    61  154    225    32   34      2        0
channel middle  64  64  64     4      4       16    127  61   249    45   96    238    16   35      2        0
channel small   32  64 128     4      3       16    141  63   259    68   96    261    16   35      2     1312
group   large  128  64  64     4      4       32    311 174   507    93  168    404     1  734      1        0
group   middle  64  64  64     4      4       16    262 145   441    63   95    329     1  435      1        0
group   deep    64  64 128     8      3       16    252 152   411    79  121    287     1  435      1     2624
group   small   32  64 128     4      3       16    274 149   428    86  112    336     1  435      1     1312
w8a8    large  128 256  64     8      3       64    132  57   252   122  255    225    64   30      2        0
w8a8    small   64  64  64     4      6       16    114  49   223    60   96    238    16   30      2        0
marlin  one     16 128 128     8      4       16    144  53   278    34  126    393     1  190      0        0
marlin  16      16 256  64     8      4       16  139.5  52   262    32  130    388     1  120      0        0
marlin  32      32 256  64     8      4       32  142.5  53   275    40  168    410     1  230      0        0
marlin  48      48 256  64     8      4       48    155  61   284    50  224    476     1  340      0        0
marlin  64      64 256  64     8      4       64  162.5  66   302    62  254    504     1  450      0        0
"""
_WEIGHT_BITS = {"channel": 4, "group": 4, "w8a8": 8}
_SCALE_BYTES = {"channel": 2, "group": 2, "w8a8": 0}  # that a stage keeps for each column


def _shared(kernel: str, rows: int, columns: int, depth: int, stages: int) -> int:
    """Bytes of a block, as the launchers compute them."""
    if kernel == "marlin":
        return MARLIN_SHARED
    return stages * (rows * depth + columns * depth * _WEIGHT_BITS[kernel] // 8 + _SCALE_BYTES[kernel] * columns)


def _loops() -> dict[str, dict[str, Loop]]:
    found: dict[str, dict[str, Loop]] = {}
    for line in _TABLE.strip().splitlines()[1:]:
        kernel, tile, *fields = line.split()
        rows, columns, depth, warps, stages, products = (int(one) for one in fields[:6])
        others, alu, alone = (float(one) for one in fields[6:9])
        wavefronts, registers, *rest = (int(one) for one in fields[9:])
        shared = _shared(kernel, rows, columns, depth, stages)
        outside = wavefronts, registers, shared, *rest
        found.setdefault(kernel, {})[tile] = Loop(
            rows, columns, depth, warps, stages, products, others, alu, alone, *outside
        )
    return found


LOOPS = _loops()
"""By kernel and tile; which tile runs for which problem is in `qserve_gemm.pick` and `marlin_gemm.launches`."""
