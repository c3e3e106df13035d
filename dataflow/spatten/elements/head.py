"""What moves through the accelerator: heads with their K and V, their queries, and the log of what happened."""

from collections import defaultdict
from dataclasses import dataclass, field

import simpy

Times = tuple[int, int, int]  # taken, left, result usable
STAGES = ("fetcher", "query_key", "softmax", "value_topk", "value_filter", "prob_value", "accumulator", "topk",
          "topk_filter")  # fmt: skip


class Countdown:
    """`done` happens when so many things have happened."""

    def __init__(self, env: simpy.Environment, things: int) -> None:
        self.left, self.done = things, env.event()

    def tick(self) -> None:
        """One more thing."""
        self.left -= 1
        if self.left == 0:
            self.done.succeed()


@dataclass(eq=False)
class Head:
    """One pass of one head: a row of `AttentionWork`.

    key_here, value_here, lsb_here     the matrix is in its SRAM
    selected                           the local top-k of a generated token knows its V vectors
    computed, left, weighted, summed   all queries are through Q x K for good; have left prob x V; their outputs
                                       are there; their probabilities are in the accumulators
    """

    env: simpy.Environment
    number: int
    queries: int
    keys: int
    values: int
    lsb_asked: bool = False

    def __post_init__(self) -> None:
        self.key_here, self.value_here, self.lsb_here, self.selected = (self.env.event() for _ in range(4))
        counts = [Countdown(self.env, self.queries) for _ in range(4)]
        self.computed, self.left, self.weighted, self.summed = counts

    @property
    def prompt(self) -> bool:
        """Many queries share K and V: V is read whole."""
        return self.queries > 1

    @property
    def selects(self) -> bool:
        """The local top-k leaves out V vectors."""
        return self.values < self.keys


@dataclass(eq=False)
class Query:
    """One query of a head. `flagged`: it needs the LSBs; `again`: it is computed the second time, with them.

    block   counts the queries of its register that are still to be computed
    """

    head: Head
    number: int
    flagged: bool
    block: Countdown
    again: bool = False

    @property
    def order(self) -> tuple[int, int]:
        """Of two that are ready in the same cycle the smaller one goes first."""
        return self.head.number, self.number

    def needs(self, elements: int) -> int:
        """Places in a FIFO for so many of its elements: the second pass has a row of its own, kept free for it."""
        return 0 if self.again else elements

    @property
    def key(self) -> tuple[int, int, int]:
        """Name in the log: row, query, pass."""
        return self.head.number, self.number, int(self.again)


@dataclass
class Log:
    """stage -> (row, query, pass) or, of the fetcher, (row, operand, block) -> times."""

    of: dict[str, dict[tuple[int, ...], Times]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, stage: str, key: tuple[int, ...], start: float, left: float, usable: float) -> None:
        """Once for each name."""
        assert key not in self.of[stage], f"{stage}: {key} twice"
        self.of[stage][key] = (int(start), int(left), int(usable))

    def sorted(self, stage: str) -> list[Times]:
        """Times of a stage in the order of their start."""
        return sorted(self.of[stage].values())

    @property
    def cycles(self) -> int:
        """Until the last result is usable."""
        return max((times[2] for stage in self.of.values() for times in stage.values()), default=0)
