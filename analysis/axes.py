"""Values of a sweep axis, and the tiny grammar of constraints."""

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Number = int | float
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_TOKEN = re.compile(r"\s*(?:(?P<key>[A-Za-z_][\w.]*)|(?P<op><=|>=|==|!=|<|>)|(?P<number>[-+]?[\d.][\w.+-]*))")


class Linear(BaseModel):
    """`{from: a, to: b, steps: n}`: n values, evenly spaced, ends included."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    start: Number = Field(alias="from")
    to: Number
    steps: Annotated[int, Field(ge=2, le=100_000)]

    def values(self) -> list[Number]:
        """Computed on the decimals that were written, so 0.2 to 1.0 in 5 steps holds 0.6 itself."""
        low, high = Fraction(str(self.start)), Fraction(str(self.to))
        whole = isinstance(self.start, int) and isinstance(self.to, int)
        exact = [low + (high - low) * i / (self.steps - 1) for i in range(self.steps)]
        return [int(x) if whole and x.denominator == 1 else float(x) for x in exact]


class Logarithmic(BaseModel):
    """`{from: a, to: b, log: n}`: n values in geometric steps, ends included.

    Between two integers the values are rounded to integers and equal ones merged; between two powers of
    two they are powers of two, as long as there are n of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    start: Annotated[Number, Field(gt=0, alias="from")]
    to: Annotated[Number, Field(gt=0)]
    log: Annotated[int, Field(ge=2, le=100_000)]

    def values(self) -> list[Number]:
        """In the order from `from` to `to`."""
        parts = [i / (self.log - 1) for i in range(self.log)]
        if not (isinstance(self.start, int) and isinstance(self.to, int)):
            inner = [self.start * (self.to / self.start) ** x for x in parts[1:-1]]
            return [self.start, *inner, self.to]
        low, high = math.log2(self.start), math.log2(self.to)
        if low.is_integer() and high.is_integer() and self.log <= abs(high - low) + 1:
            return [2 ** round(low + (high - low) * x) for x in parts]
        rounded = [round(2 ** (low + (high - low) * x)) for x in parts]
        return list(dict.fromkeys(rounded))


def axis_model(axis: Any) -> type[Linear] | type[Logarithmic] | None:
    """The schema that a range belongs to, by `log` or a key that is nearly that; None for no mapping."""
    if not isinstance(axis, Mapping):
        return None
    near = [key for key in axis if get_close_matches(str(key), ["log"])]
    return Logarithmic if near and "steps" not in axis else Linear


def axis_values(axis: Any) -> list[Any]:
    """The values of a list or of a valid range."""
    model = axis_model(axis)
    return list(axis) if model is None else model.model_validate(axis).values()


@dataclass(frozen=True)
class Constraint:
    """`key op number`, for instance `area_mm2 <= 20`."""

    key: str
    operator: str
    bound: float

    def holds(self, value: float) -> bool:
        """Whether `value` satisfies it; NaN satisfies none but `!=`."""
        return _OPERATORS[self.operator](value, self.bound)

    def __str__(self) -> str:
        return f"{self.key} {self.operator} {self.bound:g}"


def parse_constraint(text: str) -> Constraint:
    """Read `key op number`; a ValueError says at which character what was expected."""
    position, found = 0, []
    for kind, expected in (
        ("key", "a key of the result"),
        ("op", " ".join(_OPERATORS)),
        ("number", "a number"),
    ):
        token = _TOKEN.match(text, position)
        if token is None or token[kind] is None:
            raise _unexpected(text, position, expected)
        found.append(token[kind])
        position = token.end()
    if text[position:].strip():
        raise _unexpected(text, position, "nothing more")
    try:
        return Constraint(found[0], found[1], float(found[2]))
    except ValueError:
        raise _unexpected(text, position - len(found[2]), "a number") from None


def _unexpected(text: str, position: int, expected: str) -> ValueError:
    position += len(text[position:]) - len(text[position:].lstrip())
    got = repr(text[position:]) if position < len(text) else "its end"
    return ValueError(f"must be 'key op number': expected {expected} at character {position + 1}, got {got}")
