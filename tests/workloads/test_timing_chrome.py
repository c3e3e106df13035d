"""Kernels of hand-written Chrome traces: each goes to the range whose code launched it."""

import pytest

from workloads.timing.chrome import attribute, kernel_table


def event(category, name, ts, dur, tid=1, correlation=None):
    args = {} if correlation is None else {"correlation": correlation}
    return {"ph": "X", "cat": category, "name": name, "ts": ts, "dur": dur, "pid": 9, "tid": tid, "args": args}


def span(name, ts, dur, tid=1):
    return event("user_annotation", name, ts, dur, tid)


def launch(ts, correlation, name="cudaLaunchKernel", tid=1, category="cuda_runtime"):
    return event(category, name, ts, 1, tid, correlation)


def kernel(name, dur, correlation, category="kernel", ts=1000):
    return event(category, name, ts, dur, 7, correlation)


def shares(events, prefix="row"):
    found = attribute(events, prefix)
    times = {name: (share.us, share.kernels, share.longest) for name, share in found.shares.items()}
    return times, (found.unattributed.us, found.unattributed.kernels), found.total_us


def test_kernels_copies_and_fills_go_to_their_rows():
    events = [
        span("row 0", 10, 10),
        span("row 1", 30, 10),
        span("row 2", 50, 10),
        launch(12, 100),
        launch(15, 101, "cuLaunchKernelEx", category="cuda_driver"),
        launch(35, 102, "cudaMemcpyAsync"),
        launch(36, 103, "cudaMemsetAsync"),
        kernel("gemm", 5, 101),
        kernel("add", 2, 100),
        kernel("Memcpy DtoD", 3, 102, "gpu_memcpy"),
        kernel("Memset", 1, 103, "gpu_memset"),
        event("gpu_user_annotation", "row 0", 1000, 500, 7),
        {"ph": "M", "name": "process_name"},
    ]
    expected = {"row 0": (7, 2, "gemm"), "row 1": (4, 2, "Memcpy DtoD"), "row 2": (0, 0, "")}
    assert shares(events) == (expected, (0, 0), 11)


def test_the_innermost_range_wins_and_an_outer_one_goes_on_after_it():
    events = [
        span("row out", 0, 100),
        span("row in", 10, 20),
        launch(5, 1),
        launch(15, 2),
        launch(50, 3),
        launch(101, 4),
        *[kernel(f"k{n}", 10**n, n) for n in (1, 2, 3, 4)],
    ]
    times, rest, total = shares(events)
    assert times == {"row out": (1010, 2, "k3"), "row in": (100, 1, "k2")}
    assert rest == (10000, 1)
    assert total == 11110


def test_ranges_that_open_together_nest_by_length():
    events = [span("row in", 10, 5), span("row out", 10, 20), launch(10, 1), kernel("k", 1, 1)]
    assert shares(events)[0] == {"row in": (1, 1, "k"), "row out": (0, 0, "")}


def test_work_that_nobody_launched_or_outside_of_ranges_is_counted_apart():
    events = [
        span("row 0", 10, 10),
        launch(5, 1),
        kernel("early", 4, 1),
        kernel("unknown", 2, 99),
        kernel("lost", 1, None),
    ]
    assert shares(events) == ({"row 0": (0, 0, "")}, (7, 3), 7)


def test_ranges_of_other_names_do_not_count():
    events = [span("row 0", 10, 10), span("ProfilerStep", 12, 4), launch(13, 1), kernel("k", 1, 1)]
    assert shares(events)[0] == {"row 0": (1, 1, "k")}


def test_a_launch_belongs_to_the_ranges_of_its_own_thread():
    events = [
        span("row a", 10, 10, tid=1),
        span("row b", 12, 10, tid=2),
        launch(13, 1, tid=1),
        launch(14, 2, tid=2),
        kernel("one", 1, 1),
        kernel("two", 2, 2),
    ]
    assert shares(events)[0] == {"row a": (1, 1, "one"), "row b": (2, 1, "two")}


def test_a_thread_without_ranges_is_placed_by_time():
    events = [
        span("row a", 10, 10, tid=1),
        launch(13, 1, tid=5),
        launch(30, 2, tid=5),
        kernel("k", 1, 1),
        kernel("l", 2, 2),
    ]
    times, rest, _ = shares(events)
    assert (times, rest) == ({"row a": (1, 1, "k")}, (2, 1))


def test_a_driver_call_inside_a_runtime_call_is_one_launch():
    events = [
        span("row 0", 10, 10),
        launch(18, 1),
        launch(21, 1, "cuLaunchKernel", category="cuda_driver"),  # the range has ended meanwhile
        kernel("k", 6, 1),
    ]
    assert shares(events)[0] == {"row 0": (6, 1, "k")}


def test_kernel_table_is_by_name_for_one_pass():
    events = [kernel("a", 2, 1), kernel("a", 4, 2), kernel("b", 20, 3), launch(3, 3)]
    rows = kernel_table(events, 2)
    assert rows == [{"name": "b", "count": 0.5, "us": 10.0}, {"name": "a", "count": 1.0, "us": pytest.approx(3.0)}]
