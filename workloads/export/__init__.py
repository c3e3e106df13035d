"""Export: the operators that a PyTorch module really dispatches, as a `Trace`."""

from workloads.export.exporter import export as export
from workloads.export.exporter import export_model as export_model
from workloads.export.exporter import export_stages as export_stages
