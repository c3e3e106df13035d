import numpy as np
import pytest

from accel.gpu.memory_bound import MemoryBoundFit
from accel.gpu.transfer import Link, TransferFit
from accel.machine import load_machine
from dataflow.gpu.transfer import copy_over, copy_within, offloaded

H200 = load_machine("h200")
MEMORY = MemoryBoundFit(
    resident=0.9,
    sharpness=4.0,
    overlap=8.0,
    read_share=0.9,
    write_share=0.8,
    cache_read_share=0.8,
    cache_write_share=0.5,
    kernels={},
)
FIT = TransferFit(
    latency_cycles=2000.0,
    memory_share=0.95,
    links={
        "h2d_pinned": Link(latency_s=4e-6, call_s=5e-6, share=0.9),
        "d2h_pageable": Link(latency_s=2e-5, call_s=0.0, share=0.2, far_share=0.1, far_bytes=3e7),
    },
)
SIZES = 2.0 ** np.arange(10, 33)


def test_a_copy_within_reads_and_writes_every_byte_where_nothing_stays() -> None:
    made = copy_within(H200, FIT, MEMORY, SIZES)
    assert (made.seconds >= made.floor_s).all()
    assert (np.diff(made.seconds) > 0).all()
    large = copy_within(H200, FIT, MEMORY, 2.0**40, reuse_bytes=np.inf)
    assert large.dram_read_bytes == large.dram_write_bytes == 2.0**40
    expected = 2.0**40 * (1 / 0.9 + 1 / 0.8) / (0.95 * H200.memory.peak_bytes_per_s)
    assert large.seconds == pytest.approx(expected, rel=0.01)


def test_a_copy_over_the_bus_takes_a_latency_and_its_bytes() -> None:
    small, large = copy_over(H200, FIT, "h2d_pinned", [1, 2**40]).seconds
    assert small == pytest.approx(5e-6)
    assert large == pytest.approx(2**40 / (0.9 * H200.pcie_bytes_per_s), rel=1e-3)
    back = copy_over(H200, FIT, "d2h_pageable", SIZES)
    assert (back.seconds > back.floor_s).all()
    assert not back.dram_write_bytes.any()
    near, far = copy_over(H200, FIT, "d2h_pageable", [1e7, 1e9]).seconds
    assert near == pytest.approx(2e-5 + 1e7 / (0.2 * H200.pcie_bytes_per_s), rel=0.01)
    assert far == pytest.approx(2e-5 + 1e9 / (0.1 * H200.pcie_bytes_per_s), rel=0.01)
    with pytest.raises(ValueError, match=r"h2d_pined.*h2d_pinned"):
        copy_over(H200, FIT, "h2d_pined", 1)


def test_streamed_weights_hide_behind_work_or_the_work_behind_them() -> None:
    sizes = np.full(10, 1e9)
    copy = float(copy_over(H200, FIT, "h2d_pinned", 1e9).seconds[0])
    assert offloaded(H200, FIT, sizes, 0.0) == pytest.approx(10 * copy)
    assert offloaded(H200, FIT, sizes, 10 * copy) == pytest.approx(101 * copy)
    assert offloaded(H200, FIT, sizes, copy / 2) == pytest.approx(10.5 * copy)
    assert offloaded(H200, FIT, sizes, copy / 2, buffers=1) == pytest.approx(15 * copy)
    with pytest.raises(ValueError, match="buffers: must be >= 1, got 0"):
        offloaded(H200, FIT, sizes, copy, buffers=0)
