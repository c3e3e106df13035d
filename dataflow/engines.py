"""Run a Plan on the engine that the caller asks for."""

from sim.dram import DramSpec, IdealSpec, MemoryState
from sim.plan import Plan, Times

ENGINES = ("compiled", "simpy")


def run_plan(plan: Plan, memory: DramSpec | IdealSpec, engine: str = "compiled") -> tuple[Times, MemoryState]:
    """Times of all tasks and the memory afterwards. Raises ValueError for an engine that does not exist."""
    if engine == "simpy":
        from sim.engine import Simulation

        return Simulation(plan, memory).run()
    if engine == "compiled":
        from sim.compiled import run_compiled

        return run_compiled(plan, memory)
    raise ValueError(f"engine: must be one of {', '.join(ENGINES)}, got {engine!r}")
