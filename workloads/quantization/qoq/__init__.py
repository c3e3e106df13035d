"""QoQ, the quantizer of QServe (arXiv 2405.04532): W4A8KV4 for models of the Llama type.

    from workloads.quantization.quantize import quantize
    found = quantize(model, "qoq", run, layers=["model.layers.*"], kind="w4a8_group")

| file | what is in it |
| --- | --- |
| `recipe` | `QoQ`: the method, one switch for each step |
| `llama` | `llama_of(model)`: blocks, heads and rotary embedding of a model |
| `rotation` | `rotate`: norms folded, block inputs in a Hadamard basis |
| `smoothing` | `smooth_attention` (keys, with the pairs of RoPE), `smooth_outputs` (inputs of o_proj and down_proj) |
| `reorder` | `reorder`: channels of like magnitude into one group |
| `clipping` | `search`, `search_attention`: ratios of ranges |
| `cache` | `quantize_cache(model, bits)`: KV4, KV8 |

The weights are those of `workloads.quantization.grids`: `w4a8_group` is progressive (16-bit scale of a row over +-119,
integer scale and zero of 128 columns), `w4a8_channel` asymmetric by row. `run(model)` must run whole texts from
place 0, without padding. Left out: rotations at run time, mixtures of experts, and a cache that is quantized in
`save_quantized`: call `quantize_cache` after loading.
"""

from workloads.quantization.qoq.recipe import QoQ

__all__ = ["QoQ"]
