"""The file of a benchmark: a model's shape, its length, a pruning policy and the rate of low-bit fetches.

`docs/benchmarks.md` has the sources and the arithmetic. No torch here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from accel.fault import Fault, Faults, dotted
from accel.loading import Document, check, read_document
from workloads.policy import Policy
from workloads.trace import Trace

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, le=1)]


class Shape(BaseModel):
    """Numbers of the model; hidden = heads x head_size."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: Count
    heads: Count
    head_size: Count
    hidden: Count
    intermediate: Count


class Benchmark(BaseModel):
    """One benchmark file.

    kv_heads   heads of K and V, shared by heads / kv_heads query heads each; left out: one for each head
    batch      sequences alike, one after another
    tokens     of the text, with [CLS] and [SEP] (summarization)
    prompt, steps   tokens before the first generated one, and generated tokens (generation)
    lsb_rate   share of the query rows whose low bits of K are fetched, or one share a layer
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    source: str
    model: Shape
    kv_heads: Count | None = None
    batch: Count = 1
    kind: Literal["summarization", "generation"]
    tokens: Count | None = None
    prompt: Count | None = None
    steps: Count | None = None
    policy: Policy
    lsb_rate: Rate | tuple[Rate, ...] = 0.0
    seed: Annotated[int, Field(ge=0)] = 1


_LENGTHS = {"summarization": ("tokens",), "generation": ("prompt", "steps")}


def read_benchmark(path: str | Path) -> Benchmark:
    """A benchmark file; raises Faults with everything that is wrong as file:line:column."""
    document = read_document(path)
    benchmark = check(document, Benchmark)
    if faults := list(_faults(document, benchmark)):
        raise Faults(faults)
    return benchmark


def length_ranges(path: str | Path) -> dict[str, tuple[float, float]]:
    """Ranges (low, high) of the numbers that a benchmark file assumes, by dotted path."""
    return {dotted(at): span for at, span in read_document(path).ranges.items()}


def _faults(document: Document, benchmark: Benchmark) -> Iterator[Fault]:
    """Rules between fields."""
    model, kind = benchmark.model, benchmark.kind
    if model.hidden != model.heads * model.head_size:
        rule = f"must be heads x head_size ({model.heads * model.head_size})"
        yield document.fault(("model", "hidden"), rule, model.hidden)
    if model.heads % (benchmark.kv_heads or model.heads):
        yield document.fault(("kv_heads",), f"must divide heads ({model.heads})", benchmark.kv_heads)
    for name in ("tokens", "prompt", "steps"):
        given, asked = getattr(benchmark, name) is not None, name in _LENGTHS[kind]
        if given != asked:
            rule = f"must {'' if asked else 'not '}be given for {kind}"
            yield document.fault((name,), rule, at_key=given)
    yield from _layer_faults(document, benchmark)


def _layer_faults(document: Document, benchmark: Benchmark) -> Iterator[Fault]:
    """A list has one entry per layer."""
    layers, policy = benchmark.model.layers, benchmark.policy
    fields = {
        ("policy", "token_keep"): policy.token_keep,
        ("policy", "head_keep"): policy.head_keep,
        ("lsb_rate",): benchmark.lsb_rate,
    }
    for path, value in fields.items():
        if isinstance(value, tuple) and len(value) != layers:
            yield document.fault(path, f"must have one share per layer ({layers})", len(value))


def benchmark_trace(path: str | Path) -> Trace:
    """The trace of a benchmark file; raises Faults as `read_benchmark` does."""
    return stated_trace(read_benchmark(path))


def stated_trace(benchmark: Benchmark) -> Trace:
    """The benchmark as a trace of kind "benchmark": its numbers in `made`, the eager operators of the
    unpruned model for the baselines (a batch as sequences one after another), no facts."""
    numbers = benchmark.model_dump(mode="json")
    model = {"name": benchmark.name, **numbers.pop("model"), "kv_heads": numbers.pop("kv_heads")}
    model["kv_heads"] = model["kv_heads"] or model["heads"]
    made = {**numbers, "kind": "benchmark", "phase": benchmark.kind, "positions": "not recorded, evenly spread"}
    return Trace(benchmark.name, model, made, _operators(benchmark))


def _operators(benchmark: Benchmark) -> dict[str, NDArray[Any]]:
    model = benchmark.model
    if benchmark.tokens:
        from workloads.encoder_operators import EncoderShape, encoder_operators

        shape = EncoderShape(model.layers, model.heads, model.hidden, model.intermediate)
        return encoder_operators(shape, [benchmark.tokens] * benchmark.batch)
    from workloads.gpt2 import operators

    assert benchmark.prompt is not None
    assert benchmark.steps is not None
    table = operators(model.layers, model.heads, model.hidden, benchmark.prompt, benchmark.steps)
    generated = table["step"] > 0  # the prompt is not part of it, as in the released files
    table = {name: values[generated] for name, values in table.items()}
    return table | {"step": table["step"] - 1, "repeat": table["repeat"] * benchmark.batch}
