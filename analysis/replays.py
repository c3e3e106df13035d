"""How far replaying a dense run is from pruning inside the forward pass, and what that pruning costs in quality."""

from functools import lru_cache
from statistics import fmean
from typing import Any

from analysis.findings import Findings, recorded
from analysis.quantities import shown
from workloads.policy import Policy

REPLAY_HEAD = [
    "policy",
    "kept tokens, Jaccard",
    "worst layer",
    "kept heads, Jaccard",
    "LSB rate in loop",
    "LSB rate replay",
    "latency in loop",
    "latency replay",
]
FIDELITY_HEAD = ["policy in the loop", "token_keep", "head_keep", "value_keep", "mean cosine", "worst text"]


def replay_rows(findings: Findings) -> list[list[str]]:
    """One row per policy that the workload was also pruned with in the loop."""
    return [_row(findings, *run) for run in findings.replays]


def _row(findings: Findings, name: str, in_loop: dict[str, Any], replay: dict[str, Any]) -> list[str]:
    distance = _distance(findings.run.sweep.workload, name)
    tokens, heads = distance["token_jaccard_by_layer"], distance["head_jaccard_by_layer"]
    shares = [f"{share:.3f}" for share in (fmean(tokens), min(tokens), fmean(heads))]
    rates = [f"{distance[key]:.1%}" for key in ("lsb_rate_in_loop", "lsb_rate_replay")]
    return [name, *shares, *rates, *(shown("latency_s", run["latency_s"]) for run in (in_loop, replay))]


def fidelity(findings: Findings) -> dict[str, dict[str, Any]]:
    """Cosine of the pruned with the dense sentence embedding, for each policy applied in the loop."""
    policies = recorded(findings.run.sweep.workload)
    return {name: _quality(policy, _distance(findings.run.sweep.workload, name)) for name, policy in policies.items()}


def _quality(policy: Policy, distance: dict[str, Any]) -> dict[str, Any]:
    keeps = {key: getattr(policy, key) for key in ("token_keep", "head_keep", "value_keep")}
    return keeps | {key: distance[key] for key in ("cosine_mean", "cosine_min")}


def fidelity_rows(findings: Findings) -> list[list[str]]:
    """The same as text."""
    return [[name, *map(_text, row.values())] for name, row in fidelity(findings).items()]


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@lru_cache(maxsize=32)
def _distance(workload: str, name: str) -> dict[str, Any]:
    from workloads.replay import replay_distance
    from workloads.trace import load_workload

    return replay_distance(load_workload(workload), name)
