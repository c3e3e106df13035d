"""What a machine decides about its DRAM controller."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

Entries = Annotated[int, Field(ge=1, le=1024)]


class Controller(BaseModel):
    """Scheduler, page policy, refresh and queues; entries count bursts of one pseudo-channel.

    scheduler          fr_fcfs: oldest ready first, a row is not closed while an older request hits it;
                       fr_fcfs_unprotected: it may be closed; fcfs: only the oldest request
    page               open: rows stay open; closed: closed with the last request that hits them
    refresh            all_bank: all banks every interval; per_bank: one after another; none
    row_hit_cap        column commands of one activation while another row of the bank waits; 0: no limit
    read_queue, write_queue  pooled over the pseudo-channels of a channel
    write_high, write_low    writes are drained when the write queue is fuller than this share, until it is emptier
    outstanding_reads  accepted and not yet returned
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    scheduler: Literal["fr_fcfs", "fr_fcfs_unprotected", "fcfs"]
    page: Literal["open", "closed"]
    refresh: Literal["all_bank", "per_bank", "none"]
    row_hit_cap: Annotated[int, Field(ge=0, le=65536)]
    read_queue: Entries
    write_queue: Entries
    write_high: Annotated[float, Field(gt=0, le=1)]
    write_low: Annotated[float, Field(ge=0, le=1)]
    outstanding_reads: Annotated[int, Field(ge=1, le=65536)]

    @field_validator("write_low")
    @classmethod
    def _below_high(cls, low: float, info: ValidationInfo) -> float:
        """Otherwise the controller would leave write mode before it enters it."""
        if low > info.data.get("write_high", 1.0):
            raise PydanticCustomError("watermark", "must be at most write_high")
        return low
