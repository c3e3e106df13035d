"""How far replaying a dense run is from pruning inside the forward pass."""

from statistics import fmean
from typing import Any

from analysis.findings import Findings
from analysis.quantities import shown

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


def replay_rows(findings: Findings) -> list[list[str]]:
    """One row per policy that the workload was also pruned with in the loop."""
    from workloads.replay import recorded_policies
    from workloads.trace import load_workload

    trace = load_workload(findings.run.sweep.workload)
    return [_row(findings, trace, name) for name in recorded_policies(trace)]


def _row(findings: Findings, trace: Any, name: str) -> list[str]:
    from accel.machine import load_machine
    from dataflow.simulate import simulate
    from workloads.replay import recorded_policy, recorded_work, replay_distance

    machine, policy = load_machine(findings.run.sweep.machine), recorded_policy(trace, name)
    in_loop = simulate(machine, trace, policy, work=recorded_work(trace, name))
    replayed = simulate(machine, trace, policy)
    distance = replay_distance(trace, name)
    tokens, heads = distance["token_jaccard_by_layer"], distance["head_jaccard_by_layer"]
    shares = [f"{share:.3f}" for share in (fmean(tokens), min(tokens), fmean(heads))]
    rates = [f"{distance[key]:.1%}" for key in ("lsb_rate_in_loop", "lsb_rate_replay")]
    return [name, *shares, *rates, *(shown("latency_s", run.latency_s) for run in (in_loop, replayed))]
