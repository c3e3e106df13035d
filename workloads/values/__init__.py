"""Value traces: what numbers a real run with real weights puts before quantizers and hardware.

`record_values` watches any module, `export_values` writes the shipped traces, `workloads.values.reading` reads
them back without torch. `docs/values.md` says what the facts are.
"""

from workloads.values.export import NAMES, ValuesSummary, export_values
from workloads.values.operands import Operands
from workloads.values.reading import channel_table
from workloads.values.recorder import Values, record_values

__all__ = ["NAMES", "Operands", "Values", "ValuesSummary", "channel_table", "export_values", "record_values"]
