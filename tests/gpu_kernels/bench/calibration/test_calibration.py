"""Calibration without a GPU: what profilers and the driver say is read rightly; guards, budgets, the command."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpu_kernels import __main__ as program
from gpu_kernels import record, runtime
from gpu_kernels.bench.calibration import counters, energy, job, limits, named, names, nvml, sources, streams, suite
from gpu_kernels.bench.calibration.job import Job

FOLDER = Path(suite.__file__).parent
RESULTS = sorted((FOLDER.parent.parent / "results").glob("calibration_*.json"))


def kernel(name: str, ts: float, **arguments: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": "kernel", "name": name, "ts": ts, "dur": 2.5, "args": arguments}


def test_kernels_are_told_apart_by_the_one_between_them() -> None:
    mark = "at::cuda::(anonymous namespace)::spin_kernel(long)"
    events = [
        kernel("warm", 0.0),
        kernel(mark, 1.0),
        kernel("reduce", 4.0),
        kernel("void cutlass::Gemm<cute::C<128>, 4>", 3.0, grid=[7, 1, 1], block=[384, 1, 1]) | {"tid": 7},
        kernel(mark, 5.0),
        kernel(mark, 6.0),
        {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "ts": 6.5, "dur": 1.0},
        {"ph": "X", "cat": "gpu_memset", "name": "Memset (Device)", "ts": 7.0, "dur": 1.0, "args": {}},
    ]
    found = names.separated(events)
    assert [[one["kernel"] for one in some] for some in found] == [["Gemm<C<128>,4>", "reduce"], [], ["Memset(Device)"]]
    assert found[0][0] == {"kernel": "Gemm<C<128>,4>", "us": 2.5, "grid": [7, 1, 1], "block": [384, 1, 1]}
    assert len(names.shortened("x" * 2000)) == names.LONGEST


def test_kernels_join_the_rows_of_their_part_and_name() -> None:
    rows = [{"part": "gemm_bf16", "name": "a", "us": 1.0}, {"part": "gemm_int8", "name": "a", "us": 1.0}]
    rows.append({"part": "gemm_bf16", "name": "b", "refused": "no"})
    facts = {"kernel": "k", "us": 2.0, "grid": [1]}
    told = [
        {"source": "gemm_bf16", "names": ["a", "b"], "kernels": [[facts], [facts]]},
        {"source": "gemm_int8", "refused": "no profiler"},
    ]
    found = named.with_kernels(rows, told)
    assert found[0] == rows[0] | {"kernel": ["k"], "launches": [{"us": 2.0, "grid": [1]}]}
    assert found[1:] == rows[1:]


def test_a_child_that_fails_names_nothing_and_costs_nothing() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (told,) = named.told_by_child(["gemm_bf16"], 1)
    assert told["source"] == "gemm_bf16"
    assert "RuntimeError: status 1" in told["refused"]


HEADER = ["ID", "Kernel Name", "Grid Size", *counters.METRICS.values()]


def page(*launches: tuple[str, ...]) -> str:
    rows = [HEADER, ["", "", "", "byte", "byte", "sector", "sector", "nsecond"]]
    rows += [[str(place), name, "(1, 1, 1)", *values] for place, (name, *values) in enumerate(launches)]
    text = "\n".join(",".join(f'"{cell}"' for cell in row) for row in rows)
    return f'==PROF== Profiling "spin_kernel" - 0: 0%....100% - 1 pass\nleft out: "x", y\n{text}\n'


def test_counted_launches_are_read_and_added() -> None:
    spin = ("spin_kernel(long)", "0", "0", "0", "0", "900")
    text = page(spin, ("gemm", "1,000", "10", "40", "2", "5000"), ("reduce", "0", "5", "8", "4", "1000"), spin)
    launches = counters.parse(text)
    assert [one["kernel"] for one in launches] == ["spin_kernel(long)", "gemm", "reduce", "spin_kernel(long)"]
    first, second = counters.joined([{"name": "a"}, {"name": "b"}], launches, 1)
    assert (first["name"], first["passes"], first["kernel"]) == ("a", 1, ["gemm", "reduce"])
    assert (first["dram_read_bytes"], first["dram_write_bytes"], first["duration_ns"]) == (1000, 15, 6000)
    assert (first["l2_read_bytes"], first["l2_write_bytes"]) == (48 * 32, 6 * 32)
    assert second["kernel"] == []
    assert second["dram_read_bytes"] is None
    with pytest.raises(ValueError, match="ncu saw 2 points, the program counted 1"):
        counters.joined([{"name": "a"}], launches, 1)


def test_a_metric_that_the_profiler_lacks_is_unknown() -> None:
    (one,) = counters.parse(page(("gemm", "n/a", "10", "40", "2", "5000")))
    assert one["dram_read_bytes"] is None
    assert counters.totals([one])["dram_read_bytes"] is None
    assert counters.totals([one])["l2_read_bytes"] == 1280


def fake_ncu(folder: Path, body: str) -> str:
    """A program in the profiler's place that writes what the child would have told."""
    file = folder / "ncu"
    file.write_text(f"#!{sys.executable}\nimport sys\ntold = sys.argv[-1]\n{body}\n", encoding="utf-8")
    file.chmod(0o755)
    return str(file)


@pytest.mark.skipif(sys.platform == "win32", reason="a script stands in for ncu")
def test_the_profiler_is_called_and_its_faults_are_told(tmp_path: Path) -> None:
    text = page(("spin_kernel(long)", "0", "0", "0", "0", "1"), ("gemm", "64", "32", "4", "1", "9"))
    write = f"open(told, 'w').write('{{\"name\": \"a\"}}\\n')\nsys.stdout.write({text!r})"
    (row,) = counters.counted({"gemm_bf16": 1}, 1.0, fake_ncu(tmp_path, write))
    assert (row["name"], row["passes"], row["dram_read_bytes"]) == ("a", 1, 64)
    with pytest.raises(RuntimeError, match=r"status 3: .*no permission"):
        counters.counted({}, 1.0, fake_ncu(tmp_path, "print('no permission'); sys.exit(3)"))
    command = counters.command(Path("plan"), Path("told"))
    assert command[command.index("--cache-control") + 1] == "none"
    assert command[command.index("--clock-control") + 1] == "none"


def test_counters_are_left_out_without_a_profiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters.shutil, "which", lambda name: None)
    assert list(counters.rows(1)) == [{"part": "counters", "name": "", "refused": "ncu is not installed"}]


def test_power_is_that_between_two_steps_of_the_counter() -> None:
    readings = [(0.01 * i, 100.0 * (0.01 * i // 0.1) / 10) for i in range(300)]  # 100 W, steps of 0.1 s
    assert nvml.mean_power(readings, 0.55, 2.5) == pytest.approx(100.0, rel=0.02)
    jump = [(second, joules + (50 if second < 0.5 else 0)) for second, joules in readings]
    assert nvml.mean_power(jump, 0.55, 2.5) == nvml.mean_power(readings, 0.55, 2.5)
    with pytest.raises(ValueError, match="advanced 0 times, a mean needs 2"):
        nvml.mean_power(readings, 0.55, 0.58)


class FakeCard:
    """100 W by the counter, whatever it does."""

    def __init__(self) -> None:
        self.begin = time.perf_counter()

    def energy_j(self) -> float:
        return 100 * round(time.perf_counter() - self.begin, 2)

    def power_w(self) -> float:
        return 90.0

    def clock_mhz(self, which: int) -> int:
        return 1980

    def temperature_c(self) -> int:
        return 40


def test_a_rest_is_looked_at() -> None:
    found = energy.rest(0.3, FakeCard())  # type: ignore[arg-type]
    assert found["power_w"] == pytest.approx(100, rel=0.2)
    assert found["columns"] == ["second", "energy_j", "power_w", "sm_mhz", "memory_mhz", "temperature_c"]
    assert all(len(look) == 6 for look in found["looks"])


def test_readings_of_a_loop() -> None:
    watch = energy.Readings(FakeCard())  # type: ignore[arg-type]
    while watch.begin + 0.3 > time.perf_counter():
        watch.read()
    found = watch.summary(0.05, 0.3)
    assert found["power_w"] == pytest.approx(100, rel=0.1)
    assert found["joules"] == pytest.approx(30, abs=3)
    assert (found["driver_power_w"], found["sm_mhz"]) == (90.0, 1980)
    assert "no_power" in watch.summary(0.299, 0.3)


def test_no_driver_is_a_reason() -> None:
    row = suite._resting("no context", 0.1, lambda: nvml.Card())
    assert row["part"] == "idle"
    assert ("refused" in row) != ("looks" in row)


def test_a_job_that_fails_is_a_row_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_tidy", lambda: None)
    broken = Job({"part": "p", "name": "n"}, lambda sets: [lambda: 1 / 0])
    assert job.measured(broken, 1)["refused"].startswith("ZeroDivisionError")


def test_numbers_that_are_not_finite_are_seen() -> None:
    torch = pytest.importorskip("torch")
    assert not job.finite(torch.tensor([1.0, float("inf")]))
    assert job.finite(torch.tensor([1.0, 2.0]))
    assert job.finite(torch.tensor([1], dtype=torch.int8))
    assert job.finite(None)


def stream(count: int, run: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    for index in range(count):
        run(index)
        yield {"index": index}


def test_a_stream_ends_when_its_time_is_over_or_it_breaks() -> None:
    run = suite.Run(None, lambda text: None)
    run.found |= {"cut": {}, "refused": {}}
    whole = list(suite._within(run, "a", stream(3, lambda index: None), time.time() + 60))
    assert [one["index"] for one in whole] == [0, 1, 2]
    short = list(suite._within(run, "b", stream(9, lambda index: time.sleep(0.02)), time.time() + 0.05))
    assert 0 < len(short) < 9
    assert run.found["cut"] == {"b": len(short)}
    assert list(suite._within(run, "c", stream(3, lambda index: [][index]), time.time() + 60)) == []
    assert run.found["refused"] == {"c": "IndexError: list index out of range"}


def test_the_record_is_on_disk_soon_and_at_the_end(tmp_path: Path) -> None:
    run = suite.Run(tmp_path / "record.json", lambda text: None)
    run.found |= {"rows": [{"part": "a", "name": "b"}]}
    run.save()
    run.found["rows"].append({"part": "a", "name": "c"})
    run.save()  # too soon
    assert len(record.read(tmp_path / "record.json", suite.FORMAT)["rows"]) == 1
    run.save(now=True)
    assert len(record.read(tmp_path / "record.json", suite.FORMAT)["rows"]) == 2


def test_parts_by_name() -> None:
    assert suite.chosen_parts(None) == suite.PARTS
    assert suite.chosen_parts("energy, gemm") == ("gemm", "energy")
    with pytest.raises(ValueError, match="got 'gem'; nearest: gemm"):
        suite.chosen_parts("gem")


def test_every_stream_has_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "architecture", lambda: "sm_90a")
    graphs = sources.job_sources()
    assert {sources.kind_of(name) for name in (*graphs, *sources.row_sources())} == set(sources.BUDGET_S)
    assert set(counters.PLAN) <= set(graphs)
    assert {name for name in graphs if not sources.of_library(name)} >= {"ours_w4a16", "decode_kv4", "activations"}
    assert sources.of_library("decode_sdpa_flash")


def test_what_is_compiled_is_known_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "multiprocessors", lambda: 132)
    found = suite.variants(suite.PARTS, "sm_90a", 0)
    folders = {source.partition("/")[0] for source, _ in found}
    assert folders == {"w4a8_gemm", "w4a8_portable", "kv4_attention", "activations"}
    assert len(found) == len(set(found))
    assert suite.variants(("gemm",), "sm_90a", 0) == []


@pytest.mark.parametrize("architecture", runtime.ARCHITECTURES)
def test_limits_compile(architecture: str) -> None:
    pytest.importorskip("cuda.core")
    code = runtime.compile_cubin(limits.SOURCE, architecture, limits.MACROS).code
    assert all(symbol in code for symbol in (b"read_again", b"multiply_add", b"exponentials"))


def test_linear_attention_is_a_weighted_mean() -> None:
    torch = pytest.importorskip("torch")
    from gpu_kernels.bench.calibration.batched import SIZE, linear_attention

    draw = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(2, 40, 3 * SIZE, generator=draw) for _ in range(3))
    heads = [x.double().unflatten(2, (3, SIZE)).transpose(1, 2) for x in (query, key, value)]
    weight = heads[0].relu() @ heads[1].relu().transpose(2, 3)
    exact = (weight @ heads[2] / weight.sum(dim=3, keepdim=True)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(linear_attention(query, key, value).double(), exact, rtol=1e-4, atol=1e-5)


def test_every_family_of_streams_runs() -> None:
    torch = pytest.importorskip("torch")
    for name, family in streams.elementwise().items():
        inputs = [torch.ones(8, dtype=getattr(torch, kind)) for kind in family.reads]
        out = torch.zeros(8, dtype=getattr(torch, family.writes))
        assert family.call(*inputs, out) is not None, name
        assert out.float().abs().min() > 0, name
    x, weight = torch.ones(3, 4, dtype=torch.bfloat16), torch.ones(4, dtype=torch.bfloat16)
    for by_rows in streams.by_rows().values():
        assert by_rows(x, weight, torch.empty_like(x)).shape == (3, 4)
    for name, move in streams.moves().items():
        assert move(x, torch.empty(3, 8, dtype=torch.bfloat16)) is not None, name


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert program.main(["calibrate", "--part", "gemm"]) == 2
    assert "CUDA" in capsys.readouterr().err
    assert program.main(["calibrate", "--part", "gem"]) == 2
    assert "nearest: gemm" in capsys.readouterr().err


def test_the_readme_names_every_part() -> None:
    text = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in suite.PARTS)


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_a_recorded_run_is_of_these_points(file: Path) -> None:
    found = record.read(file, suite.FORMAT)
    assert record.stale(found) == [], (
        f"these have changed: run `python -m gpu_kernels calibrate --out {file.name}` again"
    )
    fitted = [row for row in found["rows"] if row["part"].startswith("gemm_") and not row["held_out"]]
    assert fitted
    assert not [row["name"] for row in fitted if "us" in row and row["us"] <= 0]
    assert len(json.dumps(found)) < 16 << 20
