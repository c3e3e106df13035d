"""The DRAM controller on request traces: reports, exports, and how it agrees with simulators and silicon."""
