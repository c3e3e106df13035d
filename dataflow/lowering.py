"""Registry of planners: which function runs which kind of machine."""

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])
_PLANNERS: dict[str, Callable[..., object]] = {}


def planner(name: str) -> Callable[[F], F]:
    """Register a function `(machine, trace, policy, options) -> Result` for machines with `planner: <name>`.

    Raises ValueError for a name that is taken.
    """

    def register(function: F) -> F:
        if name in _PLANNERS:
            raise ValueError(f"planner {name!r} is already registered by {_PLANNERS[name].__module__}")
        _PLANNERS[name] = function
        return function

    return register


def find_planner(name: str) -> Callable[..., object]:
    """The function registered for `name`; raises ValueError with the known names."""
    if name not in _PLANNERS:
        raise ValueError(f"no planner {name!r}; known: {', '.join(sorted(_PLANNERS))}")
    return _PLANNERS[name]
