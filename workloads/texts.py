"""The 32 English texts of the MiniLM trace: docstrings of Python's standard library.

Docstrings change between Python versions, so the chosen texts lie in `data/minilm_texts.json`, each with
where it came from. `collect_texts` is the rule by which they were chosen.
"""

import importlib
import inspect
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TEXTS = Path(__file__).parent / "data" / "minilm_texts.json"
COUNT, SHORTEST, LONGEST = 32, 16, 256  # texts, tokens, tokens
PER_MODULE = 2
PROSE = 0.96  # least share of letters, spaces and plain punctuation
MODULES = (
    *(
        "argparse",
        "asyncio",
        "calendar",
        "cmd",
        "codecs",
        "collections",
        "configparser",
        "contextlib",
        "copy",
    ),
    *("csv", "datetime", "decimal", "difflib", "doctest", "email.message", "enum", "fractions", "ftplib"),
    *(
        "functools",
        "gettext",
        "heapq",
        "http.client",
        "imaplib",
        "inspect",
        "io",
        "ipaddress",
        "json",
        "locale",
    ),
    *(
        "logging",
        "mailbox",
        "multiprocessing.pool",
        "optparse",
        "os",
        "pathlib",
        "pickle",
        "pprint",
        "random",
    ),
    *("sched", "selectors", "shelve", "shutil", "smtplib", "socket", "socketserver", "statistics", "string"),
    *(
        "subprocess",
        "tarfile",
        "tempfile",
        "textwrap",
        "threading",
        "timeit",
        "tokenize",
        "traceback",
        "types",
    ),
    *("typing", "unittest.case", "unittest.mock", "urllib.request", "warnings", "wave", "weakref", "zipfile"),
)


def load_texts() -> list[dict[str, str]]:
    """The shipped texts, shortest first: `source` (module and name) and `text`."""
    return list(json.loads(TEXTS.read_text(encoding="utf-8"))["texts"])


def collect_texts(count_tokens: Callable[[str], int]) -> list[dict[str, str]]:
    """For each of 32 lengths spread evenly over 16..256 tokens, the docstring whose length is nearest.

    Only prose counts; no text twice, at most two of a module; the first in order of length, then source.
    """
    sized = sorted((count_tokens(text), source, text) for source, text in _docstrings())
    taken: Counter[str] = Counter()
    chosen: list[tuple[int, str, str]] = []
    for index in range(COUNT):
        target = SHORTEST + round(index * (LONGEST - SHORTEST) / (COUNT - 1))
        free = [one for one in sized if SHORTEST <= one[0] <= LONGEST and taken[_module(one[1])] < PER_MODULE]
        size, source, text = min(free, key=lambda one: abs(one[0] - target))
        sized.remove((size, source, text))
        taken[_module(source)] += 1
        chosen.append((size, source, text))
    return [{"source": source, "text": text} for _, source, text in sorted(chosen)]


def _module(source: str) -> str:
    return source.split(":")[0]


def _docstrings() -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for name in MODULES:
        for source, member in _members(importlib.import_module(name), f"{name}:"):
            text = inspect.cleandoc(member.__doc__) if isinstance(member.__doc__, str) else ""
            if text not in seen and _is_prose(text):
                seen.add(text)
                yield source, text


def _members(owner: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Public functions and classes that are defined in the owner, and the public methods of its classes."""
    for name, member in sorted(vars(owner).items()):
        if name.startswith("_") or not (inspect.isroutine(member) or inspect.isclass(member)):
            continue
        yield f"{prefix}{name}", member
        if inspect.isclass(member) and inspect.ismodule(owner):
            yield from _members(member, f"{prefix}{name}.")


def _is_prose(text: str) -> bool:
    plain = sum(letter.isalpha() or letter in " \n.,;'" for letter in text)
    return text.isascii() and len(text) > 40 and ">>>" not in text and plain >= PROSE * len(text)
