"""KV4 decode attention: batches against the twin, float64 within its bound, properties, faults."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.arithmetic import round_to
from accel.formats import kv4
from gpu_kernels.exact_rounding import exact as number
from gpu_kernels.kv4_attention import exact, reference
from gpu_kernels.kv4_attention.model import (
    Step,
    Vectors,
    decode,
    exponential,
    factor,
    quantize,
    rotate,
    rotation,
)
from gpu_kernels.kv4_attention.operands import SIZES


def numbers(draw: np.random.Generator, *shape: int, spread: float = 1.0) -> np.ndarray:
    return round_to(draw.normal(0, spread, shape), "float16")


def world(seed: int, batch: int, heads: int, kv_heads: int, tokens: int, size: int, spread: float = 1.0) -> list:
    """query, key, value, key cache, value cache."""
    draw = np.random.default_rng(seed)
    query = numbers(draw, batch, heads, size, spread=spread)
    rest = [numbers(draw, batch, kv_heads, size) for _ in range(2)]
    return [query, *rest, *(quantize(numbers(draw, batch, kv_heads, tokens, size)) for _ in range(2))]


def same(a: Step, b: Step) -> bool:
    pairs = [(a.output, b.output), *zip(a.key, b.key, strict=True), *zip(a.value, b.value, strict=True)]
    return all(np.array_equal(x, y) for x, y in pairs)


def test_sequences_of_their_own_lengths_and_grouped_heads():
    """Every head is that of the twin on its own sequence and kv head."""
    query, key, value, *caches = world(1, 3, 4, 2, 9, 32)
    lengths, angles = np.array([9, 0, 4]), rotation([9, 0, 4], 32)
    step = decode(query, key, value, *caches, lengths, angles)
    for b, h in np.ndindex(3, 4):
        q, k = (exact.rotated(x, angles[0][b], angles[1][b]) for x in (query[b, h], key[b, h // 2]))
        cache = [[part[b, h // 2] for part in c] for c in caches]
        expected = exact.head(q, k, value[b, h // 2], *cache, range(lengths[b]))
        assert step.output[b, h].tolist() == [float(x) for x in expected]
        assert step.key.codes[b, h // 2].tolist() == exact.quantized(k)[0]


@pytest.mark.parametrize(
    ("size", "tokens", "spread"), [(128, 600, 1.0), (128, 300, 3.0), (64, 300, 1.0), (32, 50, 1.0), (256, 300, 0.2)]
)
def test_float64_within_the_bound_and_as_near_as_independent_roundings(size, tokens, spread):
    """1e-3 of the largest output, more for larger scores; an additional rounding would show in the mean error."""
    query, key, value, *caches = world(size + tokens, 1, 12, 1, tokens, size, spread)
    output = decode(query, key, value, *caches, np.array([tokens])).output[0]
    keys, values = (np.vstack([kv4.dequantize(*c)[0, 0], new[0]]) for c, new in zip(caches, (key, value), strict=True))
    ratios = []
    for q, found in zip(query[0], output, strict=True):
        error = np.abs(found - reference.attention(q, keys, values)[1])
        assert (error <= reference.output_bound(q, keys, values)).all()
        assert np.sqrt((error**2).mean()) < 1e-3 * max(1, spread) * np.abs(found).max()
        ratios.append((error**2).mean() / (reference.output_deviation(q, keys, values) ** 2).mean())
    assert 0.85 < np.sqrt(np.mean(ratios)) < (1.2 if spread <= 1 else 2)  # few errors matter where scores are peaked


def test_exponential_near_the_true_one_and_that_of_the_twin():
    x = -np.append(np.random.default_rng(0).exponential(8, 4000), [0, 87.33, 87.4, 1e9]).astype(np.float32)
    found = np.array([exponential(v) for v in x], float)
    t = (x * np.float32(1.4426950408889634)).astype(np.float32)
    normal = t >= -126
    assert np.abs(found[normal] / np.exp2(t[normal].astype(float)) - 1).max() < 2.0**-23.5
    assert found[x == 0] == 1
    assert not found[~normal].any()
    assert [float(exact.exponential(number(v))) for v in x[-400:]] == found[-400:].tolist()


def test_factor_of_every_size():
    assert [float(exact.factor(size)) for size in SIZES] == [factor(size) for size in SIZES]


@pytest.mark.parametrize(("middle", "wraps"), [(0, False), (10, False), (1000, True), (-1000, True)])
def test_quantized_vectors_are_those_of_the_twin(middle, wraps):
    """Far from zero a number can round to 16 or 17, whose low nibble is 0 or 1."""
    x = round_to(np.random.default_rng(3).normal(middle, 1, (60, 32)), "float16")
    found = quantize(x)
    for i, row in enumerate(x):
        codes, scale, zero = exact.quantized(row)
        assert (found.codes[i].tolist(), found.scale[i], found.zero[i]) == (codes, float(scale), float(zero))
    assert (kv4.numbers(x, found.scale, found.zero) > 15).any() == wraps
    error = np.abs(kv4.dequantize(*found) - x).max(axis=1) / found.scale
    assert (error.max() > 10) == wraps


@given(st.integers(0, 2**32), st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_kept_tokens_are_a_cache_of_their_own(seed, tokens):
    """And what lies beyond a sequence's length is not read."""
    query, key, value, *caches = world(seed, 1, 2, 1, tokens, 32)
    own = np.flatnonzero(np.random.default_rng(seed).random(tokens) < 0.5)
    pruned = decode(query, key, value, *caches, np.array([tokens]), kept=[[own]])
    compact = [Vectors(*(part[:, :, own] for part in c)) for c in caches]
    assert same(pruned, decode(query, key, value, *compact, np.array([len(own)])))
    padded = [Vectors(*(np.concatenate([part, part[:, :, ::-1]], axis=2) for part in c)) for c in compact]
    assert same(pruned, decode(query, key, value, *padded, np.array([len(own)])))


@given(st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_heads_and_sequences_do_not_know_each_other(seed):
    """Grouped queries give what repeated kv heads give; values times two give twice the output."""
    query, key, value, *caches = world(seed, 2, 4, 2, 7, 32)
    lengths = np.array([7, 3])
    step = decode(query, key, value, *caches, lengths)
    many = [Vectors(*(np.repeat(part, 2, axis=1) for part in c)) for c in caches]
    repeated = decode(query, *(np.repeat(x, 2, axis=1) for x in (key, value)), *many, lengths)
    assert np.array_equal(step.output, repeated.output)
    turned = [Vectors(*(part[::-1] for part in c)) for c in caches]
    assert np.array_equal(decode(query[::-1], key[::-1], value[::-1], *turned, lengths[::-1]).output, step.output[::-1])


def test_rotation_turns_pairs_half_a_vector_apart():
    """Position 0 changes nothing; a turn keeps lengths; scores depend on the distance of positions."""
    draw = np.random.default_rng(4)
    x = numbers(draw, 2, 1, 64)
    assert np.array_equal(rotate(x, *rotation([0, 0], 64)), x)
    pair = np.zeros((1, 1, 64), np.float32)
    pair[0, 0, 3] = 1
    angle = 5 / 10000 ** (6 / 64)
    found = rotate(pair, *rotation([5], 64))[0, 0]
    assert found[[3, 35]].tolist() == np.float32(np.float16([np.cos(angle), np.sin(angle)])).tolist()
    assert np.count_nonzero(found) == 2
    near, far = (
        [rotate(x[i : i + 1], *rotation([p], 64))[0, 0] for i, p in enumerate(at)] for at in ((3, 5), (90, 92))
    )
    assert near[0] @ near[1] == pytest.approx(far[0] @ far[1], abs=0.02)


def test_faults_are_told_with_their_place():
    query, key, value, keys, values = world(5, 1, 2, 1, 3, 32)
    three = np.array([3])
    for said, change in (
        ("query: must be finite float16 values", {"query": query + np.float32(1e-6)}),
        (r"value: must have key's shape \(1, 1, 32\), got \(1, 2, 32\)", {"value": query}),
        (r"query: must be \[1, a multiple of 1 heads, 32\], got \(2, 1, 32\)", {"query": query.reshape(2, 1, 32)}),
        (r"lengths: must be 1 integers in 0\.\.3, got \[4\]", {"lengths": np.array([4])}),
        (r"key_cache: codes must be within 0\.\.15, got 16", {"key_cache": keys._replace(codes=keys.codes * 0 + 16)}),
        (r"value_cache: scale must be float16 values", {"value_cache": values._replace(scale=values.scale * 1.1)}),
        (r"key_cache: codes must be uint8 \[1, 1, T, 32\]", {"key_cache": keys._replace(codes=keys.codes[..., :16])}),
        (r"kept: sequence 0, kv head 0: must ascend within 0\.\.2, got \[2, 1\]", {"kept": [[[2, 1]]]}),
        (r"kept: sequence 0, kv head 0: must ascend within 0\.\.2, got \[3\]", {"kept": [[[3]]]}),
        (r"rotated: must be two of \[1, 16\], got \(1, 32\)", {"rotated": rotation([1], 64)}),
    ):
        operands = {"query": query, "key": key, "value": value, "key_cache": keys, "value_cache": values}
        with pytest.raises(ValueError, match=said):
            decode(**(operands | {"lengths": three} | change))
    with pytest.raises(ValueError, match="D must be one of 32, 64, 128, 256, got 16"):
        decode(query[..., :16], key[..., :16], value[..., :16], keys, values, three)
