"""A decode layer without a GPU: its reference against torch in float64, what INT8 and KV4 add, operands, faults."""

from dataclasses import replace

import numpy as np
import pytest

from gpu_kernels.activations.model import quantize
from gpu_kernels.bench.shapes import Attention
from gpu_kernels.decode_layer import check
from gpu_kernels.decode_layer.bench import contenders, floor_us
from gpu_kernels.decode_layer.config import EPSILON, LLAMA3_8B
from gpu_kernels.decode_layer.operands import CHANNELS, MOST_BLOCKS, rotation, weights
from gpu_kernels.decode_layer.reference import STAGES, step
from gpu_kernels.kv4_attention.model import rotation as of_attention
from gpu_kernels.w4a8_gemm.model import group_gemm, group_weights

torch = pytest.importorskip("torch")


def by_torch(case: check.Case) -> tuple:
    """(x', h') by torch's operators in float64 on a CPU."""
    from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

    given, x, residual, cache = check.operands(case)
    sizes = given.sizes
    dense = {n: torch.from_numpy((m.int8 * m.scale[:, None])[m.rows]) for n, m in given.matrices.items()}
    first, second = (torch.from_numpy(norm).double() for norm in given.norms)
    h = torch.from_numpy(x).double() + torch.from_numpy(residual).double()
    heads = (rms_norm(h, h.shape[1:], first, EPSILON) @ dense["qkv"].T).unflatten(1, (-1, sizes.head_size))
    query, key, value = heads.split([sizes.heads, sizes.kv_heads, sizes.kv_heads], dim=1)
    pairs = [torch.from_numpy(np.tile(part, 2)).double()[:, None] for part in rotation([case.context], sizes)]

    def turned(part):
        low, high = part.chunk(2, dim=2)
        return part * pairs[0] + torch.cat([-high, low], dim=2) * pairs[1]

    keys, values = (
        torch.cat([torch.from_numpy(old).double(), new[:, :, None]], dim=2)
        for old, new in zip(cache, (turned(key), value), strict=True)
    )
    mixed = scaled_dot_product_attention(turned(query)[:, :, None], keys, values, enable_gqa=True)
    h = h + mixed.flatten(1) @ dense["o"].T
    gate, up = (rms_norm(h, h.shape[1:], second, EPSILON) @ dense["gate_up"].T).chunk(2, dim=1)
    return ((silu(gate) * up) @ dense["down"].T).numpy(), h.numpy()


@pytest.mark.parametrize("case", check.CASES, ids=lambda case: case.name)
def test_reference_is_the_layer(case):
    """Without rounding it is torch's in float64; with, it lies where INT8 and KV4 put it, and nearer with more bits."""
    given, x, residual, cache = check.operands(case)
    angles = rotation(np.full(case.batch, case.context), given.sizes)
    exact = step(given, x, residual, cache, angles, exactly=True)
    for name, wanted in zip(("x", "residual"), by_torch(case), strict=True):
        assert check.relative_error(exact[name], wanted).max() < 1e-12
    ours = check.expected(case)
    assert 1e-3 < check.relative_error(ours["x"], exact["x"]).max() < 0.1
    assert 1e-3 < check.relative_error(ours["residual"], exact["residual"]).max() < 0.05


def test_products_are_those_of_the_gemm():
    """Within a unit of float16 of the model, which rounds once or twice more in float32."""
    matrix = weights(check.SIZES["least"], 1).matrices["qkv"]
    assert np.array_equal(matrix.int8, group_weights(matrix.codes, matrix.group_scale, matrix.group_zero))
    tokens = quantize(np.float16(np.random.default_rng(1).normal(0, 1, (3, matrix.codes.shape[1]))))
    exact = matrix.times(tokens.codes.astype(float)) * matrix.scales() * tokens.scale[:, None].astype(float)
    drawn = (matrix.codes, matrix.group_scale, matrix.group_zero, matrix.scale)
    found = group_gemm(tokens, *(part[matrix.rows] for part in drawn))
    assert np.abs(found - exact).max() <= np.abs(exact).max() * 2.0**-11


def test_operands_repeat_blocks_and_keep_their_size():
    given = weights(LLAMA3_8B, 2)
    for name, (outputs, inputs) in LLAMA3_8B.matrices.items():
        matrix = given.matrices[name]
        assert matrix.codes.shape == (MOST_BLOCKS * CHANNELS, inputs)
        assert set(matrix.order.tolist()) == set(range(MOST_BLOCKS))
        assert matrix.rows.shape == matrix.scales().shape == (outputs,)
        assert np.abs(matrix.codes * np.repeat(matrix.group_scale.astype(int), 128, axis=1)).max() <= 255
        assert np.abs(matrix.int8).max() <= 127
        assert 0.5 < (matrix.int8 * matrix.scale[:, None]).std() * np.sqrt(inputs) < 2
    assert LLAMA3_8B.weights == 218_103_808


def test_angles_are_those_of_attention():
    for found, wanted in zip(rotation([0, 7, 1000], LLAMA3_8B), of_attention([0, 7, 1000], 128, 500000.0), strict=True):
        assert np.array_equal(found, wanted)


def test_faults_are_told_by_the_kernel_that_made_them():
    case = check.CASES[1]
    right = check.expected(case)
    assert tuple(right) == STAGES
    assert check.fault(case, right, right) == ""
    for name, part in right.items():
        far = part.copy()
        far[2] *= np.float16(1.01)
        assert check.fault(case, right, right | {name: far}).startswith(f"{name}: ")
        assert check.fault(case, right, right | {name: part * np.nan}).startswith(f"{name}: {part.size} of")
        assert check.fault(case, right, right | {name: part[:1]}).startswith(f"{name}: must be float16")
    assert check.fault(case, right, check.expected(replace(case, seed=77)))


def test_a_unit_is_no_fault_and_its_consequences_are_none():
    """What an attention that rounds the other way once changes behind it is followed, not compared."""
    case = check.CASES[0]
    right = check.expected(case)
    mixed = right["mixed"].copy()
    mixed[0, :100] *= np.float16(1 + 2.0**-9)
    after = {
        name: part.astype(np.float16) for name, part in check._by_reference(case, right | {"mixed": mixed}).items()
    }
    followed = right | {"mixed": mixed, "attended": after["attended"]}
    for name in ("residual", "gates", "x"):
        followed[name] = check._by_reference(case, followed)[name].astype(np.float16)
    assert not np.array_equal(followed["x"], right["x"])
    assert check.fault(case, right, followed) == ""


def test_floor_is_bytes_where_rows_are_few():
    """At 4 TB/s a batch of 1: 109 MB of codes, 3.4 MB of groups, 2 MB of cache and some."""
    one = floor_us(LLAMA3_8B, Attention(1, 1024), 4e12, 1.8e15)
    assert 28.4 < one < 29
    assert 130 < floor_us(LLAMA3_8B, Attention(256, 1024), 4e12, 1.8e15) < 136  # half of it attention


def test_contenders_have_the_names_and_bytes_that_the_bench_goes_by():
    found = contenders()
    assert [name for name in found if not name.startswith("torch_")] == ["tilewright"]
    sizes = {name: one.changing_bytes(Attention(64, 1024)) for name, one in found.items()}
    assert sizes.pop("tilewright") == LLAMA3_8B.weights // 2 + 2 * 8 * 64 * 1024 * 68
    assert set(sizes.values()) == {2 * (LLAMA3_8B.weights + 2 * 8 * 64 * 1024 * 128)}
