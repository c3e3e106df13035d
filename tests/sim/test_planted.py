"""Errors planted in either engine are caught by comparing the engines on random plans.

The compiled twin runs without Numba here (its memory stays compiled): compiling each mutant costs more than
running it in the interpreter.
"""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import sim.compiled
import sim.engine
from sim.compiled import run_compiled
from tests.sim.random_plans import random_memory, random_plan
from tests.sim.worlds import difference, run_simpy

PLANS = 300
INTERPRETED = ("from numba import njit", "njit = lambda cache: lambda function: function")

# what is wrong: (text of the engine, text of the mutant)
COMPILED = {
    "ties in any order": (
        "heap[(n - 1) >> 1] > key:",
        "heap[(n - 1) >> 1] >> _TASK_BITS > key >> _TASK_BITS:",
    ),
    "lowest index first": ("(ready << _TASK_BITS) | t)", "(0 << _TASK_BITS) | t)"),
    "no latency": ("free[t], finish[t] = at, at + latency[u]", "free[t], finish[t] = at, at"),
    "no latency of arbitrated units": ("finish[t] = at + latency[u]\n        free", "finish[t] = at\n        free"),
    "room not waited for": ("else free[~d]\n", "else np.int64(0)\n"),
    "room is given by the result": ("else free[~d]\n", "else finish[~d]\n"),
    "last input dropped": ("range(dep_ptr[t], dep_ptr[t + 1])", "range(dep_ptr[t], dep_ptr[t + 1] - 1)"),
    "first input only": (
        "range(dep_ptr[t], dep_ptr[t + 1])",
        "range(dep_ptr[t], min(dep_ptr[t] + 1, dep_ptr[t + 1]))",
    ),
    "a lane too few": ("range(1, lanes)", "range(1, lanes - 1)"),
    "overtaking in order": ("max(lane_free[u, lane], last_start[u])", "lane_free[u, lane]"),
    "return not awaited": ("finish[t] = back + latency[memory_unit]", "finish[t] = free[t] + latency[memory_unit]"),
    "no latency of the fetcher": ("finish[t] = back + latency[memory_unit]", "finish[t] = back"),
    "decided before returns": ("next_return(c, s, trace, when)", "next_return(c, s, trace, when - (when < FOREVER))"),
    "lane free too soon": ("lane_free[u, lane] = at\n        depth", "lane_free[u, lane] = at - 1\n        depth"),
}
SIMPY = {
    "decided among the arrivals": ("yield after_arrivals(self.env)", "yield self.env.timeout(0)"),
    "newest first": ("(int(self.env.now), task)", "(-int(self.env.now), task)"),
    "lowest index first": ("(int(self.env.now), task)", "(0, task)"),
    "highest index first": ("heapq.heappop(ready)[1]", "ready.pop(ready.index(max(ready)))[1]"),
    "no latency": ("].latency)", "].latency * 0)"),
    "room not waited for": ("if not event.processed", "if dep >= 0 and not event.processed"),
    "room is given by the result": ("else self.freed[~dep]", "else self.finished[~dep]"),
    "last input dropped": ("plan.dep_ptr[task + 1]]", "plan.dep_ptr[task + 1] - 1]"),
    "a lane too many in order": ("init=lanes)", "init=lanes + 1)"),
    "a lane too many": ("free = [lanes]", "free = [lanes + 1]"),
    "return not awaited": ("max(int(back) - int(self.env.now), 0 if number >= 0 else 1)", "number < 0"),
    "return known too soon": ("(self.config[LOOKAHEAD] - 1)", "(self.config[LOOKAHEAD] * 9)"),
    "overtaking in order": (
        "yield from self._await_inputs(task)\n            yield free.get(1)\n"
        "            self.env.process(self._hold(task, free))",
        "self.env.process(self._late(task, free))\n            yield self.env.timeout(0)\n\n"
        "    def _late(self, task, free):\n"
        "        yield from self._await_inputs(task)\n        yield free.get(1)\n"
        "        yield from self._hold(task, free)",
    ),
}


def mutant(engine: ModuleType, folder: Path, *changes: tuple[str, str]) -> ModuleType:
    """A copy of an engine with each (old, new) applied; old must occur exactly once."""
    source = Path(str(engine.__file__)).read_text(encoding="utf-8")
    for old, new in changes:
        assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times"
        source = source.replace(old, new)
    path = folder / "mutant.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("mutant", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def caught(run: object, twin: object) -> str:
    """The first difference on the random plans, "" if there is none."""
    for seed in range(PLANS):
        rng = np.random.default_rng(seed)
        found = difference(random_plan(rng, 50), random_memory(rng), run, twin)
        if found:
            return found
    return ""


@pytest.mark.parametrize("error", COMPILED)
def test_error_in_the_compiled_engine_is_caught(error: str, tmp_path: Path) -> None:
    module = mutant(sim.compiled, tmp_path, INTERPRETED, COMPILED[error])
    assert caught(module.run_compiled, run_simpy)


@pytest.mark.parametrize("error", SIMPY)
def test_error_in_the_simpy_engine_is_caught(error: str, tmp_path: Path) -> None:
    module = mutant(sim.engine, tmp_path, SIMPY[error])
    assert caught(lambda plan, memory: module.Simulation(plan, memory).run(), run_compiled)


def test_copies_without_errors_agree(tmp_path: Path) -> None:
    module = mutant(sim.compiled, tmp_path, INTERPRETED)
    assert not caught(module.run_compiled, run_simpy)
    copy = mutant(sim.engine, tmp_path)
    assert not caught(lambda plan, memory: copy.Simulation(plan, memory).run(), run_compiled)
