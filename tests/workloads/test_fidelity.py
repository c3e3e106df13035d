"""Measures of fidelity by hand, and a small decoder that is pruned while it generates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.fidelity import (
    POLICIES,
    Windows,
    bits_fidelity,
    bootstrap,
    decoder_fidelity,
    embedding_fidelity,
    generated_bits,
    has_formats,
    ranks,
    spearman,
)
from workloads.policy import Policy


def test_ranks_share_the_mean_of_ties():
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [3, 0, 3, 1, 3]


def test_spearman_by_hand():
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([1.0, 20, 300, 299])) == pytest.approx(0.8)  # 1 - 6*2 / (4*15)
    assert spearman(np.array([1.0, 2, 3]), np.array([9.0, 4, 1])) == pytest.approx(-1)
    assert np.isnan(spearman(np.array([1.0, 2]), np.array([5.0, 5])))


@given(values=st.lists(st.floats(-5, 5), min_size=2, max_size=20))
def test_the_interval_lies_within_the_values_and_is_a_point_for_equal_ones(values):
    low, high = bootstrap(np.array(values), draws=50)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert bootstrap(np.full(5, 2.0)) == (2.0, 2.0)


def test_the_interval_is_paired():
    dense = np.array([1.0, 5.0, 9.0, 2.0])
    row = bits_fidelity(dense, dense + 0.5)
    assert (row["more_bits"], row["more_bits_low"], row["more_bits_high"]) == (0.5, 0.5, 0.5)
    assert row["perplexity_ratio"] == pytest.approx(2**0.5)


def test_the_interval_narrows_as_the_error_of_the_mean():
    low, high = bootstrap(np.random.default_rng(0).normal(size=400))
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_embeddings_by_hand():
    dense = np.array([[1.0, 0], [0, 1], [1, 1]])
    row = embedding_fidelity(dense, np.array([[2.0, 0], [0, 3], [0, 1]]))
    assert row["cosine"] == pytest.approx((1 + 1 + 0.5**0.5) / 3)
    assert row["cosine_worst"] == pytest.approx(0.5**0.5)
    assert row["rank_correlation"] == pytest.approx(spearman(np.array([0, 0.5**0.5, 0.5**0.5]), np.array([0.0, 0, 1])))


def test_formats_are_applied_where_a_policy_is_about_them():
    assert [name for name, policy in POLICIES.items() if has_formats(name, policy)] == [
        name for name in POLICIES if "bits" in name
    ]
    assert has_formats("mine", Policy(value_bits=8))
    assert not has_formats("mine", Policy(token_keep=0.5, value_keep=0.5))


@pytest.fixture(scope="module")
def tiny():
    torch = pytest.importorskip("torch", reason="the test extra has torch")
    from workloads.decoder import DecoderShape, build_decoder

    torch.manual_seed(0)
    decoder = build_decoder(DecoderShape(layers=3, hidden=16, heads=4, kv_heads=2, head_size=4, intermediate=16))
    for name, weight in decoder.named_parameters():  # attention that differs from token to token
        if "norm" not in name:
            weight.data *= 20
    return decoder.eval()


TEXT = bytes(np.random.default_rng(0).integers(97, 123, 400).astype(np.uint8))
PIECES = Windows(count=4, prompt=24, generated=6)


def plain_bits(decoder, windows, prompt):
    import torch

    with torch.inference_mode():
        logits = decoder(windows[:, :-1])[:, prompt:].double()
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), windows[:, prompt + 1 :], reduction="none")
    return loss.mean(dim=1).numpy() / np.log(2)


@pytest.mark.parametrize("policy", [Policy(), Policy(token_threshold=0.0, readmit=True)])
def test_without_pruning_the_decoder_is_its_plain_self(tiny, policy):
    windows = PIECES.cut(TEXT)
    run = generated_bits(tiny, windows, PIECES.prompt, policy, quantized=False)
    np.testing.assert_allclose(run["bits"], plain_bits(tiny, windows, PIECES.prompt), rtol=0, atol=1e-4)
    assert run["kept"] == 1


@pytest.mark.parametrize(
    ("policy", "quantized"),
    [
        (Policy(token_keep=0.4), False),
        (Policy(head_keep=0.5), False),
        (Policy(value_keep=0.3), False),
        (Policy(token_threshold=0.1), False),
        (Policy(key_msb_bits=4, value_bits=4), True),
    ],
)
def test_each_part_of_a_policy_reaches_the_decoder(tiny, policy, quantized):
    windows = PIECES.cut(TEXT)
    run = generated_bits(tiny, windows, PIECES.prompt, policy, quantized)
    assert np.abs(run["bits"] - plain_bits(tiny, windows, PIECES.prompt)).min() > 1e-3
    assert (run["kept"] < 1) == (policy.token_keep != 1 or policy.token_threshold > 0)


def test_windows_of_a_batch_do_not_meet(tiny):
    windows, policy = PIECES.cut(TEXT), Policy(token_keep=0.4, head_keep=0.5, value_keep=0.5, key_lsb_bits=4)
    together = generated_bits(tiny, windows, PIECES.prompt, policy, quantized=True)["bits"]
    alone = [generated_bits(tiny, one[None], PIECES.prompt, policy, quantized=True)["bits"][0] for one in windows]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-4)


def test_the_training_loss_is_the_plain_one_without_pruning(tiny):
    from workloads.pruning.fine_tuning import training_loss

    window = PIECES.cut(TEXT)
    loss = training_loss(tiny, window, Policy(), PIECES.prompt).item()
    assert loss / np.log(2) == pytest.approx(plain_bits(tiny, window, PIECES.prompt).mean(), abs=1e-4)


def test_training_masks_are_those_of_a_replay_of_dense_scores(tiny):
    """For the first generated byte nothing was pruned before: its masks are the real ones."""
    from workloads.pruning.fine_tuning import masks_of
    from workloads.pruning.torch_attention import PrunedAttention

    policy = Policy(token_keep=(1.0, 0.5, 0.3), head_keep=(1.0, 0.5, 0.5))
    tokens = PIECES.cut(TEXT)[:, : PIECES.prompt + 3]
    masks, heads = masks_of(tiny, tokens, policy, PIECES.prompt)
    hook, cache = PrunedAttention(policy, 3), []
    tiny(tokens[:, : PIECES.prompt], cache, hook)
    tiny(tokens[:, PIECES.prompt : PIECES.prompt + 1], cache, hook)
    for layer in range(2):  # the third sees a context that differs by then
        row = masks[layer][:, PIECES.prompt, : PIECES.prompt + 1].numpy()
        np.testing.assert_array_equal(row, hook.state.tokens[layer])
        assert heads[layer].sum(dim=1).tolist() == hook.state.heads[layer].sum(axis=1).tolist()


def test_the_report_compares_like_with_like(tiny):
    rows = decoder_fidelity(tiny, TEXT, {"half": Policy(token_keep=0.5)}, PIECES, fine_tuning_steps=2)
    assert [(row["policy"], row["fine_tuned"]) for row in rows] == [
        ("dense", False),
        ("half", False),
        ("dense", True),
        ("half", True),
    ]
    bits = [row["bits_per_byte"] for row in rows]
    assert rows[1]["more_bits"] == pytest.approx(bits[1] - bits[0])
    assert rows[3]["more_bits"] == pytest.approx(bits[3] - bits[2])
    assert bits[2] != bits[0]
    assert bits[3] != bits[1]


def test_a_text_that_is_too_short_is_refused(tiny):
    with pytest.raises(ValueError, match="need a text of at least 31 bytes, got 10"):
        decoder_fidelity(tiny, b"0123456789", {}, PIECES)
