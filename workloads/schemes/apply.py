"""Which format each operator and each weight of a trace gets under a scheme. No torch here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workloads.schemes.patterns import applies, roots
from workloads.schemes.schema import Rule, Scheme, families, read_scheme
from workloads.trace import Trace

LAYER_KINDS = ("linear", "conv", "conv_1x1", "conv_depthwise")  # no system here quantizes a transposed one


@dataclass(frozen=True)
class Gemm:
    """A weight under a rule: n outputs, k inputs each; `operators` are the rows that use it."""

    weight: int
    module: str
    n: int
    k: int
    rule: Rule
    operators: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Assignment:
    """The formats of a trace under a scheme.

    operators  text, one per operator: a format of the scheme; its default where no rule matched
    weights    text, one per weight, likewise. A layer with `split` names both, "a+b"
    gemms      the weights that a rule gave a format, in the order of `trace.weights`
    dead       names of rules for a family of the trace (or for no family) that matched nothing
    rank       of the low-rank branch in place of the scheme's; None: the scheme's
    lora_rank  rank of users' adapters, added to every branch
    """

    scheme: Scheme
    operators: NDArray[np.str_]
    weights: NDArray[np.str_]
    gemms: tuple[Gemm, ...]
    dead: tuple[str, ...]
    rank: int | None
    lora_rank: int


def assign(trace: Trace, scheme: Scheme | str, *, rank: int | None = None, lora_rank: int = 0) -> Assignment:
    """The first rule that matches decides, for operators with a weight of two dimensions or more.

    Raises ValueError where the trace has no modules, a rank is negative or has no branch to be of, two rules
    claim one shared weight, or a rule cannot hold for the layers it matches.
    """
    scheme = read_scheme(scheme) if isinstance(scheme, str) else scheme
    _check(trace, scheme, rank, lora_rank)
    rules = _rules(trace, scheme)
    gemms = tuple(_gemms(trace, scheme, rules))
    operators = np.array([_text(rules.get(i), scheme) for i in range(len(trace.operators["kind"]))], dtype=str)
    texts = {gemm.weight: _text(gemm.rule, scheme) for gemm in gemms}
    weights = np.array([texts.get(row, scheme.default) for row in range(len(trace.weights["name"]))], dtype=str)
    return Assignment(scheme, operators, weights, gemms, _dead(trace, scheme, rules), rank, lora_rank)


def _check(trace: Trace, scheme: Scheme, rank: int | None, lora_rank: int) -> None:
    missing = not trace.weights or not trace.operands or "module" not in trace.operators
    if missing:
        raise ValueError(f"{trace.name}: a scheme needs the modules, operands and weights of an exported trace")
    if "scheme" in trace.made:
        raise ValueError(f"{trace.name}: must be a trace as exported, is already under {trace.made['scheme']['name']}")
    for name, value in (("rank", rank), ("lora_rank", lora_rank)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise ValueError(f"{name}: must be an integer >= 0, got {value!r}")
    branched = any(format_.low_rank for format_ in scheme.formats.values())
    if (rank or lora_rank) and not branched:
        raise ValueError(f"rank, lora_rank: scheme {scheme.name} has no low-rank branch, got {rank}, {lora_rank}")


def _text(rule: Rule | None, scheme: Scheme) -> str:
    if rule is None:
        return scheme.default
    return f"{rule.format}+{rule.split}" if rule.split else rule.format


def weight_of(trace: Trace) -> dict[int, int]:
    """The weight (row) of each GEMM-like operator (row): its first input of two dimensions or more that is one."""
    found: dict[int, int] = {}
    operands = trace.operands
    rows = zip(operands["operator"], operands["weight"], operands["output"], operands["shape"], strict=True)
    for operator, weight, output, shape in rows:
        if weight >= 0 and not output and "x" in str(shape) and trace.operators["kind"][operator] in LAYER_KINDS:
            found.setdefault(int(operator), int(weight))
    return found


def _rules(trace: Trace, scheme: Scheme) -> dict[int, Rule]:
    """The rule of each operator (row) that has one."""
    found = roots(map(str, trace.operators["module"]))
    known: dict[tuple[str, str], Rule | None] = {}
    chosen: dict[int, Rule] = {}
    for operator in weight_of(trace):
        key = str(trace.operators["module"][operator]), str(trace.operators["kind"][operator])
        if key not in known:
            known[key] = next((rule for rule in scheme.rules if applies(rule, *key, found)), None)
        if (rule := known[key]) is not None:
            chosen[operator] = rule
    return chosen


def _gemms(trace: Trace, scheme: Scheme, rules: Mapping[int, Rule]) -> Iterator[Gemm]:
    """Weights by their users; those of plain rules too."""
    users: dict[int, list[int]] = {}
    for operator, weight in weight_of(trace).items():
        users.setdefault(weight, []).append(operator)
    for weight, operators in sorted(users.items()):
        texts = {_text(rules.get(operator), scheme) for operator in operators}
        if len(texts) > 1:
            name = trace.weights["name"][weight]
            raise ValueError(f"{scheme.name}: {name}: one weight must have one format, got {', '.join(sorted(texts))}")
        if (rule := rules.get(operators[0])) is not None:
            yield _gemm(trace, weight, operators, rule)


def _gemm(trace: Trace, weight: int, operators: list[int], rule: Rule) -> Gemm:
    first = operators[0]
    k = int(trace.operators["k"][first])
    n = int(trace.weights["elements"][weight]) // k
    module = str(trace.operators["module"][first])
    if rule.split is not None and trace.operators["kind"][first] != "linear":
        raise ValueError(f"rule {rule.name}: {module}: split must be for linear, got {trace.operators['kind'][first]}")
    if rule.split is not None and k <= n:
        raise ValueError(f"rule {rule.name}: {module}: split needs more inputs than outputs, got {k} and {n}")
    return Gemm(weight, module, n, k, rule, tuple(operators))


def _dead(trace: Trace, scheme: Scheme, rules: Mapping[int, Rule]) -> tuple[str, ...]:
    found = roots(map(str, trace.operators["module"]))
    used = {rule.name for rule in rules.values()}
    meant = [rule.name for rule in scheme.rules if rule.family is None or rule.family in found]
    return tuple(name for name in meant if name not in used)


def cached(trace: Trace) -> list[int]:
    """Rows of the fused attention operators whose keys and values come from a KV cache."""
    modules = [str(module) for module in trace.operators["module"]]
    starts = roots(modules)
    rules = [
        Rule(name=name, family=name, modules=(family.cache,), kinds=("sdpa",), format="")
        for name, family in families().items()
        if family.cache and name in starts
    ]
    kinds = trace.operators["kind"]
    return [i for i, module in enumerate(modules) if any(applies(r, module, str(kinds[i]), starts) for r in rules)]
