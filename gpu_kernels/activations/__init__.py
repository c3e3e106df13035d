"""Activations as the integer kernels take them: per-token INT8 codes, scales and sums."""
