"""A published table: `analysis/published/<name>.csv`, with roles fixed before the model was written."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "published"
ROLES = ("input", "identity", "anchor", "prediction")


@dataclass(frozen=True)
class Published:
    """One figure.

    role        input: fed in; identity: follows from inputs by arithmetic; anchor: fits a parameter;
                prediction: the only role that is scored
    low, high   the band that counts as reproduced, None where nothing is asked
    """

    id: str
    quantity: str
    value: float
    unit: str
    source: str
    role: str
    low: float | None
    high: float | None
    note: str

    @property
    def tolerance(self) -> float | None:
        """The wider side of the band, relative to the published value."""
        if self.low is None or self.high is None:
            return None
        return max(self.value - self.low, self.high - self.value) / abs(self.value)

    def within(self, ours: float | None) -> bool | None:
        """Whether `ours` lies in the band; None for what is not scored or not computed."""
        if self.role != "prediction" or ours is None or self.low is None or self.high is None:
            return None
        return self.low <= ours <= self.high


def read_published(name: str) -> list[Published]:
    """All rows of a table, in file order. Raises ValueError for a role that does not exist."""
    with (FOLDER / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return [_row(line) for line in csv.DictReader(file)]


def read_first_contact(name: str) -> dict[str, dict[str, float]]:
    """The first unedited run, by id: a value for each DRAM configuration. Empty before there was one."""
    path = FOLDER / "first_contact" / f"{name}.csv"
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return {line.pop("id"): {key: float(text) for key, text in line.items() if text} for line in lines}


def write_first_contact(name: str, values: Mapping[str, Mapping[str, float]]) -> Path:
    """Write the values of a first run; raises FileExistsError where there has been one: it is never edited."""
    path = FOLDER / "first_contact" / f"{name}.csv"
    keys = list(dict.fromkeys(key for row in values.values() for key in row))
    with path.open("x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", *keys])
        writer.writerows(
            [name, *(f"{row[key]:.6g}" if key in row else "" for key in keys)] for name, row in values.items()
        )
    return path


def _row(line: Mapping[str, str]) -> Published:
    if line["role"] not in ROLES:
        near = get_close_matches(line["role"], ROLES, 1)
        raise ValueError(f"{line['id']}: role must be one of {', '.join(ROLES)}, got {line['role']!r} ({near})")
    low, high = (float(line[key]) if line[key] else None for key in ("low", "high"))
    value = float(line["published"])
    return Published(
        line["id"], line["quantity"], value, line["unit"], line["source"], line["role"], low, high, line["note"]
    )
