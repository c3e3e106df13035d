"""Kernels that others published and nobody fitted here: QServe's GEMMs and KV4 attention, Marlin's W4A16 GEMM."""
