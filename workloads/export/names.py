"""Which operators of PyTorch are of which kind, by name; the products are in `catalogue.GEMMS`.

One that is missing here is taken apart if it is composite, of the kind of its own name if PyTorch tags it as
pointwise, and recorded as "unknown" otherwise.
"""

import re

# They alias their input where they can and move nothing then; else they are copies or casts
_ALIASING = """
alias as_strided chunk contiguous detach diagonal dropout expand expand_as feature_dropout flatten lift_fresh moveaxis
movedim narrow numpy_T permute pin_memory real imag reshape reshape_as resolve_conj resolve_neg select slice split
split_with_sizes squeeze swapaxes swapdims t T mT H adjoint tensor_split to transpose type_as unbind unflatten unfold
unsafe_chunk unsafe_split unsqueeze view view_as _reshape_alias _to_copy _unsafe_view
"""
_KINDS = """
softmax     softmax _softmax _safe_softmax log_softmax _log_softmax
layernorm   layer_norm native_layer_norm
rmsnorm     rms_norm _fused_rms_norm
groupnorm   group_norm native_group_norm instance_norm
batchnorm   batch_norm native_batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm
norm        linalg_vector_norm norm renorm _weight_norm_interface
embedding   embedding embedding_bag _embedding_bag
gather      gather index index_select take take_along_dim one_hot
scatter     scatter scatter_add scatter_reduce index_put index_add index_copy masked_scatter
scatter     slice_scatter select_scatter index_fill
copy        clone copy repeat repeat_interleave tile roll flip rot90 pixel_shuffle pixel_unshuffle channel_shuffle
copy        expand_copy view_copy im2col col2im tril triu _local_scalar_dense item masked_select nonzero broadcast_to
cat         cat stack hstack vstack concat
pad         constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d replication_pad3d
resize      upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d
resize      upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact2d _upsample_bilinear2d_aa
resize      _upsample_bicubic2d_aa grid_sampler_2d
pool        avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool2d_with_indices adaptive_avg_pool1d
pool        adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d
reduce      sum mean amax amin max min prod all any argmax argmin var std var_mean std_mean logsumexp cumsum cumprod
reduce      count_nonzero aminmax median nansum cummax cummin logcumsumexp _euclidean_dist
sort        sort topk argsort unique _unique2 unique_consecutive searchsorted bucketize kthvalue bincount histc
alloc       empty empty_like empty_strided new_empty new_empty_strided
fill        arange eye fill full full_like linspace new_full exponential new_ones new_zeros ones ones_like
fill        scalar_tensor zero zeros zeros_like rand rand_like randn randn_like randint randperm bernoulli normal
fill        uniform tril_indices triu_indices
quantize    quantize_per_tensor quantize_per_channel quantize_per_tensor_dynamic quantize_per_token choose_qparams
quantize    fake_quantize_per_tensor_affine fake_quantize_per_channel_affine
dequantize  dequantize dequantize_per_tensor dequantize_per_channel dequantize_per_token
glu         glu
fft         _fft_c2c _fft_r2c _fft_c2r
complex     view_as_complex view_as_real complex polar
"""
_POINTWISE = "floor_divide hardswish masked_fill _prelu_kernel threshold"  # those that PyTorch does not tag so
NOT_RECORDED = re.compile(  # questions about tensors, which compute nothing
    r"prim\.|aten\.(_assert|sym_|is_|_has|_debug|_version|size|stride|numel|dim\b|equal\b|_functional_sym|_nested_)"
)
_IN_PLACE = re.compile(r"(?<!_)_$")


def _kinds() -> dict[str, str]:
    lines = (line.split() for line in _KINDS.split("\n"))
    return {f"aten.{name}": line[0] for line in lines for name in line[1:]}


ALIASING = frozenset(f"aten.{name}" for name in _ALIASING.split())
KINDS = _kinds()
POINTWISE = frozenset(f"aten.{name}" for name in _POINTWISE.split())


def base_name(operator: str) -> str:
    """ "aten.add_.Tensor" -> "aten.add": package and name, without the overload and the mark of in-place forms."""
    package, _, rest = operator.partition(".")
    return f"{package}.{_IN_PLACE.sub('', rest.partition('.')[0])}"


def in_place(operator: str) -> bool:
    """Whether the operator writes into its first argument: "aten.add_.Tensor"."""
    return bool(_IN_PLACE.search(operator.split(".")[1]))
