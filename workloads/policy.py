"""`Policy`: what is decided outside the hardware. No torch here."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(gt=0, le=1)]


class Policy(BaseModel):
    """Pruning schedule and number formats of SpAtten (arXiv 2012.09852, sections III and V-A).

    `token_keep` and `head_keep` are the mean share of tokens and heads that stay over the pruned layers,
    or one share per layer; the first `*_front` share of the layers is never pruned, the rest falls
    linearly from keep + s to keep - s with s = min(keep * taper, 1 - keep), so that the mean is kept and no
    share exceeds 1 (section V-A, which leaves the slope open; `workloads/schedule.py`).  `value_keep` is
    local: that share of the kept keys has its V vector used, per query.  K is held as `key_msb_bits` +
    `key_lsb_bits`; the low bits are fetched only for a query whose largest probability stays below
    `lsb_threshold` (section III-D).  `key_lsb_bits: 0` is static quantization.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    token_keep: Share | tuple[Share, ...] = 1.0
    token_front: Annotated[float, Field(ge=0, le=1)] = 0.15  # section V-A
    token_taper: Annotated[float, Field(ge=0, lt=1)] = 0.5  # assumed: the paper leaves the slope open
    head_keep: Share | tuple[Share, ...] = 1.0
    head_front: Annotated[float, Field(ge=0, le=1)] = 0.30  # section V-A
    head_taper: Annotated[float, Field(ge=0, lt=1)] = 0.1  # assumed: the paper leaves the slope open
    value_keep: Share = 1.0
    query_bits: Annotated[int, Field(ge=1, le=32)] = 12  # Table I: on-chip width
    key_msb_bits: Annotated[int, Field(ge=1, le=32)] = 12
    key_lsb_bits: Annotated[int, Field(ge=0, le=16)] = 0
    value_bits: Annotated[int, Field(ge=1, le=32)] = 12
    lsb_threshold: Annotated[float, Field(ge=0, le=1)] = 0.1  # section III-D: 'typical 0.1'
