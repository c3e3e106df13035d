"""The quantized KV cache: bit for bit that of the number formats, the same in both kinds of model."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from accel.formats import kv4  # noqa: E402
from tests.workloads.quantization.llamas import logits, run, small_decoder, small_llama, tokens  # noqa: E402
from workloads.decoder import DecoderShape, build_decoder  # noqa: E402
from workloads.quantization.qoq.cache import cached, codes, once_rounded, quantize_cache  # noqa: E402
from workloads.quantization.qoq.llama import llama_of  # noqa: E402
from workloads.quantization.qoq.smoothing import key_scales, smooth_attention  # noqa: E402


@pytest.mark.parametrize(
    ("spread", "place"), [(1, 0), (3, 5), (0.01, 0.2), (1e-6, 0), (1e3, 0), (1, 700), (0, 3), (0, 0)]
)
def test_equals_the_format_bit_for_bit(spread: float, place: float) -> None:
    x = np.random.default_rng(0).normal(place, spread, (500, 16)).astype(np.float16).astype(np.float32)
    expected = kv4.quantize(x)
    found = codes(torch.from_numpy(x))
    assert np.array_equal(found[0].numpy(), expected[0])
    assert np.array_equal(found[1][:, 0].float().numpy(), expected[1])
    assert np.array_equal(found[2][:, 0].float().numpy(), expected[2])
    assert np.array_equal(cached(torch.from_numpy(x)).numpy(), kv4.dequantize(*expected))


def test_once_rounded_is_not_rounded_twice() -> None:
    """1 + 2^-11 + 2^-40 lies above the middle of two float16; by way of float32 it would become 1."""
    x = torch.tensor([1 + 2.0**-11 + 2.0**-40, 1 + 2.0**-11, 1 + 3 * 2.0**-11 - 2.0**-40], dtype=torch.float64)
    expected = torch.tensor([1 + 2.0**-10, 1, 1 + 2.0**-10]).half()
    assert torch.equal(once_rounded(x, 0.0, torch.float16), expected)


def as_llama(decoder: Any) -> Any:
    """Transformers' model with the decoder's weights."""
    model = small_llama(attention_bias=False, rms_norm_eps=1e-5).float()
    model.load_state_dict(decoder.state_dict())
    return model


def test_both_models_read_the_same_cache() -> None:
    """And K after RoPE: keys quantized before it would come out differently."""
    decoder = small_decoder().float()
    llama, exact = as_llama(decoder), logits(decoder)
    torch.testing.assert_close(logits(llama), exact, rtol=1e-4, atol=1e-5)
    for bits, least in ((8, 1e-3), (4, 1e-2)):
        quantize_cache(decoder, bits)
        quantize_cache(llama, bits)
        found = logits(decoder)
        error = (found - exact).norm() / exact.norm()
        assert least < error < 20 * least
        assert (logits(llama) - found).norm() / found.norm() < 0.05 * error + 1e-3
    for model in (decoder, llama):
        quantize_cache(model, 16)
        torch.testing.assert_close(logits(model), exact, rtol=1e-4, atol=1e-5)


def test_one_token_at_a_time_gives_the_same() -> None:
    decoder = small_decoder().float()
    quantize_cache(decoder, 4)
    text, cache = tokens(2), []
    whole = decoder(text)
    parts = torch.cat([decoder(text[:, :10], cache), *(decoder(text[:, i : i + 1], cache) for i in range(10, 24))], 1)
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-3)


def test_a_given_attention_reads_the_quantized_cache() -> None:
    decoder, seen = small_decoder().float(), []
    quantize_cache(decoder, 4)

    def attend(layer: int, query: Any, key: Any, value: Any) -> Any:
        seen.append(max(len(head.unique()) for head in (*key.flatten(0, 2), *value.flatten(0, 2))))
        return query

    decoder(tokens(), attend=attend)
    decoder(tokens(), None, attend)
    assert len(seen) == 4
    assert max(seen) <= 8  # a head has 8 channels here
    with pytest.raises(ValueError, match="bits must be one of 4, 8, 16, got 3"):
        quantize_cache(decoder, 3)


def test_scales_of_paired_channels_are_equal() -> None:
    scale = key_scales(torch.tensor([[4.0, 0.0, 9.0, 0.0], [1.0, 16.0, 0.25, 1.0]]))
    assert scale.tolist() == [[3, 1, 3, 1], [1, 4, 1, 4]]


def test_smooth_attention_helps_keys_with_outliers() -> None:
    """Channels of K ten times the others, as in large models: 4 bits lose far less."""
    torch.manual_seed(0)
    decoder = build_decoder(DecoderShape(1, 24, 4, 2, 16, 40, 64, 32)).requires_grad_(False)
    attention = decoder.model.layers[0].self_attn
    for part, factor in ((attention.k_proj, 10.0), (attention.q_proj, 0.1)):
        rows = part.weight.unflatten(0, (-1, 16))
        rows.mul_(30)
        rows[:, [3, 11]] *= factor
    exact, errors = logits(decoder), []
    for smooth in (False, True):
        if smooth:
            smooth_attention(llama_of(decoder), run)
        quantize_cache(decoder, 4)
        errors.append(float((logits(decoder) - exact).norm()))
        quantize_cache(decoder, 16)
    assert errors[1] < 0.7 * errors[0]
