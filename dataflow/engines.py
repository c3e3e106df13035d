"""Run a Plan on the engine that the caller asks for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim.dram import DramSpec, IdealSpec, MemoryState
from sim.plan import Plan, Times

ENGINES = ("compiled", "simpy")


def run_plan(
    plan: Plan, memory: DramSpec | IdealSpec, options: Mapping[str, Any], name: str = ""
) -> tuple[Times, MemoryState]:
    """Times of all tasks and the memory afterwards.

    options   engine: "compiled" (default) or "simpy"; timeline: path to append this plan's events to
    """
    engine = options.get("engine", "compiled")
    if engine == "simpy":
        from sim.engine import Simulation

        times, state = Simulation(plan, memory).run()
    elif engine == "compiled":
        from sim.compiled import run_compiled

        times, state = run_compiled(plan, memory)
    else:
        raise ValueError(f"engine: must be one of {', '.join(ENGINES)}, got {engine!r}")
    if options.get("timeline"):
        from sim.timeline import write_timeline

        write_timeline(Path(options["timeline"]), plan, times, name)
    return times, state
