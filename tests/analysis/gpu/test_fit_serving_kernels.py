"""A fit of published profiles: held-out points change nothing, what the table lacks stays, errors are as told."""

from pathlib import Path

import numpy as np
import pytest

from accel.gpu.loading import load_fit
from accel.machine import load_machine
from analysis.gpu.fit_serving_kernels import KERNELS, OPERATORS, errors, fit_serving, predict, read, section

pytest.importorskip("scipy")
A100 = load_machine("a100_80g_sxm")


def table(folder: Path, spoiled: float = 1.0) -> Path:
    """What the shipped fit of the A100 predicts, as a table; held-out rows `spoiled` times as long."""
    fit = load_fit("a100").memory_bound
    assert fit is not None
    lines = ["source,device,kernel,M,N,value"]
    sizes = [64, 128, 256, 512, 1024, 2048, 4096, 8192]
    for kernel, operator in OPERATORS.items():
        for place, rows in enumerate(sizes):
            for width in (4096, 8192):
                one = read_point(operator, rows, width)
                us = 1e6 * predict(A100, fit, one, 3.0)[0] * (spoiled if place % 2 else 1.0)
                lines.append(f"toy,A100,{kernel},{rows},{width},{us:.3f}")
    path = folder / f"table_{spoiled}.csv"
    path.write_text("\n".join(lines), "utf-8")
    return path


def read_point(operator: str, rows: float, width: float):  # type: ignore[no-untyped-def]
    from analysis.gpu.fit_memory_bound import Points

    return Points(operator, np.array([rows]), np.array([width]), np.ones(1), np.zeros(1, dtype=bool))


def test_finds_what_made_the_table_and_does_not_look_at_held_out_rows(tmp_path: Path) -> None:
    base = load_fit("h200").memory_bound
    assert base is not None
    plain, spoiled = (read(table(tmp_path, by), "A100") for by in (1.0, 3.0))
    fit, between = fit_serving(A100, base, plain)
    assert errors(A100, fit, plain, between)["rows"].mean < 0.03
    assert fit_serving(A100, base, spoiled)[0] == fit
    assert errors(A100, fit, spoiled, between)["rows"].mean > 0.5


def test_kernels_that_the_table_lacks_stay_as_they_were() -> None:
    base = load_fit("h200").memory_bound
    assert base is not None
    values = {"shares": 0.9} | {f"{name}.latency_cycles": 1.0 for name in KERNELS}
    made = section(base, values)
    assert {name for name in base.kernels if made.kernels[name] != base.kernels[name]} <= set(KERNELS)
    assert made.read_share == pytest.approx(0.9 * base.read_share)


def test_a_device_that_the_table_lacks_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no elementwise kernels of 'B200'"):
        read(table(tmp_path), "B200")


@pytest.mark.parametrize(
    ("fit", "machine", "operator", "rows", "width", "us"),
    [
        ("a100", "a100_80g_sxm", "rms_norm_narrow", 4096, 4096, 104.0),
        ("a100", "a100_80g_sxm", "rope", 4096, 5120, 98.0),
        ("a100", "a100_80g_sxm", "silu_mul_narrow", 4096, 11008, 264.5),
        ("h100", "h100_sxm", "rms_norm_narrow", 4096, 4096, 66.5),
        ("h100", "h100_sxm", "rope", 4096, 8192, 83.5),
        ("h100", "h100_sxm", "silu_mul_narrow", 4096, 11008, 138.0),
    ],
)
def test_published_times(fit: str, machine: str, operator: str, rows: int, width: int, us: float) -> None:
    """vLLM's kernels as Vidur profiled them (data/profiling/compute, commit 7d47513)."""
    found = load_fit(fit).memory_bound
    assert found is not None
    gpu = load_machine(machine)
    assert 1e6 * predict(gpu, found, read_point(operator, rows, width), 1.0)[0] == pytest.approx(us, rel=0.15)
