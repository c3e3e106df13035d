"""Results of studies as CSV files: how they were made in comments at the head, one line a row."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from analysis.writing import replacing

FOLDER = Path(__file__).parent / "recorded"


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], notes: Mapping[str, Any] | None = None) -> None:
    """Write rows; columns in the order in which they appear, floats to 6 digits; notes as `# key: value`."""
    columns = list({key: None for row in rows for key in row})
    text = io.StringIO()
    text.writelines(f"# {key}: {value}\n" for key, value in (notes or {}).items())
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(key)) for key in columns] for row in rows)
    with replacing(path) as scratch:
        scratch.write_text(text.getvalue(), encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file, without its comments."""
    lines: Iterable[str] = path.read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def made(command: str, device: str = "cpu") -> dict[str, str]:
    """How a study was made: command, day, commit, torch, device."""
    import torch

    return {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
    }


def commit() -> str:
    """The commit of the sources; "unknown" outside a clone."""
    import subprocess

    folder = Path(__file__).parents[2]
    words = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
