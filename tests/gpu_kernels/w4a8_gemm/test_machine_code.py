"""Machine code of the Hopper GEMMs: no register of operand A is written while a product may read it."""

import subprocess
from pathlib import Path

import pytest

from gpu_kernels.runtime import compile_cubin
from gpu_kernels.w4a8_gemm.config import choose, macros
from tests.gpu_kernels.wgmma_hazards import disassembler, hazards, paths

LOAD, WAIT = "LDS.128 R28, [R11+0x3000]", "DEPBAR.LE gsb0, 0x"
PRODUCT = "IGMMA.64x8x32.S8.S8 R24, R28, gdesc[UR4], R24, gsb0"


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ([PRODUCT, LOAD], 1),
        ([PRODUCT, f"WARPGROUP.{WAIT}0", LOAD], 0),
        ([PRODUCT, f"WARPGROUP.{WAIT}1", LOAD], 1),  # one group may still be on its way
        ([PRODUCT, PRODUCT.replace("R28", "R32"), f"WARPGROUP.{WAIT}1", LOAD], 0),
        ([PRODUCT, "LOP3.LUT R31, R2, 0xf0f0f0f, RZ, 0xc0, !PT"], 1),
        ([PRODUCT, "@!P0 IMAD.WIDE.U32 R26, R2, R3, R4"], 0),  # R26 and R27 are sums
        ([PRODUCT.replace(", gsb0", ""), "IMAD.WIDE R30, R2, R3, R4"], 1),  # not even committed
    ],
)
def test_hazards_are_seen(code: list[str], count: int) -> None:
    assert len(list(hazards(code))) == count


def test_a_loop_is_walked_twice() -> None:
    lines = [LOAD, PRODUCT, f"WARPGROUP.{WAIT}1", "@P0 BRA `(.L_x_1)"]
    text = ".L_x_1:\n" + "\n".join(f"/*{i:04x}*/ {line} ;" for i, line in enumerate(lines))
    straight, loop = paths(text)
    assert not list(hazards(straight))
    assert list(hazards(loop)) == [LOAD]


@pytest.mark.parametrize("tokens", [1, 64, 128, 4096])
@pytest.mark.parametrize("kind", ["w4a8_channel", "w4a8_group", "w8a8", "w4a16"])
def test_no_operand_is_overwritten_in_flight(kind: str, tokens: int, tmp_path: Path) -> None:
    pytest.importorskip("cuda.core")
    tile = choose(kind, tokens, 6144, 4096)
    cubin = tmp_path / "gemm.cubin"
    cubin.write_bytes(bytes(compile_cubin("w4a8_gemm/kernel.cu", "sm_90a", macros(kind, tile, True)).code))
    text = subprocess.run([disassembler(), "-c", cubin], capture_output=True, text=True, check=True).stdout
    found = list(paths(text))
    assert len(found) > 1  # there is a loop with products
    assert [one for path in found for one in hazards(path)] == []
