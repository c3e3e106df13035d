"""Schema of fits: dimensionless numbers of kernel models, fitted to measurements of one GPU (`tilewright calibrate`).

Each class of kernels has its section, in a file of its own beside this one. A section that is missing was not fitted.
"""

from pydantic import BaseModel, ConfigDict, Field

_STRICT = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Error(BaseModel):
    """Of held-out points: absolute relative error, mean and 90th percentile, signed mean, and how many there were."""

    model_config = _STRICT
    mean: float
    p90: float
    bias: float
    points: int = Field(ge=1)


class Fit(BaseModel):
    """What was fitted to the measurements of one device."""

    model_config = _STRICT
    name: str
    source: str
    """records, date, commit, command"""
    error: dict[str, Error] = {}
    """by class (`Estimate.kind`)"""
