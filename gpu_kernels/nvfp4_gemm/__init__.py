"""SVDQuant's 4-bit GEMM for NVFP4: quantize + down-projection, block-scaled GEMM + up-projection."""
