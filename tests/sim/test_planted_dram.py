"""Errors planted in the DRAM controller are caught by the slow controller and the slow front end.

A copy of the package runs in the interpreter: compiling each mutant costs more.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import sim.dram
from sim.dram.spec import DramSpec
from tests.sim.random_memories import MODES, random_spec, random_stream
from tests.sim.random_plans import random_dram
from tests.sim.serving import random_slices, serve
from tests.sim.slow_dram import run_slow
from tests.sim.slow_front import Slice, SlowFront

WORLDS, REQUESTS = 150, 60
# a refresh meets banks that are just closing by themselves: seldom in memories of all kinds, so every other one is this
OFTEN = {"page": "closed", "refresh_mode": "all_bank", "refresh_interval": 200}
STAND_INS = {
    "jit.py": "def jitted(function):\n    return function\n\n\ninlined = index = jitted\n",
    "bitset.py": "def lowest_bit(value):\n    return (int(value) & -int(value)).bit_length() - 1 if value else 64\n",
}
GUARD = ('"""Do what `next_time` found for t."""', "assert t < 1_000_000, 'nothing but refreshes will ever happen'")
_names = (f"planted_dram_{number}" for number in count())

# what is wrong: (file, text of the controller, text of the mutant)
CONTROLLER = {
    "room promised twice": (
        "queues.py",
        "if m[index(ch + L.QUEUED + w)] == (c[L.WRITE_ROOM] if w else c[L.READ_ROOM]):",
        "if False:",
    ),
    "room for a read too many": (
        "queues.py",
        "m[ch + L.QUEUED] >= c[L.READ_ROOM]",
        "m[ch + L.QUEUED] > c[L.READ_ROOM]",
    ),
    "returned read counted a tick longer": (
        "queues.py",
        "m[index(ps + L.RING + head)] <= a",
        "m[index(ps + L.RING + head)] < a",
    ),
    "two heads of a FIFO at once": ("queues.py", "m[ps + L.OFFER] = a + 1", "m[ps + L.OFFER] = a"),
    "cap of row hits a column too late": (
        "queues.py",
        "m[bank + L.COLUMNS] >= c[L.CAP]:\n            hit",
        "m[bank + L.COLUMNS] > c[L.CAP]:\n            hit",
    ),
    "writes drained too early": ("choose.py", "writes > c[L.WRITES_HIGH]", "writes >= c[L.WRITES_HIGH]"),
    "writes drained too long": ("choose.py", "stop = writes < c[L.WRITES_LOW]", "stop = writes < c[L.WRITES_LOW] - 1"),
    "row hits go while a refresh is pending": (
        "choose.py",
        "mask = m[ch + L.HITS + w] & mine & ~withheld(c, m, ch)",
        "mask = m[ch + L.HITS + w] & mine",
    ),
    "row opened in the bank that is to be refreshed": (
        "choose.py",
        "& banks_of(c, p) & ~withheld(c, m, ch)",
        "& banks_of(c, p)",
    ),
    "row closed before its active request": (
        "choose.py",
        "mask = m[ch + L.ROWS + w] & ~m[ch + L.ACTIVE_BANKS] & banks_of(c, p)",
        "mask = m[ch + L.ROWS + w] & banks_of(c, p)",
    ),
    "banks that close by themselves not awaited": (
        "choose.py",
        "time = max(time, m[bank_at(c, ch, number) + L.PRE_OK])",
        "time = max(time, m[bank_at(c, ch, number) + L.PRE_OK] * (m[bank_at(c, ch, number) + L.OPEN_ROW] >= 0))",
    ),
    "younger request wins a tie": ("choose.py", "or order < m[ps + L.ROW_ORDER]:", "or order > m[ps + L.ROW_ORDER]:"),
    "four activates in any window": ("rows.py", "(turn + 1) & 3", "(turn + 1) % 3"),
    "bus free after the first tick of an activate": (
        "rows.py",
        "hold_bus(c, m, ch, t, c[L.ACT_TICKS], False)",
        "hold_bus(c, m, ch, t, 1, False)",
    ),
    "write to read as if in another bank group": (
        "columns.py",
        "m[group + L.READ_GROUP] = max(m[group + L.READ_GROUP], t + c[L.WTR_L])",
        "m[group + L.READ_GROUP] = max(m[group + L.READ_GROUP], t + c[L.WTR_S])",
    ),
    "bank closed at once by an auto-precharge": (
        "columns.py",
        "close(c, m, ch, number, m[bank + L.PRE_OK])",
        "close(c, m, ch, number, t)",
    ),
    "row command before the column command of the tick": (
        "controller.py",
        "m[column_ps + L.COLUMN_TIME] < m[row_ps + L.ROW_TIME]\n    if not c[L.ONE_BUS] or",
        "m[column_ps + L.COLUMN_TIME] < m[row_ps + L.ROW_TIME]\n    if",
    ),
}
FRONT = {
    "place free a tick too early": (
        "front.py",
        "freed = m[next_place(c, m, ch, p) + 1]",
        "freed = m[next_place(c, m, ch, p) + 1] - 1",
    ),
    "full FIFO holds up nobody": ("front.py", "g = m[L.STALLED] = freed", "pass"),
    "two bursts a cycle into a channel": (
        "front.py",
        "m[ch + L.ARRIVAL] = arrives + c[L.EDGES]",
        "m[ch + L.ARRIVAL] = arrives",
    ),
    "a lane too many": ("front.py", "if lane == c[L.LANES]:", "if lane > c[L.LANES]:"),
    "lanes not given anew behind a stall": ("front.py", "g, lane = entered, 0", "g = entered"),
    "shared burst fetched twice": ("front.py", "        if burst == last:\n            burst += 1\n", ""),
    "next slice in the cycle of the last": ("front.py", "address, size, g) + c[L.EDGES]", "address, size, g)"),
    "return rounded down to core cycles": (
        "front.py",
        "return -(-time * c[L.MEMORY_PS] // c[L.CORE_PS]), number",
        "return time * c[L.MEMORY_PS] // c[L.CORE_PS], number",
    ),
    "returns known too far ahead": (
        "front.py",
        "known = m[L.ADVANCED] + c[L.LOOKAHEAD] - 1",
        "known = m[L.ADVANCED] + 2 * c[L.LOOKAHEAD]",
    ),
}


def interpreted(folder: Path, *changes: tuple[str, str, str]) -> ModuleType:
    """A copy of sim.dram without Numba and with each (file, old, new) applied; old must occur exactly once."""
    name = next(_names)
    package = folder / name
    package.mkdir()
    for path in Path(str(sim.dram.__file__)).parent.glob("*.py"):
        source = STAND_INS.get(path.name) or path.read_text(encoding="utf-8")
        source = source.replace("from numba import njit", "njit = lambda cache: lambda function: function")
        for file, old, new in (*changes, ("controller.py", *GUARD)):
            if file == path.name:
                assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times"
                source = source.replace(old, new)
        (package / path.name).write_text(source.replace("sim.dram", name), encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        importlib.import_module(f"{name}.stream")
        return sys.modules[name]
    finally:
        sys.path.remove(str(folder))


@cache
def slow_commands(seed: int) -> tuple[DramSpec, str, tuple[np.ndarray, ...], list[list[int]]]:
    """A memory, how it is fed, the stream, and the commands of the slow controller."""
    rng = np.random.default_rng(seed)
    spec, mode = random_spec(rng, **(OFTEN if seed % 2 else {})), str(rng.choice(MODES))
    requests = random_stream(rng, spec, REQUESTS)
    return spec, mode, requests, sorted(run_slow(spec, mode, *requests).trace.tolist())


@cache
def slow_slices(seed: int) -> tuple[DramSpec, list[Slice], tuple[list[int], list[int]]]:
    """A memory, slices, and when the slow front end has issued and got them."""
    rng = np.random.default_rng(seed)
    spec, slices = random_dram(rng), random_slices(rng, 6, 1 << 13)
    return spec, slices, SlowFront(spec, slices).run()


def same_commands(dram: ModuleType, seed: int) -> bool:
    spec, mode, requests, slow = slow_commands(seed)
    stream = sys.modules[f"{dram.__name__}.stream"].RequestStream(spec, mode, trace=True)
    stream.feed(*requests)
    return bool(sorted(stream.finish().trace.tolist()) == slow)


def same_slices(dram: ModuleType, seed: int) -> bool:
    spec, slices, slow = slow_slices(seed)
    return serve(spec, slices, dram=dram) == slow


def caught(dram: ModuleType, same: Callable[[ModuleType, int], bool]) -> int:
    """The first world in which the copy differs or fails, -1 if there is none."""
    for seed in range(WORLDS):
        try:
            if not same(dram, seed):
                return seed
        except (AssertionError, IndexError):
            return seed
    return -1


@pytest.fixture(autouse=True)
def forget_copies() -> Iterator[None]:
    yield
    for name in [name for name in sys.modules if name.startswith("planted_dram_")]:
        del sys.modules[name]


@pytest.mark.parametrize("error", CONTROLLER)
def test_error_in_the_controller_is_caught(error: str, tmp_path: Path) -> None:
    assert caught(interpreted(tmp_path, CONTROLLER[error]), same_commands) >= 0


@pytest.mark.parametrize("error", FRONT)
def test_error_in_the_front_end_is_caught(error: str, tmp_path: Path) -> None:
    assert caught(interpreted(tmp_path, FRONT[error]), same_slices) >= 0


@pytest.mark.parametrize("same", [same_commands, same_slices])
def test_copy_without_errors_agrees(same: Callable[[ModuleType, int], bool], tmp_path: Path) -> None:
    assert caught(interpreted(tmp_path), same) == -1
