"""Records of timed models as files, and traces with their times. No torch needed."""

import gzip
import json

import numpy as np
import pytest

from workloads.timing.record import read_record, timed_trace, write_record
from workloads.timing.telemetry import Sampler, summary
from workloads.trace import TABLES, TEXT_COLUMNS, Trace
from workloads.trace_file import read_trace, write_trace

OPS = ["aten.linear.default", "aten.view.default", "aten.relu.default"]
MODULES = ["net.a", "net.a", "net"]


def record(**changes):
    rows = {
        "what": "kernel time on the device",
        "op": OPS,
        "module": MODULES,
        "us": [12.345678, 0.0, 0.456789],
        "kernels": [2, 0, 1],
        "longest": [0, -1, 1],
        "total_us": 12.9,
        "kernel_table": [{"name": "gemm", "count": 2.0, "us": 12.3}],
    }
    return {"name": "toy", "model": {"name": "toy"}, "failures": {}, "eager": {"pass_us": 20.0}, "rows": rows} | changes


def trace(ops=OPS, modules=MODULES):
    columns = {
        c: np.array([""] * len(ops)) if c in TEXT_COLUMNS else np.zeros(len(ops), int) for c in TABLES["operators"]
    }
    columns |= {"op": np.array(ops), "module": np.array(modules)}
    return Trace("toy", {"name": "toy"}, {"kind": "exported"}, columns)


def test_a_record_survives_its_file_with_rounded_times(tmp_path):
    file = tmp_path / "toy.json.gz"
    write_record(record(), file)
    back = read_record(file)
    assert back["rows"]["op"] == OPS
    assert back["rows"]["module"] == MODULES
    assert back["rows"]["us"] == [12.35, 0.0, 0.457]
    assert back["eager"] == {"pass_us": 20.0}
    first = file.read_bytes()
    write_record(back, file)
    assert file.read_bytes() == first
    assert first[4:8] == bytes(4)  # no time of writing
    assert [path.name for path in tmp_path.iterdir()] == ["toy.json.gz"]


def test_other_files_are_refused(tmp_path):
    file = tmp_path / "toy.json.gz"
    write_record(record(), file)
    whole = file.read_bytes()
    for data in (whole[: len(whole) // 2], b"{}", gzip.compress(b"nonsense"), gzip.compress(json.dumps({}).encode())):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"toy\.json\.gz: (must be a whole record|format must be 'timed 1')"):
            read_record(file)


def test_times_go_into_the_trace_and_its_file(tmp_path):
    timed = timed_trace(trace(), record())
    write_trace(timed, tmp_path / "toy.trace.zip")
    back = read_trace(tmp_path / "toy.trace.zip")
    assert back.facts["timed.eager_us"].dtype == np.float32
    assert back.facts["timed.eager_us"].tolist() == np.float32([12.345678, 0.0, 0.456789]).tolist()
    assert back.facts["timed.eager_kernels"].tolist() == [2, 0, 1]
    assert back.made["kind"] == "exported"
    assert back.made["timed"]["eager"] == {"pass_us": 20.0}
    assert back.made["timed"]["rows"] == {"what": "kernel time on the device", "total_us": 12.9}


@pytest.mark.parametrize(
    ("ops", "modules", "message"),
    [
        (["aten.linear.default", "aten.t.default", OPS[2]], MODULES, "operator 1: must be aten.t.default in 'net.a'"),
        (OPS, ["net.a", "net.b", "net"], "operator 1: must be aten.view.default in 'net.b'"),
        (OPS[:2], MODULES[:2], "2 in the trace and 3 timed; the first without a partner is aten.relu.default in 'net'"),
        ([*OPS, "aten.add.Tensor"], [*MODULES, "net"], "4 in the trace and 3 timed; .* is aten.add.Tensor"),
    ],
)
def test_other_operators_are_refused_by_the_first_difference(ops, modules, message):
    with pytest.raises(ValueError, match=message):
        timed_trace(trace(ops, modules), record())


def test_a_record_without_rows_says_why():
    with pytest.raises(ValueError, match="by operator, got none: no kernels"):
        timed_trace(trace(), record(rows=None, failures={"rows": "no kernels"}))


def test_a_trace_that_was_not_exported_is_refused():
    old = Trace("old", {}, {"kind": "dense"}, {})
    with pytest.raises(ValueError, match="old: operators must have the column 'op'"):
        timed_trace(old, record())


def test_energy_only_of_long_loops_and_clocks_of_inner_readings():
    readings = [
        {"sm_mhz": mhz, "energy_j": joules} for mhz, joules in ((345, 10), (1900, 300), (1980, 600), (500, 700))
    ]
    assert summary(readings, 1.5) == {"samples": 2, "seconds": 1.5, "sm_mhz": [1900, 1940, 1980], "energy_j": 690}
    assert "energy_j" not in summary(readings, 0.5)


def test_a_probe_that_fails_is_a_reason():
    def broken():
        raise OSError("driver gone")

    for sampler in (Sampler(broken), Sampler(None, "no GPU")):
        with sampler.running():
            pass
        assert sampler.report["reason"] in ("OSError: driver gone", "no GPU")
