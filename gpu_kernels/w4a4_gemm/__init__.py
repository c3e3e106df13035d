"""SVDQuant's 4-bit GEMM for INT4: quantize + down-projection, GEMM + up-projection."""
