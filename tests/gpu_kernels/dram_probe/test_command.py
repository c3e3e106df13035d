"""The command without a GPU, and the kernels with one."""

import pytest

from gpu_kernels.dram_probe.__main__ import main
from gpu_kernels.dram_probe.suite import VARIANTS, suite


def test_list_needs_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [pattern.name for pattern in suite()]
    assert lines[0].split() == ["sequential", "2.00", "GiB", "in", "2.00", "GiB"]


def test_nothing_to_do_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "--help explains" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "python -m gpu_kernels.dram_probe --out dram.json" in capsys.readouterr().out


@pytest.mark.gpu
def test_kernels_read_what_they_should() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("cuda.core")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    from gpu_kernels.dram_probe.probe import Probe

    small = [pattern.prefix(1 << 24) for pattern in suite() if pattern.footprint_bytes < 6 << 30]
    launches = [(pattern, variant) for pattern in small for variant in VARIANTS[::4]]
    assert len(Probe(launches, seed=1).check(launches)) == len(small)
