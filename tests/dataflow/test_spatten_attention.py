"""A head through all of SpAtten's modules: bit for bit a slow twin, and exact attention within its formats' error."""

import math
from fractions import Fraction
from functools import cache

import numpy as np
import pytest

from dataflow.spatten.modules.attention import values_kept
from dataflow.spatten.modules.error_bound import exact_attention, output_bound, output_deviation, score_bound
from tests.dataflow.spatten_heads import POLICIES, Operands, normal, run
from workloads.policy import Policy

# the slow twin: fractions and Python integers, softmax in float64


def codes(values: np.ndarray, bits: int) -> tuple[list[list[int]], float]:
    scale = float(np.abs(values).max()) / (2 ** (bits - 1) - 1)
    return [[round(float(v) / scale) for v in row] for row in values], scale


def slow(operands: Operands, policy: Policy, words: np.ndarray) -> tuple[list[list[int]], list[bool], float]:
    """(output codes, which recomputed, V's unit), for bits of at most 12.

    words   probability words of the model, taken on where float64 says that they are the nearest or, within 1e-5,
            the other one of a tie
    """
    query, query_scale = codes(operands[0], policy.query_bits)
    key, key_scale = codes(operands[1], policy.key_msb_bits + policy.key_lsb_bits)
    value, value_scale = codes(operands[2], policy.value_bits)
    low, outputs, again, shift = 1 << policy.key_lsb_bits, [], [], 12 - policy.value_bits

    def probabilities(q: list[int], keys: list[list[int]]) -> list[float]:
        scores = [sum(a * b for a, b in zip(q, k, strict=True)) for k in keys]
        x = [s * query_scale * key_scale / math.sqrt(len(q)) for s in scores]
        e = [math.exp(v - max(x)) for v in x]
        return [min(4095, v / sum(e) * 4096) for v in e]

    for q, row in zip(query, words.tolist(), strict=True):
        exact = probabilities(q, [[k // low * low for k in vector] for vector in key])
        again.append(low > 1 and round(max(exact)) < round(Fraction(policy.lsb_threshold) * 4096))
        exact = probabilities(q, key) if again[-1] else exact
        assert all(abs(word - p) <= 0.5 + 1e-5 * p for word, p in zip(row, exact, strict=True))
        order = sorted(range(len(row)), key=lambda i: -row[i])[: max(1, math.ceil(policy.value_keep * len(row) - 1e-9))]
        sums = [sum(row[i] * value[i][d] for i in order) << shift for d in range(len(q))]
        outputs.append([min(2047, max(-2047, math.floor(Fraction(s, 4096) + Fraction(1, 2)))) for s in sums])
    return outputs, again, value_scale / 2**shift


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("shape", [(12, 33, 16), (1, 40, 64), (5, 9, 20)])
def test_every_word_is_that_of_the_slow_twin(name: str, shape: tuple[int, int, int]) -> None:
    operands = normal(sum(shape), *shape, spread=2.0)
    head = run(operands, POLICIES[name])
    outputs, again, unit = slow(operands, POLICIES[name], head.probabilities)
    assert head.recomputed.tolist() == again
    assert head.output.code.tolist() == outputs
    assert head.output.scale == pytest.approx(unit, rel=1e-12)
    assert head.importance.tolist() == head.probabilities.sum(axis=0).tolist()
    assert head.head_score == pytest.approx(unit * np.abs(outputs).sum(), rel=1e-6)


def test_the_twin_sees_both_kinds_of_queries() -> None:
    """Of the test above: some queries are flat and some are not, in one head."""
    again = run(normal(61, 12, 33, 16, spread=2.0), POLICIES["6+4"]).recomputed
    assert 0 < again.sum() < len(again)


# within the formats' error of exact attention


def errors(operands: Operands) -> tuple[np.ndarray, np.ndarray]:
    """(|output - exact|, its bound), [n, D] each; in all elements the bound holds."""
    error = np.abs(run(operands).output.value - exact_attention(*operands)[1])
    bound = output_bound(*operands, 12)
    assert (error <= bound).all()
    return error, bound


def against_expected(operands: Operands) -> float:
    """Root mean square error over the one expected of independent roundings."""
    error, _ = errors(operands)
    return float(np.sqrt((error**2).mean() / (output_deviation(*operands, 12) ** 2).mean()))


@pytest.mark.parametrize(("spread", "size"), [(0.05, 64), (0.2, 64), (1.0, 64), (3.0, 64), (1.0, 32), (1.0, 256)])
def test_random_heads_are_as_exact_as_12_bits_allow(spread: float, size: int) -> None:
    ratio = against_expected(normal(size, 32, 250, size, spread))
    assert 0.75 < ratio < 1.33


def torch_attention(operands: Operands) -> np.ndarray:
    torch = pytest.importorskip("torch", reason="the test extra has torch")
    tensors = [torch.from_numpy(np.ascontiguousarray(a)).double()[None, None] for a in operands]
    found = torch.nn.functional.scaled_dot_product_attention(*tensors)
    return np.asarray(found[0, 0])


def test_exact_attention_is_that_of_pytorch() -> None:
    operands = normal(5, 20, 50, 64, spread=2.0)
    np.testing.assert_allclose(exact_attention(*operands)[1], torch_attention(operands), rtol=1e-12, atol=1e-14)


@cache
def minilm_layer() -> list[Operands]:
    """Q, K and V of each head of MiniLM's first layer, on a text of 128 tokens."""
    torch = pytest.importorskip("torch", reason="the test extra has torch")
    pytest.importorskip("transformers", reason="the test extra has transformers")
    from workloads.minilm import load_encoder
    from workloads.texts import load_texts

    try:
        bert, tokenizer, _ = load_encoder()
    except ValueError as error:
        pytest.skip(f"no weights: {error}")
    ids = [tokenizer(text["text"])["input_ids"] for text in load_texts()]
    with torch.inference_mode():
        hidden = bert.embeddings(torch.tensor([next(one for one in ids if len(one) >= 128)]))[0]
        own = bert.encoder.layer[0].attention.self
        heads = own.num_attention_heads
        q, k, v = (
            np.asarray(part(hidden).view(len(hidden), heads, -1).transpose(0, 1))
            for part in (own.query, own.key, own.value)
        )
    return list(zip(q, k, v, strict=True))


@pytest.mark.slow
def test_a_trained_model_is_as_exact_as_12_bits_allow() -> None:
    """All heads of MiniLM's first layer, against PyTorch: below the bound, and near the expected error."""
    ratios = []
    for operands in minilm_layer():
        error = np.abs(run(operands).output.value - torch_attention(operands))
        assert (error <= output_bound(*operands, 12)).all()
        ratios.append(against_expected(operands))
    assert min(ratios) > 0.6
    assert max(ratios) < 1.5


def test_the_bound_is_reached_by_rounding_scores() -> None:
    """Two keys whose every element is just below half a code from the next, one up and one down, and opposite V.

    The first element sets K's scale where Q is zero; Q itself is exact, which the bound does not know.
    """
    top, size = 2047.0, 64
    key = np.full((2, size), 100.0) + np.array([[0.499], [0.501]])
    key[:, 0] = top
    query = np.full((1, size), 1.0)
    query[0, 0] = 0
    query *= 0.05  # codes are all 2047: exact
    value = np.repeat([[1.0], [-1.0]], size, axis=1)
    error, bound = errors((query, key, value))
    assert 0.8 * bound.max() < error.max()
    assert error.max() > 50 / 2047  # and not by rounding V or the output


@pytest.mark.parametrize(("keys", "part"), [(910, 0.9), (4096 * 2 // 9, 0.9), (1000, 0.15), (512, 0.0)])
def test_equal_probabilities_round_alike(keys: int, part: float) -> None:
    """4096 / 910 = 4.501 becomes 5: all errors add up, to nine tenths of the bound; 4096 / 512 = 8 is exact."""
    value = np.full((keys, 64), 0.5)
    value[0, 0] = 1
    error, bound = errors((np.zeros((2, 64)), np.ones((keys, 64)), value))
    assert error[:, 1].max() / bound[:, 1].max() >= part


def test_one_dominant_token_costs_a_unit() -> None:
    """Its probability is 1, its word 4095 / 4096: the bound is met within a factor of four."""
    query, key, value = normal(8, 1, 200, 64)
    key[7] = 30 * query[0]
    head = run((query, key, value))
    error, bound = errors((query, key, value))
    assert (head.probabilities[0, 7], head.probabilities.sum()) == (4095, 4095)
    assert error.max() > bound.max() / 4
    assert bound.max() < 2.5 * np.abs(value).max() / 2047


def test_a_huge_range_stays_within_its_bound() -> None:
    """One key of 1000 times the others' size takes K's codes, V spans twelve decades: large errors, foreseen."""
    query, key, value = normal(9, 16, 200, 64)
    key[3] *= 1000
    value *= 10.0 ** np.random.default_rng(2).integers(-6, 7, (200, 1))
    error, _ = errors((100 * query, key, value))
    assert np.isfinite(error).all()
    assert score_bound(100 * query, key, 12).max() > 100


# progressive quantization and pruning


def test_peaked_queries_do_without_lsbs_and_flat_ones_are_whole() -> None:
    query, key, value = normal(3, 2, 64, 64)
    query[0] = key[5] * 2
    query[1] *= 0.01
    policy = Policy(key_msb_bits=6, key_lsb_bits=4)
    head = run((query, key, value), policy)
    assert head.recomputed.tolist() == [False, True]
    assert head.counts.fetched_bytes == {"query": 2 * 96, "key": 64 * 48, "key_lsb": 64 * 32, "value": 64 * 96}
    whole = run((query, key, value), Policy(key_msb_bits=10))
    assert head.probabilities[1].tolist() == whole.probabilities[1].tolist()
    never = run((query, key, value), policy.model_copy(update={"lsb_threshold": 0.0}))
    assert "key_lsb" not in never.counts.fetched_bytes
    assert never.probabilities[0].tolist() == head.probabilities[0].tolist()


def test_a_later_query_does_not_profit_from_lsbs_that_an_earlier_one_fetched() -> None:
    """So the result does not depend on the order of queries."""
    query, key, value = normal(4, 6, 40, 32, spread=1.5)
    policy = Policy(key_msb_bits=4, key_lsb_bits=4, lsb_threshold=0.2)
    forth, back = run((query, key, value), policy), run((query[::-1], key, value), policy)
    assert 1 < forth.recomputed.sum() < 6
    assert forth.counts.fetched_bytes["key_lsb"] == 40 * 16  # once
    assert forth.output.code.tolist() == back.output.code[::-1].tolist()


def test_msb_rounding_downwards_shifts_all_scores_of_a_query_alike() -> None:
    """MSBs cut towards minus infinity: half a step less on average, the same for each key, which softmax ignores."""
    operands = normal(6, 32, 256, 64)
    exact = exact_attention(*operands)[0]
    head = run(operands, Policy(key_msb_bits=6, key_lsb_bits=4, lsb_threshold=0))
    static = run(operands, Policy(key_msb_bits=6))
    cut, rounded = (np.abs(h.probabilities / 4096 - exact).mean() for h in (head, static))
    assert cut < 1.1 * rounded


@pytest.mark.parametrize(("keep", "keys", "used"), [(1.0, 10, 10), (0.3, 10, 3), (0.31, 10, 4), (0.01, 10, 1)])
def test_how_many_values_are_used(keep: float, keys: int, used: int) -> None:
    assert values_kept(keep, keys) == used


def test_shapes_are_checked() -> None:
    query, key, value = normal(1, 3, 4, 8)
    with pytest.raises(ValueError, match=r"one D and at least one row, got \(3, 8\), \(4, 8\) and \(3, 8\)"):
        run((query, key, value[:3]))
    with pytest.raises(ValueError, match="at least one row"):
        run((query[:0], key, value))
    with pytest.raises(ValueError, match="128 lines hold 1024 vectors of 64, got 1025"):
        run(normal(1, 1, 1025, 64))
