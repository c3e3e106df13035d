"""Runs as a Chrome trace (JSON), which Perfetto and chrome://tracing open."""

import json
from pathlib import Path
from typing import Any

from sim.plan import Plan, Times


class Timeline:
    """Collects plans and writes them as one file; each plan is a process, each unit a thread.

    One microsecond of the viewer is one cycle. An event lasts as long as the task holds its unit; `usable`
    among its arguments is the cycle in which its result is.
    """

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.plans = 0

    def add(self, plan: Plan, times: Times, name: str) -> None:
        """Add the tasks of one plan under that name."""
        self.plans += 1
        self.events.append(self._label("process_name", 0, name))
        self.events += [self._label("thread_name", i, unit.name) for i, unit in enumerate(plan.units)]
        columns = (plan.unit, times.start, times.free - times.start, times.finish)
        for task, (unit, start, held, usable) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
            event = {"ph": "X", "name": plan.units[unit].name, "pid": self.plans, "tid": unit, "ts": start, "dur": held}
            self.events.append(event | {"args": {"task": task, "usable": usable}})

    def _label(self, kind: str, thread: int, name: str) -> dict[str, Any]:
        return {"ph": "M", "name": kind, "pid": self.plans, "tid": thread, "args": {"name": name}}

    def write(self, path: Path) -> None:
        """Write all events; the file is there complete or not at all."""
        partial = path.with_name(path.name + ".part")
        partial.write_text(json.dumps({"traceEvents": self.events, "displayTimeUnit": "ns"}))
        partial.replace(path)
