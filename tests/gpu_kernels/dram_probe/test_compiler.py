"""kernel.cu compiles for every architecture it claims."""

import pytest

from gpu_kernels.dram_probe.compiler import compile_kernels, instantiation
from gpu_kernels.dram_probe.suite import ARCHITECTURES, VARIANTS, by_name

STREAMS = ("sequential", "strided_4096_read_64", "random_32_in_64GiB", "kv_64_keep5", "planes_128_keep100_lsb6")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles(architecture: str) -> None:
    pytest.importorskip("cuda.core", reason="needs the extra gpu")
    from cuda.bindings import nvrtc

    try:
        nvrtc.nvrtcVersion()
    except RuntimeError:
        pytest.skip("needs NVRTC")
    names = [instantiation(by_name(name), variant) for name in STREAMS for variant in VARIANTS[::3]]
    code = compile_kernels(architecture, names)
    assert len(code.code) > 1000
    assert set(names) <= {name.decode() if isinstance(name, bytes) else name for name in code.symbol_mapping}
