"""A run as a Chrome trace (JSON), which Perfetto and chrome://tracing open."""

import json
from pathlib import Path

from sim.plan import Plan, Times


def write_timeline(path: Path, plan: Plan, times: Times, name: str) -> None:
    """Write each task as an event of its unit; one microsecond of the viewer is one cycle.

    A second plan written to the same path is added as another process, so that a workload of many sequences
    makes one file. The file is complete after each call.
    """
    events = json.loads(path.read_text())["traceEvents"] if path.exists() else []
    process = 1 + max((event["pid"] for event in events), default=0)
    events.append({"ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": {"name": name}})
    for number, unit in enumerate(plan.units):
        events.append({"ph": "M", "name": "thread_name", "pid": process, "tid": number, "args": {"name": unit.name}})
    for task in range(len(plan)):
        number = int(plan.unit[task])
        events.append(
            {
                "ph": "X",
                "name": plan.units[number].name,
                "pid": process,
                "tid": number,
                "ts": int(times.start[task]),
                "dur": int(times.free[task] - times.start[task]),
                "args": {"task": task, "usable": int(times.finish[task])},
            }
        )
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}))
    partial.replace(path)
