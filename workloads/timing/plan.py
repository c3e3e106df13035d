"""Which models a recording times, in order: the most wanted first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from workloads.timing.model import COMPILED, EAGER, PARTS, label
from workloads.zoo.registry import find_model


@dataclass(frozen=True)
class Job:
    """One model of the zoo with options; `dtype` is the zoo's if empty; `parts` of `time_stages`."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = ""
    parts: tuple[str, ...] = PARTS

    @property
    def label(self) -> str:
        """File name of the record, without suffix."""
        return "_".join([label(self.name, self.options), *filter(None, [self.dtype])])

    @property
    def format(self) -> str:
        """Format of weights and activations."""
        return self.dtype or find_model(self.name).dtype


_GUIDED = {"batch": 2}  # classifier-free guidance: with and without the text

DEFAULT = (
    Job("sana_1600m", {"size": 1024, **_GUIDED}),
    Job("sana_1600m", {"size": 2048, **_GUIDED}),
    Job("sana_1600m", {"size": 4096, **_GUIDED}),
    Job("dc_ae_f32c32_decode", {"size": 1024}),
    Job("dc_ae_f32c32_decode", {"size": 2048}),
    Job("flux_dev", {"size": 1024}),
    Job("llama3_8b", {"tokens": 1024}),
    Job("llama3_8b", {"tokens": 1, "past": 1024, "batch": 64}),
    Job("llama3_8b", {"tokens": 1, "past": 1024, "batch": 1}),
    Job("llama3_8b", {"tokens": 1, "past": 1024, "batch": 256}),
    Job("pixart_sigma", {"size": 1024, **_GUIDED}),
    Job("qwen15_72b", {"layers": 4, "tokens": 1024}),
    Job("qwen15_72b", {"layers": 4, "tokens": 1, "past": 1024, "batch": 32}),
    Job("bert_base", {"tokens": 384}),
    Job("gpt2_medium", {"tokens": 992}),
    Job("gpt2_medium", {"tokens": 1, "past": 1023}),
    Job("gpt2_small", {"tokens": 992}, parts=EAGER),
    Job("gpt2_small", {"tokens": 1, "past": 1023}, parts=EAGER),
    Job("dc_ae_f32c32_decode", {"size": 4096}, parts=EAGER),  # last: tensors of 2^31 elements may fail or be slow
)
SMOKE = (
    Job("bert_base", {"layers": 2, "tokens": 64}),
    Job("llama3_8b", {"layers": 2, "tokens": 1, "past": 64}),
)
PLANS = {"default": DEFAULT, "smoke": SMOKE}


def sweeps(jobs: Sequence[Job]) -> list[Job]:
    """All eager measurements first, then what must be compiled, which takes most of the time."""
    halves = [
        [replace(job, parts=tuple(p for p in job.parts if p in half)) for job in jobs] for half in (EAGER, COMPILED)
    ]
    return [job for half in halves for job in half if job.parts]


def jobs_of(text: str) -> tuple[Job, ...]:
    """Jobs of a plan, or of labels and models of the zoo with commas between ("flux_dev,llama3_8b_tokens1_past1024").

    Raises ValueError for what is neither.
    """
    if text in PLANS:
        return PLANS[text]
    return tuple(_job(word.strip()) for word in text.split(",") if word.strip())


def _job(word: str) -> Job:
    known = {job.label: job for plan in PLANS.values() for job in plan}
    if word in known:
        return known[word]
    try:
        return Job(find_model(word).name)
    except ValueError:
        near = get_close_matches(word, [*PLANS, *known], 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        names = ", ".join([*PLANS, *known])
        raise ValueError(f"plan: must be one of {names} or a model of the zoo, got {word!r}{hint}") from None
