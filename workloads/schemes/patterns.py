"""Patterns over dotted module paths, and where the models of a family begin in a trace.

`*` is any text within one name, `**.` and `.**` any number of names, `{a,b}` one of these; everything else is itself.
`blocks.*.attn.{q,k}` matches `blocks.11.attn.q`, `**.lm_head` matches `lm_head` and `model.lm_head`.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

from workloads.schemes.schema import Rule, families

_TOKEN = re.compile(r"\*\*\.|\.\*\*|\*|\{[^{}]*\}|[^*{.]+|.")


@lru_cache
def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression for `fullmatch`."""
    return re.compile("".join(_piece(token) for token in _TOKEN.findall(pattern)))


def _piece(token: str) -> str:
    if token == "**.":
        return r"(?:[^.]+\.)*"
    if token == ".**":
        return r"(?:\.[^.]+)*"
    if token == "*":
        return r"[^.]*"
    if token.startswith("{") and token.endswith("}"):
        return f"(?:{'|'.join(map(re.escape, token[1:-1].split(',')))})"
    return re.escape(token)


def matches(pattern: str, module: str) -> bool:
    """Whether the whole path matches."""
    return compiled(pattern).fullmatch(module) is not None


def roots(modules: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Families in a trace: where their models begin ("" for the trace itself), by family."""
    paths = sorted(set(modules))
    signs = {name: re.compile(rf"((?:[^.]+\.)*?){compiled(f.sign).pattern}") for name, f in families().items()}
    found = {name: {hit[1] for path in paths if (hit := sign.fullmatch(path))} for name, sign in signs.items()}
    return {name: tuple(sorted(starts)) for name, starts in found.items() if starts}


def applies(rule: Rule, module: str, kind: str, found: dict[str, tuple[str, ...]]) -> bool:
    """Whether a rule names this module; `found` is what `roots` said of the trace."""
    if kind not in rule.kinds:
        return False
    starts = ("",) if rule.family is None else found.get(rule.family, ())
    inside = [module[len(start) :] for start in starts if module.startswith(start)]
    return any(_named(rule, path) for path in inside)


def _named(rule: Rule, path: str) -> bool:
    return any(matches(p, path) for p in rule.modules) and not any(matches(p, path) for p in rule.unless)
