"""Number schemes: what of a trace runs in which format, and the bytes that follow.

scheme = read_scheme("svdquant_int4")
assign(trace, scheme).operators            # the format of every operator
weight_bytes(trace, scheme, rank=16)       # by component, with a total
annotate(trace, scheme)                    # the trace with these formats, bytes and added operators
kv_bytes_per_token(trace, "kv4")
"""

from workloads.schemes.annotate import annotate
from workloads.schemes.apply import Assignment, assign
from workloads.schemes.bytes import WeightBytes, kv_bytes_per_token, weight_bytes
from workloads.schemes.schema import Scheme, kv_formats, read_scheme, scheme_names

__all__ = [
    "Assignment",
    "Scheme",
    "WeightBytes",
    "annotate",
    "assign",
    "kv_bytes_per_token",
    "kv_formats",
    "read_scheme",
    "scheme_names",
    "weight_bytes",
]
