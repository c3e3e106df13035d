"""Request traces: CSV files `cycle,address,rw` of 64-byte requests, in and out; Ramulator 2's load/store traces, out.

A line is one request: the memory cycle before which it is not made, its byte address (decimal, or hexadecimal with
0x), R or W. Blank lines and CRLF are accepted. Files are read and written in blocks: memory stays flat.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accel.fault import Fault, Faults, nearest, shown

HEADER = ("cycle", "address", "rw")
REQUEST_BYTES = 64
MOST_FAULTS = 20
BLOCK_BYTES = 4 << 20
NO_LIMIT = 1 << 62
LAST_CYCLE = 1 << 50  # more would not fit into sums over all data buses
_IS_WRITE = {"R": False, "W": True}
_NUMBER = re.compile(r"-?[0-9]+|0[xX][0-9a-fA-F]+")


class Requests(NamedTuple):
    """A block of requests in order: int64 [n] memory cycles, int64 [n] bytes, bool [n]."""

    cycle: NDArray[np.int64]
    address: NDArray[np.int64]
    write: NDArray[np.bool_]


def read_requests(
    path: str | Path,
    capacity_bytes: int = NO_LIMIT,
    open_file: Callable[[Path], AbstractContextManager[BinaryIO]] | None = None,
) -> Iterator[Requests]:
    """The requests of a CSV file, block by block.

    open_file   opens the file for reading bytes; the caller's may show progress
    Raises Faults (file:line:column) with the first 20 faults: of form, an address that is not aligned or not below
    `capacity_bytes`, a cycle smaller than the one before. Blocks before the first fault have been given by then.
    """
    checker = _Checker(str(path), capacity_bytes)
    with (open_file or _open)(_existing(Path(path))) as file:
        for block in _blocks(file):
            requests = checker.check(block)
            if requests is not None and len(requests.cycle):
                yield requests
            if len(checker.faults) > MOST_FAULTS:
                break
    checker.finish()


def _existing(path: Path) -> Path:
    """The path; where nothing is there, a fault that names the nearest file of the folder."""
    if path.exists():
        return path
    names = (other.name for other in path.parent.glob("*") if other.is_file())
    raise Faults([Fault(str(path), 0, 0, "", "no such file", hint=nearest(path.name, names, show=False))])


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Whole lines, some megabytes at a time; an empty file is one empty block."""
    rest, some = b"", file.read(BLOCK_BYTES)
    empty = not some
    while some:
        end = some.rfind(b"\n") + 1
        if end:
            yield rest + some[:end]
            rest = b""
        rest += some[end:]
        some = file.read(BLOCK_BYTES)
    if rest or empty:
        yield rest


def _check_header(name: str, head: bytes) -> None:
    """Raise Faults unless the first line is the header: there is no sense in going on."""
    text = head.decode("utf-8-sig", "replace").strip()
    fields = [field.strip() for field in text.split(",")]
    if fields == list(HEADER):
        return
    wrong = next((i for i, (got, want) in enumerate(zip(fields, HEADER, strict=False)) if got != want), 0)
    rule, value = f"header must be {','.join(HEADER)}", shown(text)
    hint = nearest(fields[wrong], HEADER, show=False)
    if not text:
        value = "an empty line" if head else "an empty file"
    elif "\0" in text or "\ufffd" in text:
        rule, value, hint = "must be a text file (CSV)", "bytes that are no text", ""
    elif _NUMBER.fullmatch(fields[0]):
        hint = "put it above the first request"
    raise Faults([Fault(name, 1, 1, "", rule, value, hint)])


def _parse(block: bytes) -> Requests | None:
    """All lines of a block, or None where one of them cannot be read."""
    import pyarrow as pa
    from pyarrow import csv

    if not block.strip():
        return Requests(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.bool_))
    reading = csv.ReadOptions(use_threads=False, column_names=HEADER, block_size=len(block) + 1)
    types = {"cycle": pa.int64(), "address": pa.int64(), "rw": pa.dictionary(pa.int32(), pa.string())}
    converting = csv.ConvertOptions(column_types=types, null_values=[])
    try:
        table = csv.read_csv(pa.BufferReader(block), reading, csv.ParseOptions(quote_char=False), converting)
    except pa.ArrowInvalid:
        return None
    rw = table["rw"].combine_chunks()
    words = [word.strip().upper() for word in rw.dictionary.to_pylist()]
    if not _IS_WRITE.keys() >= set(words):
        return None
    write = np.array([_IS_WRITE[word] for word in words])[rw.indices.to_numpy()]
    return Requests(table["cycle"].to_numpy(), table["address"].to_numpy(), write)


class _Checker:
    """Turns blocks of one file into requests; keeps line number, last cycle and faults between them."""

    def __init__(self, name: str, capacity: int) -> None:
        self.name, self.capacity = name, capacity
        self.line, self.last, self.seen = 1, 0, False
        self.faults: list[Fault] = []

    def check(self, block: bytes) -> Requests | None:
        """The requests of the next block; None once the file has had a fault."""
        if self.line == 1:
            head, _, block = block.partition(b"\n")
            _check_header(self.name, head)
            self.line = 2
        found = _parse(block)
        if found is None or not all(holds.all() for _, _, holds in self._rules(found)):
            found = self._explain(block)
        self.line += block.count(b"\n")
        if len(found.cycle):
            self.seen, self.last = True, int(found.cycle[-1])
        return None if self.faults else found

    def finish(self) -> None:
        """Raise Faults if there are any; a file without a request has one."""
        if not self.faults and not self.seen:
            self.faults.append(Fault(self.name, self.line, 1, "", "must hold at least one request"))
        if len(self.faults) > MOST_FAULTS:
            more = self.faults[MOST_FAULTS]
            self.faults[MOST_FAULTS:] = [Fault(self.name, more.line, more.column, "", "more faults from here on")]
        if self.faults:
            raise Faults(self.faults)

    def _rules(self, found: Requests) -> list[tuple[str, str, NDArray[np.bool_]]]:
        """(column, rule, where it holds) for requests that can be read."""
        cycle, address, _ = found
        before = np.concatenate(([self.last], cycle[:-1]))
        most = self.capacity - REQUEST_BYTES
        return [
            ("cycle", "must be >= 0 and below 2**50", (cycle >= 0) & (cycle < LAST_CYCLE)),
            ("cycle", "must not be smaller than in the line before", (cycle >= before) | (cycle < 0)),
            ("address", "must be >= 0", address >= 0),
            ("address", f"must be <= {most:#x}: the memory holds {self.capacity} bytes", address <= most),
            ("address", f"must be a multiple of {REQUEST_BYTES}", address % REQUEST_BYTES == 0),
        ]

    def _explain(self, block: bytes) -> Requests:
        """Note the faults of a block that has some; gives the requests that can be read."""
        lines = io.StringIO(block.decode("utf-8", "replace"), newline=None)
        numbered = [(number, text.rstrip("\n")) for number, text in enumerate(lines, self.line) if text.strip()]
        cut = numbered[-1][0] if numbered and not block.endswith(b"\n") else 0
        faults: list[Fault] = []
        good: list[tuple[int, str]] = []
        rows: list[tuple[int, int]] = []
        for number, text in numbered:
            wrong, row = self._read_line(number, text, number == cut)
            faults += wrong
            if not wrong:
                good.append((number, text))
                rows.append(row)
        cycle, address = np.array(rows, np.int64).reshape(-1, 2).T
        found = Requests(cycle, address, np.zeros(len(rows), np.bool_))
        for column, rule, holds in self._rules(found):
            broken = ((number, text) for (number, text), fine in zip(good, holds, strict=True) if not fine)
            faults += [self._fault(number, text, column, rule) for number, text in broken]
        self.faults += sorted(faults, key=lambda fault: (fault.line, fault.column))
        return found

    def _read_line(self, number: int, text: str, cut: bool) -> tuple[list[Fault], tuple[int, int]]:
        """Faults of form of one line, and its cycle and address."""
        fields, hint = [field.strip() for field in text.split(",")], "the file ends inside this line" if cut else ""
        if len(fields) != len(HEADER):
            rule = f"must have {len(HEADER)} fields ({','.join(HEADER)})"
            return [Fault(self.name, number, 1, "", rule, str(len(fields)), hint)], (0, 0)
        faults = [
            self._fault(number, text, name, "must be a whole number", hint)
            for name, field in zip(HEADER[:2], fields, strict=False)
            if not _NUMBER.fullmatch(field)
        ]
        if fields[2].upper() not in _IS_WRITE:
            near = nearest(fields[2].upper()[:1], _IS_WRITE, show=False)
            faults.append(self._fault(number, text, "rw", "must be R or W", hint or near))
        return faults, (0, 0) if faults else (_whole(fields[0]), _whole(fields[1]))

    def _fault(self, number: int, text: str, name: str, rule: str, hint: str = "") -> Fault:
        """A fault of one field, at its place, with the value as the file has it."""
        fields = text.split(",")
        index = HEADER.index(name)
        column = 1 + sum(len(field) + 1 for field in fields[:index])
        return Fault(self.name, number, column, name, rule, fields[index].strip() or "nothing", hint)


def _whole(text: str) -> int:
    """The number; what is beyond every range becomes the first that is, for int64 may not hold it."""
    value = int(text, 16 if text[:2].lower() == "0x" else 10)
    return max(-NO_LIMIT, min(value, NO_LIMIT))


def write_requests(path: Path, blocks: Iterable[Requests]) -> int:
    """Write a request trace; returns the number of requests."""
    count = 0
    with path.open("w", newline="", encoding="ascii") as file:
        file.write(",".join(HEADER) + "\n")
        for block in blocks:
            rows = zip(*(column.tolist() for column in block), strict=True)
            file.write("".join(f"{cycle},0x{address:x},{'RW'[write]}\n" for cycle, address, write in rows))
            count += len(block.cycle)
    return count


def write_load_store(
    path: Path, blocks: Iterable[Requests], burst_bytes: int, request_bytes: int = REQUEST_BYTES
) -> int:
    """Write a trace for Ramulator 2's frontend `LoadStoreTrace`: `LD 0x40` or `ST 0x40` a line; returns the lines.

    That frontend moves one burst a line, so a request of 64 bytes is as many lines as it has bursts. The format has
    no cycles (it offers a line a cycle, in order), and it is replayed from the start when its end is reached.
    """
    count = 0
    with path.open("w", newline="", encoding="ascii") as file:
        for _, address, write in blocks:
            starts, writes = bursts(address, np.full(len(address), request_bytes), write, burst_bytes)
            rows = zip(starts.tolist(), writes.tolist(), strict=True)
            file.write("".join(f"{'ST' if store else 'LD'} 0x{start:x}\n" for start, store in rows))
            count += len(starts)
    return count


def bursts(
    address: NDArray[np.int64], size_bytes: NDArray[np.int64], write: NDArray[np.bool_], burst_bytes: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Address and direction of every burst that pieces of memory touch, in order: a piece may begin inside a burst."""
    first = address // burst_bytes
    counts = (address + size_bytes - 1) // burst_bytes - first + 1
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return (np.repeat(first, counts) + within) * burst_bytes, np.repeat(write, counts)
