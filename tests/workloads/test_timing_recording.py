"""The recording of a plan: order, budget, failures, crashes, hangs, resuming. No model is built here."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from workloads.timing import recording
from workloads.timing.isolation import CANNOT_FORK, run_isolated
from workloads.timing.model import COMPILED, EAGER
from workloads.timing.plan import DEFAULT, PLANS, Job, jobs_of, sweeps
from workloads.timing.record import read_record, write_record
from workloads.timing.recording import Setting, record_plan, table

ROOT = Path(__file__).parents[2]
SMALL, LARGE = Job("bert_base", {"tokens": 8}, parts=EAGER), Job("bert_large", {"tokens": 8}, parts=EAGER)


def writes(job, setting):
    """A runner that finds a result for every part, and leaves a mark in the log."""
    file = setting.out / f"{job.label}.json.gz"
    known = read_record(file) if file.exists() else {"failures": {}}
    found = {part: {"pass_us": 5.0, "op": ["aten.mm"], "module": [""]} for part in job.parts}
    write_record({**known, **found}, file)


def test_a_failure_a_crash_and_a_hang_do_not_stop_the_others(tmp_path, monkeypatch):
    def runner(job, setting):
        if job.name == "bert_large":
            raise ValueError("too large")
        if job.name == "gpt2_small":
            os.kill(os.getpid(), signal.SIGKILL)
        if job.name == "gpt2_medium":
            time.sleep(60)
        writes(job, setting)

    jobs = [LARGE, Job("gpt2_small", parts=EAGER), Job("gpt2_medium", parts=EAGER), SMALL]
    setting = Setting(tmp_path / "out", limit_s=1.5)
    monkeypatch.setattr(recording, "LEAST_S", 0.0)
    summary = record_plan(jobs, setting, 100, runner, tmp_path / "all.tar")
    assert [row["status"] for row in summary] == ["failed", "failed", "stopped", "recorded"]
    assert summary[0]["failures"] == {"model": "ValueError: too large"}
    assert "status -9" in summary[1]["failures"]["model"]
    assert "stopped after 2 s" in summary[2]["failures"]["model"]
    with tarfile.open(tmp_path / "all.tar") as archive:
        assert sorted(archive.getnames()) == sorted(path.name for path in setting.out.iterdir())
    assert json.loads((setting.out / "summary.json").read_text()) == summary
    assert "too large" in "\n".join(table(summary))


def test_what_is_there_is_skipped_and_what_failed_as_a_whole_is_tried_again(tmp_path):
    ran = []

    def runner(job, setting):
        ran.append(job.label)
        if len(ran) == 1:
            raise RuntimeError("out of memory")
        writes(job, setting)

    setting = Setting(tmp_path, isolate="none")
    first, second = (record_plan([LARGE, SMALL], setting, 100, runner) for _ in range(2))
    assert [row["status"] for row in first] == ["failed", "recorded"]
    assert [row["status"] for row in second] == ["recorded", "there"]
    assert ran == [LARGE.label, SMALL.label, LARGE.label]


def test_nothing_starts_when_the_budget_is_spent(tmp_path):
    summary = record_plan([SMALL], Setting(tmp_path, isolate="none"), recording.LEAST_S - 1, writes)
    assert [row["status"] for row in summary] == ["not started"]
    assert not (tmp_path / f"{SMALL.label}.json.gz").exists()


def test_both_sweeps_of_a_job_are_one_row(tmp_path):
    job = Job("bert_base", {"tokens": 8})
    summary = record_plan(sweeps([job]), Setting(tmp_path, isolate="none"), 100, writes)
    assert [row["status"] for row in summary] == ["recorded, recorded"]
    assert summary[0]["eager_us"] == summary[0]["compiled_us"] == 5.0


def test_all_models_are_timed_eagerly_before_one_is_compiled():
    plan = sweeps(DEFAULT)
    kinds = ["compiled" in job.parts for job in plan]
    assert kinds == sorted(kinds)
    assert [job.label for job in plan[: len(DEFAULT)]] == [job.label for job in DEFAULT]
    for job in DEFAULT:
        parts = [part for one in plan if one.label == job.label for part in one.parts]
        assert sorted(parts) == sorted(job.parts)
    assert {part for job in plan for part in job.parts} == {*EAGER, *COMPILED}


def test_cuda_in_the_parent_makes_the_next_process_a_fresh_one(tmp_path, monkeypatch):
    ways = []

    def isolated(call, limit_s, how):
        ways.append(how)
        return CANNOT_FORK if how == "fork" else call()

    monkeypatch.setattr(recording, "run_isolated", isolated)
    summary = record_plan([SMALL, LARGE], Setting(tmp_path), 100, writes)
    assert [row["status"] for row in summary] == ["recorded", "recorded"]
    assert ways == ["fork", "spawn", "spawn"]


def test_cuda_that_refuses_a_fork_is_told_from_other_failures(tmp_path):
    def runner(job, setting):
        if len(setting.commit):
            raise RuntimeError("Cannot re-initialize CUDA in forked subprocess. Use the 'spawn' start method")
        raise RuntimeError("out of memory")

    assert recording._attempt(runner, SMALL, Setting(tmp_path, commit="abc")) == CANNOT_FORK
    assert [*tmp_path.iterdir()] == []  # not yet a failure of the model
    assert recording._attempt(runner, SMALL, Setting(tmp_path)) == 1
    assert "out of memory" in read_record(tmp_path / f"{SMALL.label}.json.gz")["failures"]["model"]


def test_a_forked_child_tells_its_status():
    assert run_isolated(lambda: 3, 20, "fork") == 3
    assert run_isolated(lambda: 0, 20, "fork") == 0


def test_plans_and_names():
    assert jobs_of("default") is DEFAULT
    assert [job.label for job in jobs_of("flux_dev, llama3_8b_tokens1_past1024_batch64")] == [
        "flux_dev",
        "llama3_8b_tokens1_past1024_batch64",
    ]
    assert [job.name for job in jobs_of("t5_xxl")] == ["t5_xxl"]
    with pytest.raises(ValueError, match="got 'smok'; did you mean 'smoke'"):
        jobs_of("smok")
    for plan in PLANS.values():
        assert len({job.label for job in plan}) == len(plan)


def test_a_wrong_plan_is_told_in_one_line(tmp_path, capsys):
    assert recording.main(["--out", str(tmp_path), "--plan", "flux_de"]) == 2
    assert "did you mean 'flux_dev'" in capsys.readouterr().err


def test_a_machine_that_only_measures_needs_few_packages():
    """The image of a GPU machine has torch and NumPy, but not what reads YAML files or draws the command line."""
    script = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pydantic", "ruamel", "simpy", "typer", "pynvml"):
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
from workloads.timing import recording
from workloads.export.exporter import export_stages
from workloads.trace_file import write_trace
recording.jobs_of("t5_xxl")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-400:]
