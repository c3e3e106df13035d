"""Timed traces: the real model at full size on a device, measured times beside the shapes.

`time_model` measures a model of the zoo, `timed_trace` puts the times into its exported trace, and
`python -m workloads.timing.recording` records a plan of models one after another.
"""

from workloads.timing.model import time_model as time_model
from workloads.timing.model import time_stages as time_stages
from workloads.timing.record import read_record as read_record
from workloads.timing.record import timed_trace as timed_trace
from workloads.timing.record import write_record as write_record
