"""Quantizers for the linear layers of any `nn.Module`, on a CPU or a CUDA device: this page is their interface.

    from workloads.quantization.quantize import quantize
    found = quantize(model, "svdquant", run, layers=["encoder.*"], rank=32)
    found.model                  a copy of the model, its layers replaced by `QuantizedLinear`
    found.report                 one `LayerReport` (name, kind, error, details) for each of them

`run(model)` drives the model over calibration data. `quantize.METHODS` maps a name to the class of a method; its
fields are the options. `method` is a name with options, or a `Method` of your own.

| file | what is in it |
| --- | --- |
| `quantize` | `quantize`, `Quantized`, `LayerReport` |
| `methods` | `Method`, `Group` (layers with one input), `METHODS`, `register`; `Rtn` (to nearest), `Nf4`, `Gptq` |
| `smoothing` | `SmoothQuant` (W8A8, or smoothing alone for W4A4), `Awq` (W4A16 with activation-aware scales) |
| `svdquant`, `lowrank` | `SvdQuant`; full and randomised low-rank approximation |
| `qoq`, `quarot`, `hadamard` | QoQ (W4A8), QuaRot-type W4A4, rotations |
| `linears` | `linear_layers(model, layers)`, `replace_linear(model, name, module)` |
| `calibration` | `record_inputs(model, run, layers)`, `record(...)`, `shared_inputs(recording)` |
| `grids` | `KINDS`; `measured(kind, weight, dtype) -> Grid` with `encode`, `decode`, `snap` |
| `numbers` | codes and values of E2M1, E4M3, NF4; fake-quantized activations |
| `layers` | `QuantizedLinear(kind, state)`, `use_kernel(model, gpu_kernels.models.kernel_model)`; imports torch |
| `gptq` | `gptq(weight, hessian, grid)`, for any grid with `encode` and `decode` by columns |
| `lora` | `read_adapter`, `add_adapter`, `remove_adapter` |
| `saving` | `save_quantized(model, folder)`, `load_quantized(folder, model)` |

A kind names the format of weights and activations and the tensors of its state (`grids.KINDS`): w4a8_channel,
w4a8_group, w8a8, w4a16, nf4, w4a4, w4a4_nvfp4, and `unquantized` (identity: for checks). Each may have `smooth` [K]
(the layer divides its input by it), `down` [r, K] and `up` [N, r] (a branch that reads the raw input), `bias` [N].
Sources: SVDQuant (arXiv 2411.05007; deepcompressor 69f3473; Nunchaku v1.1), SmoothQuant (arXiv 2211.10438), AWQ
(arXiv 2306.00978), GPTQ (arXiv 2210.17323), NF4 (arXiv 2305.14314). Left out: convolutions, embeddings, and inputs
recorded anew after earlier layers were quantized (all layers calibrate on the inputs of the 16-bit model).
"""
