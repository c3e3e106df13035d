"""The text the shipped decoder was trained on: English documentation in packages of Debian 12, permissively licensed.

`apt-get download` fetches the packages by name and version; hashes check them; a package is read with the standard
library alone (ar, tar, HTML), so that anybody gets the same bytes. A document is one page. Lines that an earlier page
already held are dropped (navigation, licences, repeated signatures).
"""

import gzip
import hashlib
import io
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from html.parser import HTMLParser
from itertools import accumulate
from pathlib import Path
from typing import IO, NamedTuple

from workloads.decoder_packages import PACKAGES, Package

HELD_OUT_BYTES = 700_000  # about: whole documents
SHORTEST, LONGEST = 6_000, 60_000  # bytes of a document that may be held out
WORDS, MOST_SHARED = 8, 0.10  # a held-out document shares at most this part of its 8-word runs with the training text
REPEATED = 40  # characters from which a line is kept only once
MOST_DENSE = 0.30  # a page with a larger part of digits and symbols is a table or a listing


NEVER = re.compile(
    r"genindex|modindex|/search\.html|/contents\.html|/print\.html|/all\.html|_sources|_static|_modules"
    r"|bookindex|/toc\.html|keyword_index|sitemap|changelog"
)


class Document(NamedTuple):
    """`name` is package:path; `text` ends with a newline."""

    name: str
    text: str


class _Page(HTMLParser):
    """Text of a page: blocks on their own lines, white space collapsed but in <pre>, no navigation."""

    BLOCK = frozenset("p div li dt dd tr h1 h2 h3 h4 h5 h6 pre table ul ol dl section article blockquote br".split())  # noqa: SIM905
    SKIP = frozenset(["script", "style", "head", "nav", "header", "footer", "form", "button", "svg", "select"])
    SKIP_CLASS = re.compile(r"related|sphinxsidebar|headerlink|navheader|navfooter|footer|toc|sidebar|search|rightside")
    VOID = frozenset(["br", "hr", "img", "input", "meta", "link", "col", "area", "base", "source", "wbr"])

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.open: list[str] = []
        self.silent = 0  # depth at which silence began
        self.verbatim = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.BLOCK and not self.verbatim:
            self.parts.append("\n")
        if tag in self.VOID:
            return
        self.open.append(tag)
        name = dict(attrs).get("class") or ""
        if not self.silent and (tag in self.SKIP or (tag != "body" and self.SKIP_CLASS.search(name))):
            self.silent = len(self.open)
        self.verbatim += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.open:
            return
        while self.open:
            last = self.open.pop()
            self.verbatim -= last == "pre"
            if len(self.open) < self.silent:
                self.silent = 0
            if last == tag:
                break
        if tag in self.BLOCK and not self.verbatim:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.parts.append(data if self.verbatim else re.sub(r"\s+", " ", data))


def page_text(html: str) -> str:
    """Text of an HTML page, its lines stripped at the right, at most one of them empty in a row."""
    page = _Page()
    page.feed(html)
    page.close()
    lines = "".join(page.parts).replace("¶", "").replace("\xa0", " ").split("\n")
    tidy = "\n".join(line.rstrip() for line in lines)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"\n +(?=[A-Z(])", "\n", tidy)).strip() + "\n"


def corpus(folder: Path) -> tuple[list[Document], list[Document]]:
    """(training, held out) from packages that are in `folder` or are downloaded to it. ValueError."""
    with ProcessPoolExecutor() as pool:
        pages = [page for part in pool.map(partial(_pages, folder=folder), PACKAGES) for page in part]
    return split(list(without_repeats(pages)))


def _pages(package: Package, folder: Path) -> list[Document]:
    return list(documents(package, fetch(package, folder)))


def leading(pages: list[Document], most_bytes: int) -> list[Document]:
    """The first pages that together take at most so many bytes."""
    ends = list(accumulate(len(joined([page])) for page in pages))
    return pages[: sum(end <= most_bytes for end in ends)]


def fetch(package: Package, folder: Path) -> Path:
    """The package's file in `folder`, downloaded unless there. ValueError if its hash is not the one recorded."""

    def found() -> list[Path]:
        return sorted(folder.glob(f"{package.name}_{package.version.replace(':', '%3a')}_*.deb"))

    if not found():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["apt-get", "download", f"{package.name}={package.version}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(f"{package.name}={package.version}: apt-get download failed: {done.stderr.strip()}")
    file = found()[0]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if package.sha256 and digest != package.sha256:
        raise ValueError(f"{file}: SHA-256 must be {package.sha256}, got {digest}")
    return file


def documents(package: Package, file: Path) -> Iterator[Document]:
    """Pages of a .deb in the order of their paths."""
    take, leave = re.compile(package.take), re.compile(package.leave)
    with tarfile.open(fileobj=_data(file), mode="r:xz") as archive:
        members = [member for member in archive.getmembers() if member.isfile() and take.search(member.name)]
        pages = {}
        for member in members:
            if not (NEVER.search(member.name) or leave.search(member.name)):
                opened = archive.extractfile(member)
                assert opened is not None
                pages[member.name] = opened.read()
    for path in sorted(pages):
        yield Document(f"{package.name}:{path.removeprefix('./')}", _text(path, pages[path]))


def _text(path: str, content: bytes) -> str:
    if path.endswith(".gz"):
        return gzip.decompress(content).decode("utf-8", "replace")
    return page_text(content.decode("utf-8", "replace"))


def _data(file: Path) -> IO[bytes]:
    """The member data.tar.xz of an ar archive."""
    content, place = file.read_bytes(), 8
    while place < len(content):
        name, size = content[place : place + 16].decode().strip(), int(content[place + 48 : place + 58])
        if name.startswith("data.tar.xz"):
            return io.BytesIO(content[place + 60 : place + 60 + size])
        place += 60 + size + size % 2
    raise ValueError(f"{file}: no data.tar.xz inside")


def without_repeats(pages: Iterable[Document]) -> Iterator[Document]:
    """Each page less the long lines that were there before; pages that are mostly symbols or too short are left out."""
    seen: set[int] = set()
    for page in pages:
        lines = []
        for line in page.text.split("\n"):
            key = int.from_bytes(hashlib.blake2b(line.strip().encode(), digest_size=8).digest(), "big")
            if len(line) < REPEATED or key not in seen:
                lines.append(line)
            if len(line) >= REPEATED:
                seen.add(key)
        text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
        dense = sum(not (c.isalpha() or c.isspace()) for c in text)
        if len(text) > 1_000 and dense < MOST_DENSE * len(text):
            yield Document(page.name, text)


def split(pages: list[Document]) -> tuple[list[Document], list[Document]]:
    """(training, held out): whole pages by the hash of their name; near duplicates of the training text are dropped."""
    ranked = sorted(pages, key=lambda page: hashlib.sha256(page.name.encode()).digest())
    chosen: list[Document] = []
    for page in ranked:
        if sum(len(one.text) for one in chosen) >= HELD_OUT_BYTES:
            break
        if SHORTEST <= len(page.text.encode()) <= LONGEST:
            chosen.append(page)
    names = {page.name for page in chosen}
    training = [page for page in pages if page.name not in names]
    return training, _apart(chosen, training)


def _apart(chosen: list[Document], training: list[Document]) -> list[Document]:
    runs = {page.name: _runs(page.text) for page in chosen}
    wanted = set().union(*runs.values())
    known: set[int] = set()
    for page in training:
        known |= wanted & _runs(page.text)
    return [page for page in chosen if len(runs[page.name] & known) <= MOST_SHARED * len(runs[page.name])]


def _runs(text: str) -> set[int]:
    """Every run of WORDS words, lower case, as a hash within this process."""
    words = re.findall(r"\w+", text.lower())
    return {hash(tuple(words[i : i + WORDS])) for i in range(max(len(words) - WORDS + 1, 0))}


def joined(pages: Iterable[Document]) -> bytes:
    """The bytes of the pages, a NUL after each."""
    return b"".join(page.text.encode() + b"\0" for page in pages)
