"""The decoder over bytes: transformers' logits, its cache, its hook, and the shipped weights."""

import hashlib
import json
import lzma
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from workloads.decoder import (
    HELD_OUT,
    WEIGHTS,
    DecoderShape,
    bits_per_byte,
    build_decoder,
    heldout_text,
    load_decoder,
    save_decoder,
)

SMALL = DecoderShape(layers=2, hidden=32, heads=4, kv_heads=2, head_size=8, intermediate=48, context=64)
SCORED = 3584  # bytes, two windows: this takes 8 s on two busy cores
LIMIT = 1.4


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, 2))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shipped() -> Any:
    return load_decoder()


@pytest.fixture(scope="module")
def small() -> Any:
    torch.manual_seed(7)
    decoder = build_decoder(SMALL).eval().requires_grad_(False)
    for weight in decoder.parameters():
        weight.copy_(torch.randn_like(weight) * 0.3)
    return decoder


def tokens(shape: tuple[int, int], seed: int = 3) -> torch.Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed))


def test_logits_are_those_of_transformers(shipped: Any) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = shipped.shape
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        max_position_embeddings=shape.context,
        rms_norm_eps=1e-5,
        rope_theta=shape.rope_theta,
        tie_word_embeddings=False,
    )
    theirs = LlamaForCausalLM(config).eval()
    theirs.load_state_dict(shipped.state_dict())
    text = torch.frombuffer(bytearray(heldout_text()[:600]), dtype=torch.uint8).long()[None]
    with torch.inference_mode():
        ours, reference = shipped(text), theirs(text).logits
    assert reference.std() > 1  # trained: far from a constant
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=2e-4)


def test_cached_steps_equal_one_pass(small: Any) -> None:
    text, cache, parts = tokens((2, 20)), [], []
    for start, end in ((0, 7), (7, 8), (8, 9), (9, 14), (14, 20)):  # a prompt, single tokens, later chunks
        parts.append(small(text[:, start:end], cache))
        assert [key.shape for key, _ in cache] == [(2, 2, end, 8)] * 2
    torch.testing.assert_close(torch.cat(parts, 1), small(text), rtol=1e-4, atol=1e-4)


def test_a_later_byte_changes_no_earlier_logit(small: Any) -> None:
    text = tokens((1, 20))
    other = text.clone()
    other[0, 12] = (other[0, 12] + 1) % 256
    before, after = small(text), small(other)
    torch.testing.assert_close(before[:, :12], after[:, :12], rtol=0, atol=1e-5)
    assert (before[:, 12:] - after[:, 12:]).abs().amax(dim=(0, 2)).min() > 1e-3


def test_hook_replaces_the_attention(small: Any) -> None:
    """An attention written out, with position m - n + i for query i, gives the same logits as torch's."""
    calls: list[tuple[Any, ...]] = []

    def attend(layer: int, query: Any, key: Any, value: Any) -> Any:
        calls.append((layer, tuple(query.shape), tuple(key.shape), tuple(value.shape)))
        count, total = query.shape[2], key.shape[2]
        key, value = (part.repeat_interleave(2, dim=1) for part in (key, value))  # query head h reads K/V head h // 2
        late = torch.arange(total) > torch.arange(total - count, total)[:, None]
        score = (query @ key.transpose(2, 3) * 8**-0.5).masked_fill(late, float("-inf"))
        return score.softmax(dim=3) @ value

    text, cache = tokens((2, 12)), []
    ours = torch.cat([small(text[:, :9], cache, attend), small(text[:, 9:], cache, attend)], 1)
    torch.testing.assert_close(ours, small(text), rtol=1e-4, atol=1e-4)
    first = [(layer, (2, 4, 9, 8), (2, 2, 9, 8), (2, 2, 9, 8)) for layer in (0, 1)]
    assert calls == first + [(layer, (2, 4, 3, 8), (2, 2, 12, 8), (2, 2, 12, 8)) for layer in (0, 1)]


def test_bits_per_byte_scores_each_byte_once(small: Any) -> None:
    """One window over all, and by hand: each byte from at least window - stride before it, past the first window."""
    text = bytes(tokens((1, 60))[0].tolist())
    parts = torch.tensor(list(text))

    def nats(start: int, low: int, high: int) -> float:
        chance = small(parts[None, start:high])[0].double().log_softmax(1)
        return -float(sum(chance[i - 1 - start, parts[i]] for i in range(low, high)))

    assert bits_per_byte(small, text, 60, 30) == pytest.approx(nats(0, 1, 60) / 59 / math.log(2), rel=1e-5)
    by_hand = nats(0, 1, 32) + nats(16, 32, 48) + nats(32, 48, 60)
    assert bits_per_byte(small, text, 32, 16) == pytest.approx(by_hand / 59 / math.log(2), rel=1e-5)


def test_shipped_files_are_the_ones_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "decoder.md").read_text(encoding="utf-8")
    for file, most in ((WEIGHTS, 16_000_000), (HELD_OUT, 150_000)):
        content = file.read_bytes()
        assert len(content) <= most
        assert hashlib.sha256(content).hexdigest() in page, f"docs/decoder.md does not tell the hash of {file.name}"


def test_shipped_weights_carry_their_record(shipped: Any) -> None:
    from safetensors import safe_open

    with safe_open(WEIGHTS, framework="pt") as opened:
        record = json.loads(opened.metadata()["record"])
        assert all(opened.get_tensor(name).dtype == torch.bfloat16 for name in opened.keys())  # noqa: SIM118
    assert {"device", "driver", "torch", "date", "commit", "recipe", "corpus", "curve"} <= set(record)
    assert shipped.shape == DecoderShape()
    assert shipped.lm_head.weight.dtype == torch.float32


def test_held_out_text_costs_fewer_bits_than_xz_needs(shipped: Any) -> None:
    """A random model needs 8 bits, one with a wrong order of heads or positions far more than 1.4."""
    text = heldout_text()[:SCORED]
    ours = bits_per_byte(shipped, text, 2048, 1536)
    packed = 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text)
    assert ours < packed
    assert ours < LIMIT, f"{ours} bits per byte, xz {packed}"


def test_a_long_text_is_refused(small: Any) -> None:
    cache: list[Any] = []
    small(tokens((1, 60)), cache)
    with pytest.raises(ValueError, match="60 cached \\+ 5 new tokens > context of 64"):
        small(tokens((1, 5)), cache)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"layers": 0}, "layers must be > 0, got 0"),
        ({"kv_heads": 3}, "kv_heads must divide heads, got 3 and 4"),
        ({"head_size": 7}, "head_size must be even"),
    ],
)
def test_a_wrong_shape_is_refused(change: dict[str, int], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        DecoderShape(**change)


def test_weights_come_back_rounded(small: Any, tmp_path: Path) -> None:
    file = tmp_path / "small.safetensors"
    save_decoder(small, file)
    again = load_decoder(file)
    assert again.shape == SMALL
    for name, weight in small.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight.bfloat16().float()), name


def test_a_file_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match=r"x\.safetensors: not a readable safetensors file"):
        load_decoder(file)
    file.write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"x\.safetensors: not a readable safetensors file"):
        load_decoder(file)
