"""Closed-form models of GPU kernels: time, bytes by level and energy of GEMMs, attention, memory-bound operators."""
