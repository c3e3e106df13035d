"""Real CUDA kernels, one folder each, equal bit for bit to their Numba models."""
