"""Content-addressed store of simulated points.

One SQLite file, write-ahead log, one transaction a chunk: whatever moment a process is killed at, each
committed chunk is there and no half of one is.  Each worker writes its own chunks, so a kill costs at
most the chunk that each worker has in hand.  Only successes are kept: a failed point is tried again.
"""

import errno
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

Row = dict[str, Any]
_WAIT_S = 120.0  # many workers commit to one file in turn
_LOOKUP = 500  # keys asked for in one query; SQLite allows 999 variables at least


class Store:
    """`key -> row` on disk; rows are JSON, whose floats are written by `repr` and so return exactly.

    Raises OSError, with the name of the file, for a full disk or a file that is no store.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        with self._named():
            self._connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute("CREATE TABLE IF NOT EXISTS points (key TEXT PRIMARY KEY, row TEXT NOT NULL)")

    def put(self, rows: Mapping[str, Row]) -> None:
        """Store all rows or none of them."""
        lines = [(key, json.dumps(row)) for key, row in rows.items()]
        with self._named(), self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT OR REPLACE INTO points VALUES (?, ?)", lines)

    def get(self, key: str) -> Row | None:
        """The row of `key`, or None."""
        found = next(iter(self.rows([key])), None)
        return found[1] if found else None

    def known(self, keys: Iterable[str]) -> set[str]:
        """Which of the keys have a row."""
        return {key for part in _parts(keys) for (key,) in self._select("key", part)}

    def rows(self, keys: Iterable[str]) -> Iterator[tuple[str, Row]]:
        """`(key, row)` of the keys that are there, in their order; a few hundred in memory at a time."""
        for part in _parts(keys):
            found = dict(self._select("key, row", part))
            yield from ((key, json.loads(found[key])) for key in part if key in found)

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        self._connection.close()

    def _select(self, columns: str, keys: list[str]) -> Iterator[Any]:
        marks = ",".join("?" * len(keys))
        query = f"SELECT {columns} FROM points WHERE key IN ({marks})"
        with self._named(), closing(self._connection.execute(query, keys)) as cursor:
            found = cursor.fetchall()
        yield from found

    @contextmanager
    def _named(self) -> Iterator[None]:
        """What SQLite refuses leaves as an OSError that names the file."""
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # a mistake of ours
        except sqlite3.DatabaseError as error:
            advice = "; delete the file to start afresh" if "not a database" in str(error) else ""
            raise OSError(errno.EIO, f"{error}{advice}", str(self.path)) from error


def point_key(machine: Row, policy: Row, workload: str, sources: str) -> str:
    """SHA-256 of the resolved machine and policy (JSON, sorted keys) and the two content hashes."""
    parts = {"machine": machine, "policy": policy, "workload": workload, "sources": sources}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _parts(keys: Iterable[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for key in keys:
        part.append(key)
        if len(part) == _LOOKUP:
            yield part
            part = []
    if part:
        yield part
