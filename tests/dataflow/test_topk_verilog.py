"""The top-k engine in Verilog under Icarus: the winners and the cycles of the rule that plans use."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import dataflow.spatten
from dataflow.spatten.topk import TopKEngine, filter_cycles, select_by_value, winners

SOURCES = sorted((Path(dataflow.spatten.__file__).parent / "verilog").glob("*.v"))
pytestmark = pytest.mark.skipif(shutil.which("iverilog") is None, reason="needs iverilog")
OVERHEAD = 3
# lanes, rows, registers between the shifts in front of the FIFOs
ENGINES = ((16, 64, 0), (16, 64, 1), (8, 128, 0), (4, 24, 0), (5, 8, 1), (1, 40, 0))


@dataclass(frozen=True)
class Case:
    """One vector: values, how many to keep, seed of the pivots."""

    values: NDArray[np.int64]
    keep: int
    seed: int


@dataclass
class Outcome:
    """What the testbench said of a case; cycles are numbers of the clock."""

    start: int = 0
    found: int = 0
    passes: int = 0
    threshold: int = 0
    ties: int = 0
    last: int = 0
    winners: list[int] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    refused: bool = False


Simulate = Callable[..., list[Outcome]]


@pytest.fixture(scope="module")
def simulate(tmp_path_factory: pytest.TempPathFactory) -> Simulate:
    """Compile an engine once, run any number of cases in one simulation."""
    folder = tmp_path_factory.mktemp("verilog")

    def run(engine: tuple[int, int, int], cases: list[Case], *options: str) -> list[Outcome]:
        program, file = folder / f"{engine}.vvp", folder / "cases.txt"
        if not program.exists():
            _compile(engine, program)
        lines = (f"{len(c.values)} {c.keep} {c.seed:x} {' '.join(map(str, c.values))}\n" for c in cases)
        file.write_text("".join(lines), "utf-8")
        command = ["vvp", "-n", str(program), f"+cases={file}", *options]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
        return _read(said, len(cases))

    return run


def _compile(engine: tuple[int, int, int], program: Path) -> None:
    names = zip(("LANES", "DEPTH", "SHIFT_REGISTERS"), engine, strict=True)
    options = [f"-Ptopk_testbench.{name}={value}" for name, value in names]
    command = ["iverilog", "-g2005-sv", "-Wall", "-Wno-timescale", "-s", "topk_testbench", "-o", str(program)]
    done = subprocess.run([*command, *options, *map(str, SOURCES)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def _read(said: str, number: int) -> list[Outcome]:
    outcomes = [Outcome() for _ in range(number)]
    *lines, end = said.splitlines()
    assert end.startswith(f"end {number} cases"), said[-300:]
    for kind, case, *rest in map(str.split, lines):
        outcome = outcomes[int(case)]
        if kind == "select":
            outcome.start, outcome.found, outcome.passes, outcome.threshold, outcome.ties = map(int, rest)
        elif kind == "winners":
            pairs = [pair.split(":") for pair in rest]
            outcome.winners += [int(place) for place, _ in pairs]
            outcome.values += [int(value) for _, value in pairs]
        elif kind == "filter":
            outcome.last = int(rest[0])
        else:
            outcome.refused = kind == "refused"
    return outcomes


def draw_cases(lanes: int, capacity: int, number: int) -> list[Case]:
    """Edges first (one value, all kept, one kept, all equal, a last row of one), then at random, with many ties."""
    random = np.random.default_rng(lanes)
    sizes = [1, lanes, lanes + 1, 3 * lanes - 1, capacity]
    shapes = [(min(n, capacity), keep) for n in sizes for keep in ("one", "all", "some")]
    shapes += [(int(random.integers(1, min(capacity, 80) + 1)), "some") for _ in range(number - len(shapes))]
    return [_draw_case(random, n, keep, (1, 2, 9, 4096)[i % 4]) for i, (n, keep) in enumerate(shapes)]


def _draw_case(random: np.random.Generator, n: int, keep: str, kinds: int) -> Case:
    wanted = {"one": 1, "all": n, "some": int(random.integers(1, n + 1))}[keep]
    return Case(random.integers(0, kinds, n), wanted, int(random.integers(0, 2**63)))


def expected(case: Case, lanes: int) -> NDArray[np.int64]:
    """Of a stable sort: no quick-select in it."""
    return np.sort(np.argsort(-case.values, kind="stable")[: case.keep])


@pytest.mark.parametrize("engine", ENGINES)
def test_winners_and_cycles_are_those_of_the_rule(simulate: Simulate, engine: tuple[int, int, int]) -> None:
    """Exactly: a pass takes ceil(m / lanes) + 3 (and its registers, if any), the filter its rows and shifts."""
    lanes, depth, registers = engine
    capacity = lanes * depth if lanes < 8 else 200
    cases = draw_cases(lanes, capacity, 40)
    overhead = TopKEngine(lanes, depth, bool(registers)).overhead_cycles
    assert overhead == OVERHEAD + registers * (lanes - 1).bit_length()
    for case, outcome in zip(cases, simulate(engine, cases), strict=True):
        values, seed = case.values.astype(np.float64), np.uint64(case.seed)
        cycles, passes, _, threshold, ties = select_by_value(values, case.keep, lanes, overhead, seed)
        assert (outcome.passes, outcome.threshold, outcome.ties) == (passes, threshold, ties)
        assert outcome.winners == expected(case, lanes).tolist()
        assert outcome.winners == winners(values, case.keep, lanes, overhead, seed).tolist()
        assert outcome.values == case.values[outcome.winners].tolist()
        assert outcome.found - outcome.start == cycles
        assert outcome.last - outcome.found == filter_cycles(len(values), lanes)


@pytest.mark.parametrize(("lanes", "depth"), [(16, 64), (8, 128)])
def test_a_whole_context_is_selected(simulate: Simulate, lanes: int, depth: int) -> None:
    """1024 values fill every row of the buffers: neither FIFO overflows, whatever the pivots are.

    Rising and falling inputs leave all survivors on one side. Means over many draws: docs/topk.md.
    """
    random = np.random.default_rng(5)
    orders = (np.arange(1024), np.arange(1024)[::-1], random.permutation(1024))
    cases = [Case(order, keep, 3 * keep) for order, keep in zip(orders, (1, 1024, 512), strict=True)]
    for case, outcome in zip(cases, simulate((lanes, depth, 0), cases), strict=True):
        found = TopKEngine(lanes, depth).select(case.values.astype(np.float64), case.keep, case.seed)
        assert outcome.winners == found.winners.tolist() == expected(case, lanes).tolist()
        assert (outcome.found - outcome.start, outcome.passes) == (found.find_cycles, len(found.passes))


def test_vectors_back_to_back_share_the_engine(simulate: Simulate) -> None:
    """Load, search and filter work side by side: a search begins one cycle after the one before has found.

    The filter of a short search may still be busy, and the load of a long vector may not have ended.
    """
    cases = draw_cases(4, 40, 60)
    outcomes = simulate((4, 24, 0), cases, "+overlap")
    for case, outcome in zip(cases, outcomes, strict=True):
        cycles = select_by_value(case.values.astype(np.float64), case.keep, 4, OVERHEAD, np.uint64(case.seed))[0]
        assert outcome.winners == expected(case, 4).tolist()
        assert outcome.found - outcome.start >= cycles
    at_once = [b.start - a.found for a, b in pairwise(outcomes)]
    assert min(at_once) == 1
    assert at_once.count(1) > 30
    alone = simulate((4, 24, 0), cases)
    assert outcomes[-1].last < alone[-1].last


def test_the_shift_register_is_a_source_of_pivots(simulate: Simulate) -> None:
    cases = draw_cases(4, 60, 40)
    passes = []
    for case, outcome in zip(cases, simulate((4, 24, 0), cases, "+lfsr"), strict=True):
        assert outcome.winners == expected(case, 4).tolist()
        passes.append(outcome.passes)
    assert len(set(passes)) > 3


def test_what_does_not_fit_is_refused(simulate: Simulate) -> None:
    """Too many values, none or more wanted than there are; the vectors between them are served."""
    good = Case(np.array([3, 1, 2]), 2, 9)
    full = Case(np.arange(96), 96, 9)
    wrong = (Case(np.arange(97), 4, 9), Case(np.arange(250), 4, 9), Case(np.arange(9), 0, 9), Case(np.arange(9), 10, 9))
    cases = [case for each in wrong for case in (each, good, full)]
    outcomes = simulate((4, 24, 0), cases, "+overlap")
    assert [outcome.refused for outcome in outcomes] == [True, False, False] * len(wrong)
    for outcome in outcomes[1::3]:
        assert outcome.winners == [0, 2]
    for outcome in outcomes[2::3]:
        assert outcome.winners == list(range(96))


def test_values_may_come_fewer_at_a_time(simulate: Simulate) -> None:
    """Three a cycle into five lanes: rows fill without holes. Of 43 values the last one alone would fit: refused."""
    cases = [*draw_cases(5, 40, 30), Case(np.arange(43), 4, 9), Case(np.arange(40), 4, 9)]
    outcomes = simulate((5, 8, 1), cases, "+width=3")
    assert [i for i, outcome in enumerate(outcomes) if outcome.refused] == [30]
    for case, outcome in zip(cases, outcomes, strict=True):
        assert outcome.refused or outcome.winners == expected(case, 5).tolist()
