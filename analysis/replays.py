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
    from dataflow.simulate import simulate

    from accel.machine import load_machine
    from workloads.replay import recorded_policy, replay_distance

    distance = replay_distance(trace, name)
    machine = load_machine(findings.run.sweep.machine)
    latency = [simulate(machine, trace, policy).latency_s for policy in (name, recorded_policy(trace, name))]
    tokens, heads = distance["token_jaccard_by_layer"], distance["head_jaccard_by_layer"]
    shares = [fmean(tokens), min(tokens), fmean(heads)]
    rates = [distance["lsb_rate_in_loop"], distance["lsb_rate_replay"]]
    shared = [f"{share:.3f}" for share in shares] + [f"{rate:.1%}" for rate in rates]
    return [name, *shared, *(shown("latency_s", seconds) for seconds in latency)]
