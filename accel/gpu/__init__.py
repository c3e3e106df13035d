"""GPUs as data: the data sheet of a device (`GpuMachine`), and what was fitted to measurements of one (`Fit`)."""
