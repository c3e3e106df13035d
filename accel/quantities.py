"""Number types that schemas share."""

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise PydanticCustomError("power_of_two", "must be a power of two")
    return value


PowerOfTwo = Annotated[
    int, Field(ge=1, json_schema_extra={"description": "a power of two"}), AfterValidator(_power_of_two)
]
