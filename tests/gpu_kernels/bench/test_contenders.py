"""What the bench compares our kernels with, against the functional models: a right kernel is not told to be wrong."""

from typing import Any

import numpy as np
import pytest

from gpu_kernels.activations.model import Tokens
from gpu_kernels.bench import attention_ours, gemm_ours
from gpu_kernels.w4a8_gemm import model, packing
from gpu_kernels.w8a8_gemm import model as w8a8

torch = pytest.importorskip("torch")
INPUTS, TOKENS = 256, 5


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    yield
    gemm_ours.packed_bank.cache_clear()
    attention_ours._bank.cache_clear()


def gemm_operands(kind: str) -> tuple[Any, Any]:
    """(operands as the bench has them on a GPU, their packed matrix): the bank's blocks, the first one twice."""
    bank, weights = gemm_ours.packed_bank(kind, INPUTS)
    blocks = torch.tensor([0, 3, 0, 1])
    one = gemm_ours.Operands.__new__(gemm_ours.Operands)
    draw = torch.Generator().manual_seed(1)
    one.channels = torch.arange(4 * gemm_ours.BLOCK)
    one.weights = weights[blocks.repeat_interleave(64) * 64 + one.channels % 64]
    one.x = torch.randint(-128, 128, (TOKENS, INPUTS), generator=draw, dtype=torch.int8)
    size = len(one.channels)
    one.token_scale, one.token_sum = (torch.rand(TOKENS, generator=draw).half() for _ in range(2))
    one.scale, one.scaled_zero = (torch.rand(size, generator=draw).half() / 64 for _ in range(2))
    return one, bank[blocks].numpy()


def found(kind: str, one: Any) -> Any:
    sums = (one.x.double() @ one.weights.T).float()
    return one._rounded(kind, torch.arange(TOKENS), sums).half().float().numpy()


def tokens(one: Any) -> Tokens:
    return Tokens(one.x.numpy(), one.token_scale.float().numpy(), one.token_sum.float().numpy())


def test_group() -> None:
    one, packed = gemm_operands("w4a8_group")
    expected = model.group_gemm(tokens(one), *packing.unpack_group(packed, INPUTS), one.scale.float().numpy())
    assert (found("w4a8_group", one) == expected).all()


def test_channel() -> None:
    one, packed = gemm_operands("w4a8_channel")
    sums = w8a8.integer_sums(one.x.numpy(), packing.unpack_channel(packed, INPUTS).astype(np.int8), 15)
    scales = one.scale.float().numpy(), one.scaled_zero.float().numpy()
    expected = model.shifted(sums, *scales, tokens(one), np.zeros(0, np.float32), "float16")
    assert (found("w4a8_channel", one) != expected).mean() <= gemm_ours.MOST_UNLIKE


def test_int8() -> None:
    one, packed = gemm_operands("w8a8")
    sums = w8a8.integer_sums(one.x.numpy(), packing.unpack_int8(packed, INPUTS))
    scale = one.scale.float().numpy()
    expected = w8a8.scaled(sums, scale, one.token_scale.float().numpy(), np.zeros(0, np.float32), "float16")
    assert (found("w8a8", one) == expected).all()


def test_a_wrong_element_and_an_unwritten_one_are_found() -> None:
    one, _ = gemm_operands("w4a8_group")
    rows = torch.linspace(0, TOKENS - 1, TOKENS).long()
    one.out = one._rounded("w4a8_group", rows, (one.x.double() @ one.weights.T).float()).half()
    assert one.fault("w4a8_group") == ""
    one.out[2, 7] *= 2
    assert "of the compared elements differ" in one.fault("w4a8_group")
    one.out[2, 7] = float("nan")
    assert "1 of 1280 elements are not written or NaN" in one.fault("w4a8_group")


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_pages_hold_the_numbers_that_they_stand_for(bits: int) -> None:
    from gpu_kernels.kv4_attention.packing import unpack

    packed, *exact = attention_ours._bank(bits)
    for part, numbers in zip(unpack(packed.numpy(), 128, bits), exact, strict=True):
        held = part.codes.astype(np.float64)
        if bits < 16:
            held = (held - np.asarray(part.zero, np.float64)[..., None]) * np.asarray(part.scale, np.float64)[..., None]
        assert (held == numbers.numpy()).all()
        assert 0.9 < held.std() < 1.4


def attention_operands() -> Any:
    one = attention_ours.Operands.__new__(attention_ours.Operands)
    draw = torch.Generator().manual_seed(1)
    one.bits, one.table = 4, torch.randperm(9, generator=draw).int().view(3, 3)
    one.drawn = [torch.randint(0, attention_ours.BANK, (9,), generator=draw)]
    one.query = torch.randn(3, 32, 128, generator=draw).half()
    return one


def test_attention_is_that_of_the_pages_in_the_order_of_the_table() -> None:
    one = attention_operands()
    _, keys, values = attention_ours._bank(4)
    pages = [int(one.drawn[0][page]) for page in one.table[1, :2]]
    k, v = (torch.cat([x[page, 6] for page in pages]).numpy() for x in (keys, values))
    score = np.append(k @ one.query[1, 25].double().numpy() / 128**0.5, 0)
    weight = np.exp(score - score.max())
    expected = (weight / weight.sum())[:-1] @ v
    assert np.allclose(one._exact()[1, 25].numpy(), expected, rtol=1e-12)


def test_a_wrong_head_is_found() -> None:
    one = attention_operands()
    one.out = one._exact().half()
    assert one.fault() == ""
    one.out[1, 25] = one.out[1, 24]
    assert "relative error" in one.fault()
