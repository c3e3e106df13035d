"""`Policy`: what is decided outside the hardware. No torch here."""

from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from workloads.schedules import SCHEDULES

Share = Annotated[float, Field(gt=0, le=1)]


def _named(value: Any) -> Any:
    """The shares behind the name of a schedule; a list as a tuple, anything else as it is."""
    if not isinstance(value, str) or not value[:1].isalpha():  # "0.5" and "1 GHz" are numbers that went wrong
        return tuple(value) if isinstance(value, list) else value
    if value not in SCHEDULES:
        near = get_close_matches(value, SCHEDULES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"must be a share, one share per layer or one of {', '.join(SCHEDULES)}{hint}")
    return SCHEDULES[value]


Shares = Share | tuple[Share, ...]
Keep = Annotated[Shares, BeforeValidator(_named, json_schema_input_type=Shares | str)]


class Policy(BaseModel):
    """Pruning schedule and number formats of SpAtten (arXiv 2012.09852, sections III and V-A).

    `token_keep` and `head_keep` are the mean share of tokens and heads that stay over the pruned layers,
    or one share per layer, or the name of such a list (`workloads/schedules.py`).  The first `*_front` share
    of the layers is never pruned, the rest falls linearly from keep + s to keep - s with
    s = min(keep * taper, 1 - keep), so that the mean is kept and no share exceeds 1 (section V-A, which
    leaves the slope open; `workloads/schedule.py`).

    `token_threshold` above 0 replaces the fixed share (LTP, arXiv 2107.00910, section 3): a token stays in
    the next layer if the probability that it received, averaged over heads and queries of this layer, is at
    least the threshold of that layer. Thresholds rise linearly from 0 in the front layers to this value in
    the last one; the most important token always stays.  LTP learns them from there; here the line stays.

    `readmit` lets each layer choose anew among all tokens by the accumulated score, so that a token may come
    back; K and V of all tokens then stay in DRAM, and shares per layer may rise.

    `token_recent`: in generation the last so many tokens are never dropped.  SpAtten's algorithm has no such rule
    (0); the demonstration on Llama that its authors released later does, as accumulated scores favour old tokens.

    `value_keep` is local: that share of the kept keys has its V vector used, per query.  K is held as
    `key_msb_bits` + `key_lsb_bits`; the low bits are fetched only for a query whose largest probability
    stays below `lsb_threshold` (section III-D).  `key_lsb_bits: 0` is static quantization.

    `execution` is of GPUs, on traces of whole models: eager operators replayed as one CUDA graph or launched one by
    one from Python, or repeated blocks compiled (fused), launched or replayed. `scheme` names the number scheme
    (`workloads/schemes`) under which such a trace runs; "": as recorded.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    token_keep: Keep = 1.0
    token_front: Annotated[float, Field(ge=0, le=1)] = 0.15  # section V-A
    token_taper: Annotated[float, Field(ge=0, lt=1)] = 0.5  # assumed: the paper leaves the slope open
    token_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    token_recent: Annotated[int, Field(ge=0)] = 0
    readmit: bool = False
    head_keep: Keep = 1.0
    head_front: Annotated[float, Field(ge=0, le=1)] = 0.30  # section V-A
    head_taper: Annotated[float, Field(ge=0, lt=1)] = 0.1  # assumed: the paper leaves the slope open
    value_keep: Share = 1.0
    query_bits: Annotated[int, Field(ge=1, le=32)] = 12  # Table I: on-chip width
    key_msb_bits: Annotated[int, Field(ge=1, le=32)] = 12
    key_lsb_bits: Annotated[int, Field(ge=0, le=16)] = 0
    value_bits: Annotated[int, Field(ge=1, le=32)] = 12
    lsb_threshold: Annotated[float, Field(ge=0, le=1)] = 0.1  # section III-D: 'typical 0.1'
    execution: Literal["graph", "eager", "compiled", "compiled_graph"] = "graph"
    scheme: str = ""

    @model_validator(mode="after")
    def _one_rule_for_tokens(self) -> "Policy":
        """A threshold needs this layer's probabilities of every candidate: no share beside it, none readmitted."""
        if self.token_threshold and self.token_keep != 1:
            raise ValueError("token_threshold must be 0 where token_keep is given: one rule decides on tokens")
        if self.token_threshold and self.readmit:
            raise ValueError("readmit must be false with token_threshold: an absent token has no importance")
        return self
