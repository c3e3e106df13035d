"""A benchmark brings a policy: what a user says changes it, field by field."""

from pathlib import Path

from analysis.api import policy_for
from analysis.evaluate import Bench, resolve_point
from analysis.validation import validate_file
from workloads.policy import Policy
from workloads.trace import BENCHMARKS, load_workload

NAME = "gpt2_small_wikitext2"


def test_what_is_said_changes_the_benchmarks_own_policy() -> None:
    trace = load_workload(NAME)
    own = Policy.model_validate(trace.made["policy"])
    assert policy_for(trace.made, {}) == own
    changed = policy_for(trace.made, {"value_keep": 1.0})
    assert changed == own.model_copy(update={"value_keep": 1.0})
    assert own.value_keep != 1.0


def test_a_sweep_changes_it_too_even_to_a_default() -> None:
    bench = Bench("spatten", NAME, Policy(head_keep=1.0, token_keep=1.0), Path("unused"))
    policy = resolve_point(bench, {"policy.value_keep": 0.5})[1]
    assert policy is not None
    assert (policy.token_keep, policy.value_keep, policy.key_lsb_bits) == (1.0, 0.5, 4)


def test_other_workloads_have_none() -> None:
    assert policy_for({"kind": "dense"}, {"token_keep": 0.5}) == Policy(token_keep=0.5)


def test_a_benchmark_file_is_known_for_what_it_is(tmp_path: Path) -> None:
    text = (BENCHMARKS / f"{NAME}.yaml").read_text("utf-8")
    assert validate_file(BENCHMARKS / f"{NAME}.yaml").kind == "benchmark"
    bad = tmp_path / "bad.yaml"
    bad.write_text(text.replace("steps: 32", "stps: 32"), "utf-8")
    report = validate_file(bad)
    assert report.kind == "benchmark"
    assert "did you mean 'steps'" in str(report)
