"""SpAtten's algorithms: a toy by hand, NumPy against PyTorch, and what must hold of any pruning."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.policy import Policy
from workloads.pruning.numpy_reference import _formats, _softmax, run_sentence
from workloads.pruning.quantization import SPLITS, joined, largest_code, planes, quantize, scale_of

SPLIT = {"key_msb_bits": 6, "key_lsb_bits": 4}
POLICIES = [
    Policy(),
    Policy(token_keep=0.5, head_keep=0.6, value_keep=0.5),
    Policy(token_keep=(0.9, 0.6, 0.3), head_keep=(1.0, 1.0, 0.5), value_keep=0.3, **SPLIT, lsb_threshold=0.5),
    Policy(token_threshold=0.12, token_front=0.3, key_msb_bits=4, key_lsb_bits=4, lsb_threshold=0.4),
    Policy(token_keep=(0.9, 0.5, 0.3), token_recent=3),
    Policy(token_keep=(0.5, 0.2, 0.8), readmit=True, value_keep=0.7, query_bits=6, value_bits=6),
]


def draw_steps(seed, heads, group, prompt, generated, layers=3, size=4, spread=2.0):
    """Random steps of `run_sentence`; all tensors of a layer grow by one token a step."""
    draw = np.random.default_rng(seed)
    most = prompt + generated
    key, value = spread * draw.normal(size=(2, layers, heads // group, most, size))
    query = spread * draw.normal(size=(layers, heads, most, size))
    spans = [(0, prompt), *((n, n + 1) for n in range(prompt, most))]
    return [[(query[one][:, a:b], key[one][:, :b], value[one][:, :b]) for one in range(layers)] for a, b in spans]


def run_torch(steps, policy, between=None, **options):
    """(tokens, heads, context) of each layer of each step, by the hook; `between` is called with it after a step."""
    torch = pytest.importorskip("torch", reason="the test extra has torch")
    from workloads.pruning.torch_attention import PrunedAttention

    hook = PrunedAttention(policy, len(steps[0]), **options)
    found = []
    for step in steps:
        for layer, arrays in enumerate(step):
            context = hook(layer, *(torch.from_numpy(one)[None] for one in arrays))[0].numpy()
            tokens, heads = hook.state.tokens[layer][0], hook.state.heads[layer][0]
            found.append((np.flatnonzero(tokens).tolist(), np.flatnonzero(heads).tolist(), context))
        if between:
            between(hook)
    return found, hook


def run_reference(steps, policy, **options):
    """The same by the reference."""
    passes = [one for step in run_sentence(steps, policy, **options) for one in step]
    return [(one.tokens, one.heads, one.context) for one in passes], passes


def toy_steps():
    """Three tokens, then two more; two equal layers. Probabilities are weights over their sum."""
    weights = np.array([[1, 2, 5, 8, 1], [4, 2, 2, 8, 1]])
    value = np.repeat([[[1.0], [3.0]]], 5, axis=0).reshape(5, 2, 1).transpose(1, 0, 2)
    layer = [(np.ones((2, n, 1)), np.log(weights)[:, :m, None], value[:, :m]) for n, m in ((3, 3), (1, 4), (1, 5))]
    return [[one, one] for one in layer]


TOY = Policy(token_keep=(1.0, 0.4), head_keep=(1.0, 0.5), value_keep=0.5)


@pytest.mark.parametrize("run", [run_reference, run_torch])
def test_a_toy_worked_by_hand(run):
    found, _ = run(toy_steps(), TOY, causal=False)
    # prompt, both layers: token scores 3 (1 + 4) / 8, 3 (2 + 2) / 8, 3 (5 + 2) / 8; two of three V are used
    assert [one[:2] for one in found[:2]] == [([0, 1, 2], [0, 1])] * 2
    np.testing.assert_allclose(found[1][2][:, :, 0], [[7 / 8] * 3, [3 * 6 / 8] * 3])
    # token 3: after its first layer 65, 52, 91 and 16 sixteenths; 2 of 4 stay: itself, which asks, and token 2.
    # Head 0 has 6 * 7/8 + 13/16, head 1 more; alone it sees 2 : 8 and uses the larger one's V
    assert [one[:2] for one in found[2:4]] == [([0, 1, 2, 3], [0, 1]), ([2, 3], [1])]
    np.testing.assert_allclose(found[3][2][:, 0, 0], [0, 3 * 8 / 10])
    # token 4: of 2 and 3 token 2 stays, 91/16 + 0.2 + 7/17 against 16/16 + 0.8 + 16/17; 0 and 1 are gone
    assert [one[:2] for one in found[4:]] == [([0, 1, 2, 3, 4], [0, 1]), ([2, 4], [1])]


def test_a_reset_between_steps_would_be_seen():
    def reset(hook):
        hook.state.token_score[:] = 0

    found, _ = run_torch(toy_steps(), TOY, reset, causal=False)
    assert found[-1][0] == [3, 4]  # token 3 leads in this step alone


@settings(max_examples=60, deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    seed=st.integers(0, 999),
    shape=st.sampled_from([(2, 1), (4, 2), (4, 4), (1, 1)]),
    prompt=st.integers(1, 9),
    generated=st.integers(0, 3),
    causal=st.booleans(),
    dense_prompt=st.booleans(),
    quantized=st.booleans(),
)
def test_numpy_and_torch_agree(policy, seed, shape, prompt, generated, causal, dense_prompt, quantized):
    """(heads, group) of `shape`: with a group the importance of a token is summed over it."""
    steps = draw_steps(seed, *shape, prompt, generated)
    options = {"causal": causal, "dense_prompt": dense_prompt, "quantized": quantized}
    found, hook = run_torch(steps, policy, **options)
    wanted, passes = run_reference(steps, policy, **options)
    for (tokens, heads, context), want in zip(found, wanted, strict=True):
        assert (tokens, heads) == want[:2]
        np.testing.assert_allclose(context, want[2], rtol=0, atol=1e-12)
    if quantized:
        assert hook.low_bits == sum(len(one.needs_lsb) for one in passes)


@pytest.mark.parametrize("run", [run_reference, run_torch])
def test_the_lowest_index_wins_a_tie(run):
    # 8 tokens alike: all sums are exact
    steps = [[(np.zeros((2, 8, 1)), np.zeros((2, 8, 1)), np.ones((2, 8, 1)))] * 3]
    policy = Policy(token_keep=(1.0, 0.5, 0.25), head_keep=(1.0, 0.5, 0.5), value_keep=0.5)
    found, _ = run(steps, policy, causal=False, dense_prompt=False)
    assert [one[:2] for one in found] == [(list(range(8)), [0, 1]), ([0, 1, 2, 3], [0]), ([0, 1], [0])]


@settings(max_examples=40, deadline=None)
@given(policy=st.sampled_from(POLICIES[:5]), seed=st.integers(0, 999))
def test_kept_sets_are_nested_over_layers_and_steps(policy, seed):
    wanted = run_sentence(draw_steps(seed, 2, 1, 8, 3), policy)
    for before, step in pairwise(wanted):
        new = {len(step[0].context[0]) + max(before[0].tokens)}
        for earlier, one in zip(before, step, strict=True):
            assert set(one.tokens) <= set(earlier.tokens) | new
            assert set(one.heads) <= set(earlier.heads)
        assert all(set(later.tokens) <= set(one.tokens) for one, later in pairwise(step))


def test_recent_tokens_stay_as_far_as_there_is_room():
    steps = draw_steps(3, 2, 1, 8, 3, spread=0.01)  # nearly equal probabilities: old tokens lead by their number
    for recent, expected in ((0, {10}), (2, {9, 10}), (9, {7, 8, 9, 10})):
        kept = run_sentence(steps, Policy(token_keep=(1.0, 1.0, 0.35), token_recent=recent))[-1][2].tokens
        assert len(kept) == 4
        assert {j for j in kept if j > 6} == expected


def test_with_readmission_tokens_come_back():
    steps = draw_steps(0, 2, 1, 10, 0)
    one, other, third = run_sentence(steps, POLICIES[5], causal=False, dense_prompt=False)[0]
    assert [len(one.tokens), len(other.tokens), len(third.tokens)] == [10, 2, 8]
    assert set(third.tokens) - set(other.tokens)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), policy=st.sampled_from([Policy(), Policy(token_threshold=0.0, value_keep=1.0)]))
def test_without_pruning_it_is_plain_attention(seed, policy):
    torch = pytest.importorskip("torch", reason="the test extra has torch")
    steps = draw_steps(seed, 4, 2, 6, 2)
    found, _ = run_torch(steps, policy)
    arrays = [one for step in steps for one in step]
    for (_, _, context), one in zip(found, arrays, strict=True):
        query, key, value = (torch.from_numpy(part)[None] for part in one)
        plain = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=query.shape[2] > 1, enable_gqa=True
        )
        np.testing.assert_allclose(context, plain[0].numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("msb_bits", "lsb_bits"), SPLITS)
def test_the_planes_are_the_code_exactly(msb_bits, lsb_bits):
    bits = msb_bits + lsb_bits
    codes = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))
    msb, lsb = planes(codes, lsb_bits)
    np.testing.assert_array_equal(joined(msb, lsb, lsb_bits), codes)
    assert (msb.min(), msb.max()) == (-(2 ** (msb_bits - 1)), 2 ** (msb_bits - 1) - 1)
    assert (lsb.min(), lsb.max()) == (0, 2**lsb_bits - 1)
    # side by side in memory, they are the two's complement code
    assert (((msb % 2**msb_bits) * 2**lsb_bits + lsb) == codes % 2**bits).all()
    assert len(set(zip(msb.tolist(), lsb.tolist(), strict=True))) == 2**bits


@given(
    numbers=st.lists(st.floats(-100, 100).map(lambda x: round(x, 6)), min_size=1, max_size=9), bits=st.integers(2, 16)
)
def test_codes_are_symmetric_and_within_half_a_step(numbers, bits):
    numbers = np.array(numbers)
    codes, scale = quantize(numbers, bits), scale_of(numbers, bits)
    assert np.abs(codes).max() == (largest_code(bits) if numbers.any() else 0)
    np.testing.assert_array_equal(quantize(-numbers, bits), -codes)
    assert (np.abs(numbers - codes * scale) <= scale * 0.5000001).all()


@given(
    scores=st.lists(st.floats(-9, 9), min_size=1, max_size=8),
    shift=st.floats(-0.5, 0.5),
)
def test_the_error_falls_when_one_token_dominates(scores, shift):
    """Section III-D: sum |dp| is about 2 p (1 - p) |ds| for a change of one score; the rest is of second order."""
    before = _softmax(scores)
    after = _softmax([scores[0] + shift, *scores[1:]])
    error = sum(abs(a - b) for a, b in zip(before, after, strict=True))
    p = np.array([_softmax([scores[0] + t * shift, *scores[1:]])[0] for t in np.linspace(0, 1, 21)])
    largest = (p * (1 - p)).max() + abs(shift) * 0.01  # between the samples; p (1 - p) has a slope below 0.1
    assert error <= 2 * largest * abs(shift) + 1e-12
    assert abs(error - 2 * p[0] * (1 - p[0]) * abs(shift)) <= 0.0963 * shift**2 + 1e-12  # max |p''| = 1 / (6 sqrt 3)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), split=st.sampled_from(SPLITS))
def test_msbs_alone_move_probabilities_by_no_more_than_their_missing_bits(seed, split):
    draw = np.random.default_rng(seed)
    policy = Policy(key_msb_bits=split[0], key_lsb_bits=split[1])
    query, rough, fine, _ = _formats(*draw.normal(size=(3, 7, 4)), policy, True)
    step = scale_of(fine, sum(split)) * (2 ** split[1] - 1)
    assert ((fine - rough >= -1e-12) & (fine - rough <= step + 1e-12)).all()
    for q in query:
        p, exact = (np.array(_softmax((key @ q / 2).tolist())) for key in (rough, fine))
        span = step * np.abs(q).sum() / 2  # of the changes of the scores; a shift common to all changes nothing
        assert np.abs(p - exact).sum() <= 2 * np.tanh(span / 4) + 1e-12


@pytest.mark.parametrize("run", [run_reference, run_torch])
def test_low_bits_are_asked_for_by_the_probabilities_of_the_msbs(run):
    # codes 127 and 112 have the same upper 4 bits: 0.5 each there, 0.76 and 0.24 with all bits
    key = np.array([[[127.0], [112.0]]]) / 127
    steps = [[(np.full((1, 2, 1), 10.0), key, np.array([[[1.0], [0.0]]]))]]
    policy = Policy(key_msb_bits=4, key_lsb_bits=4, lsb_threshold=0.6)
    found, more = run(steps, policy, causal=False, quantized=True)
    asked = more.low_bits if run is run_torch else len(more[0].needs_lsb)
    assert asked == 2
    np.testing.assert_allclose(found[0][2], 1 / (1 + np.exp(-150 / 127)))
    found, _ = run(steps, policy.model_copy(update={"lsb_threshold": 0.5}), causal=False, quantized=True)
    np.testing.assert_allclose(found[0][2], 0.5)


def test_one_token():
    for policy in POLICIES:
        (found, _), (wanted, _) = (run(draw_steps(1, 2, 2, 1, 0), policy) for run in (run_torch, run_reference))
        for one, want in zip(found, wanted, strict=True):
            assert one[0] == want[0] == [0]
            np.testing.assert_allclose(one[2], want[2])


def test_the_hook_starts_with_layer_0():
    torch = pytest.importorskip("torch", reason="the test extra has torch")
    from workloads.pruning.torch_attention import PrunedAttention

    with pytest.raises(ValueError, match="layer 0 must be the first, got 1"):
        PrunedAttention(Policy(), 2)(1, *torch.zeros(3, 1, 1, 1, 1))
