"""A number scheme as data: formats, and rules that say which layer gets which (`workloads/schemes/specs/*.yaml`).

A rule names modules by patterns (`workloads.schemes.patterns`), relative to the root of its family where it
has one. The first rule that matches wins; a GEMM without a rule keeps the scheme's default. No torch here.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from accel.fault import Fault, Faults, nearest
from accel.loading import Document, check, read_document

SPECS = Path(__file__).parent / "specs"
FAMILIES = Path(__file__).parent / "families.yaml"
KV_FORMATS = Path(__file__).parent / "kv_formats.yaml"
Bits = Annotated[int, Field(ge=1, le=64)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Level(_Strict):
    """Numbers of `bits` each, one for a group.

    group   along the inputs of a row: so many elements (a rest counts as a group), "row" (an output channel of
            a weight, a token of an activation) or "tensor"
    flat    True: groups run over the whole tensor in memory order, not along the inputs
    """

    bits: Bits
    group: Annotated[int, Field(ge=1)] | Literal["row", "tensor"]
    flat: bool = False


class Weights(_Strict):
    """A stored weight: `number` is the name of its number format ("int4", "e2m1", "bfloat16")."""

    number: str
    bits: Bits
    scales: tuple[Level, ...]
    zeros: tuple[Level, ...] = ()


class Activations(_Strict):
    """An input quantised in front of the GEMM. sums: sums over the inputs, as a zero point of the weights asks."""

    number: str
    bits: Bits
    scales: tuple[Level, ...]
    sums: tuple[Level, ...] = ()


class LowRank(_Strict):
    """A branch y += (x A) B beside the GEMM: A and B as `number` of `bits`, x A in `hidden_bits`.

    adapter_step   the rank of users' adapters is filled up to a multiple of this
    """

    number: str
    bits: Bits
    hidden: str
    hidden_bits: Bits
    rank: Annotated[int, Field(ge=0)]
    adapter_step: Annotated[int, Field(ge=1)]


class Smooth(_Strict):
    """Stored vectors of `bits`, one number an input channel; the first divides the input."""

    vectors: Annotated[int, Field(ge=1)]
    bits: Bits


class Format(_Strict):
    """What a GEMM runs in. accumulate: sums across groups; no activations: the input stays as it is."""

    weights: Weights
    activations: Activations | None = None
    low_rank: LowRank | None = None
    smooth: Smooth | None = None
    accumulate: str


class Rule(_Strict):
    """Which modules get a format.

    family   a name of families.yaml: the rule is for these models, its patterns start at their root
    kinds    kinds of operators
    unless   patterns of modules that are not meant
    split    the layer runs as two GEMMs: inputs up to the number of outputs in `format`, the others in this one
    shared   last names of layers that read one input: quantised once, with one down projection and one set
             of smoothing vectors for all
    """

    name: str
    family: str | None = None
    modules: Names
    unless: tuple[str, ...] = ()
    kinds: Names = ("linear", "conv_1x1")
    format: str
    split: str | None = None
    shared: tuple[str, ...] = ()


class Scheme(_Strict):
    """A scheme file. default: the format (16 bit or wider, without scales) of everything that no rule names;
    kv: the format of the KV cache of Llama-type decoders, a name of kv_formats.yaml."""

    name: str
    source: str
    default: str
    kv: str
    formats: Annotated[dict[str, Format], Field(min_length=1)]
    rules: tuple[Rule, ...]


class Family(_Strict):
    """Models of one make. sign: pattern of a module that only they have, from their root; cache: pattern of the
    attention modules with a KV cache."""

    sign: str
    cache: str | None = None


class Families(_Strict):
    families: dict[str, Family]


class KvFormat(_Strict):
    """Numbers of `bits`; scale and zero (bits) for each token, kv head, and each of K and V."""

    number: str
    bits: Bits
    scale_bits: Annotated[int, Field(ge=0)]
    zero_bits: Annotated[int, Field(ge=0)]


class KvFormats(_Strict):
    formats: dict[str, KvFormat]


def scheme_names() -> list[str]:
    """Names of the shipped schemes."""
    return sorted(path.stem for path in SPECS.glob("*.yaml"))


def read_scheme(name_or_path: str | Path) -> Scheme:
    """A shipped scheme by name, or a scheme file.

    Raises ValueError for an unknown name, Faults (file:line:column) with everything that is wrong in the file.
    """
    name = str(name_or_path)
    if name not in scheme_names() and not Path(name).is_file():
        near = get_close_matches(name, scheme_names(), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"scheme: must be one of {', '.join(scheme_names())}, or a .yaml file, got {name!r}{hint}")
    path = SPECS / f"{name}.yaml" if name in scheme_names() else Path(name)
    document = read_document(path)
    scheme = check(document, Scheme)
    if faults := list(_faults(document, scheme)):
        raise Faults(faults)
    return scheme


@lru_cache
def families() -> dict[str, Family]:
    """The families that rules may name."""
    return check(read_document(FAMILIES), Families).families


@lru_cache
def kv_formats() -> dict[str, KvFormat]:
    """The formats of a KV cache by name."""
    return check(read_document(KV_FORMATS), KvFormats).formats


def _faults(document: Document, scheme: Scheme) -> Iterator[Fault]:
    """Rules between fields: names must be known, the default must be a plain format, rules named once."""
    known = list(scheme.formats)
    yield from _unknown(document, ("default",), scheme.default, known)
    yield from _unknown(document, ("kv",), scheme.kv, list(kv_formats()))
    if (plain := scheme.formats.get(scheme.default)) and not is_plain(plain):
        rule = "must be a format of 16 bits or more without scales, activations or branch"
        yield document.fault(("default",), rule, scheme.default)
    for index, rule_ in enumerate(scheme.rules):
        path = ("rules", index)
        yield from _unknown(document, (*path, "format"), rule_.format, known)
        if rule_.split is not None:
            yield from _unknown(document, (*path, "split"), rule_.split, known)
        if rule_.family is not None:
            yield from _unknown(document, (*path, "family"), rule_.family, list(families()))
        yield from _branch_kinds(document, index, rule_, scheme)
        if rule_.name in [other.name for other in scheme.rules[:index]]:
            yield document.fault((*path, "name"), "must be used once", rule_.name)


def _branch_kinds(document: Document, index: int, rule: Rule, scheme: Scheme) -> Iterator[Fault]:
    """Low-rank branches are products [m, k] x [k, rank]."""
    format_ = scheme.formats.get(rule.format)
    odd = [kind for kind in rule.kinds if kind not in ("linear", "conv_1x1")]
    if odd and format_ and format_.low_rank:
        yield document.fault(("rules", index, "kinds"), "a low-rank branch must be of linear or conv_1x1", odd[0])


def _unknown(document: Document, path: tuple[str | int, ...], name: str, known: list[str]) -> Iterator[Fault]:
    if name not in known:
        yield document.fault(path, "must be a known name", name, nearest(name, known))


def is_plain(format_: Format) -> bool:
    """Whether a layer of this format is simply stored and computed in 16 bits or more."""
    extra = format_.activations or format_.low_rank or format_.smooth or format_.weights.scales or format_.weights.zeros
    return not extra and format_.weights.bits >= 16
