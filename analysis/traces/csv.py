"""A table of a trace as CSV."""

from pathlib import Path

from analysis.writing import check_writable, replacing
from workloads.trace import TABLES, Trace


def write_csv(trace: Trace, table: str, path: Path) -> int:
    """Write one table, a line an entry, and return how many. Raises ValueError for a table that is not there."""
    import pandas as pd

    if table not in TABLES:
        raise ValueError(f"table: must be one of {', '.join(TABLES)}, got {table!r}")
    check_writable("--out", path)
    columns = getattr(trace, table)
    if not columns:
        raise ValueError(f"{trace.name}: {table}: not recorded in this trace")
    frame = pd.DataFrame({name: columns[name] for name in TABLES[table] if name in columns})
    with replacing(path) as scratch:
        frame.to_csv(scratch, index=False)
    return len(frame)
