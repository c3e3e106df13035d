"""Our order of operations: within its bound of float64, near QServe's; the bound's terms; cases that tell faults."""

import numpy as np
import pytest

from accel import tensor_core
from accel.arithmetic import round_to
from gpu_kernels.kv4_attention import bounds, check, folded, model
from gpu_kernels.kv4_attention.config import BITS


def world(seed: int, tokens: int, bits: int, spread: float = 1.0, middle: float = 0.0) -> list:
    """Operands of `folded.decode` up to the lengths: 2 sequences, 4 query heads for each of 2 kv heads, D = 128."""
    draw = np.random.default_rng(seed)

    def numbers(*shape: int, spread: float = 1.0, middle: float = 0.0) -> np.ndarray:
        return round_to(draw.normal(middle, spread, shape), "float16")

    vectors = [numbers(2, 8, 128, spread=spread), numbers(2, 2, 128), numbers(2, 2, 128)]
    caches = [folded.quantize(numbers(2, 2, tokens, 128, middle=middle), bits) for _ in range(2)]
    return [*vectors, *caches, np.array([tokens, tokens // 2])]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("tokens", "spread", "middle"), [(500, 1, 0), (200, 4, 0), (100, 1, 30), (1, 1, 0), (0, 1, 0)])
def test_within_the_bound_of_float64(bits, tokens, spread, middle):
    given = world(tokens, tokens, bits, spread, middle) if tokens else world(0, 1, bits)
    if not tokens:
        given[-1] = np.array([0, 0])
    output = folded.decode(*given, bits=bits).output.reshape(4, 4, 128)
    for found, head in zip(output, folded.operands(*given, bits=bits)[0], strict=True):
        exact, bound = bounds.folded_bound(head, bits)
        assert (np.abs(found - exact) <= bound).all()
        if middle == 0 and spread == 1:
            assert np.sqrt(((found - exact) ** 2).mean()) < 4e-4 * np.abs(exact).max()


def test_an_empty_cache_gives_the_new_value_or_nothing():
    given = [*world(0, 1, 4)[:5], np.array([0, 0])]
    assert np.array_equal(folded.decode(*given).output, np.repeat(given[2], 4, axis=1))
    heads = folded.without_new(folded.operands(*given)[0])
    assert not folded.outputs(heads, 4).any()
    assert not bounds.folded_bound(heads[0], 4)[1].any()


@pytest.mark.parametrize(("spread", "most"), [(1.0, 2e-3), (3.0, 4e-3)])
def test_near_the_order_of_qserve(spread, most):
    given = world(7, 600, 4, spread)
    ours, theirs = folded.decode(*given), model.decode(*given)
    assert np.array_equal(ours.key.codes, theirs.key.codes)
    off = np.sqrt(((ours.output - theirs.output) ** 2).mean() / (theirs.output**2).mean())
    assert 1e-4 < off < most


def test_nearer_to_float64_than_the_order_of_qserve():
    given = world(8, 600, 4, 3.0)
    heads = folded.operands(*given)[0]
    exact = np.stack([bounds.exact(head)[1] for head in heads])
    ours, theirs = (m.decode(*given).output.reshape(exact.shape) for m in (folded, model))
    assert np.abs(ours - exact).mean() < 0.5 * np.abs(theirs - exact).mean()


def test_kept_tokens_are_a_cache_of_their_own():
    given = world(9, 90, 4)
    own = np.flatnonzero(np.random.default_rng(1).random(45) < 0.5)
    pruned = folded.decode(*given, kept=[[own] * 2] * 2)
    compact = [type(c)(*(x[:, :, own] for x in c)) for c in given[3:5]]
    again = folded.decode(*given[:3], *compact, np.array([len(own)] * 2))
    assert np.array_equal(pruned.output, again.output)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_86", "sm_89", "sm_90"])
@pytest.mark.parametrize("bias", [64, -8, 1024])
def test_the_tensor_core_cuts_less_than_the_bound_says(architecture, bias):
    """Adversarial: one sign, the largest codes; `CUT` for a product of depth 16, D / 16 of them in a row."""
    draw = np.random.default_rng(bias + 2000)
    a = (draw.integers(0, 16, (64, 128)) + bias).astype(np.float32)
    q = round_to(draw.normal(0, 1, (64, 128)), "float16")
    q[:32] = np.abs(q[:32])
    found = tensor_core.matmul(a, q, None, tensor_core.rule(architecture, "float16"))
    sizes = np.abs(a).astype(np.float64) @ np.abs(q).T.astype(np.float64)
    off = np.abs(found - a.astype(np.float64) @ q.T.astype(np.float64)) / sizes
    assert off.max() <= 128 / 16 * bounds.CUT
    assert off.max() > 1e-3 * 128 / 16 * bounds.CUT  # the bound is not empty


@pytest.mark.parametrize("case", check.CASES, ids=lambda case: case.name)
def test_every_case_is_right_by_the_model(case):
    expected = check.expected(case)
    assert check.fault(case, expected, expected) == ""
    assert sum(x.nbytes for x in expected.values()) < 4 << 20


def named(name: str) -> check.Case:
    return next(case for case in check.CASES if case.name == name)


@pytest.mark.parametrize("name", ["kv4 normal", "kv8 rising", "kv16 peaked", "attend kv4 200"])
def test_cases_tell_what_goes_wrong(name):
    """A byte of the cache, an output off, one that was not written."""
    case = named(name)
    right = check.expected(case)
    for at in (0, right["cache"].size // 2):
        wrong = right["cache"].copy()
        wrong.ravel()[at] ^= 1
        assert check.fault(case, right, right | {"cache": wrong}).startswith("cache: 1 of")
    for value in (np.float16(np.nan), right["output"].max() * np.float16(1.5)):
        wrong = right["output"].copy()
        wrong[1, 2, 3] = value
        assert check.fault(case, right, right | {"output": wrong}).startswith("output: at [1, 2, 3]")


@pytest.mark.parametrize("name", ["kv4 normal", "kept kv4 0.6", "size 64 heads 8 of 2"])
def test_cases_tell_a_token_too_many_or_a_wrong_head(name):
    case = next(c for c in check.CASES if c.name.endswith(name))
    right, w = check.expected(case), check.world(case)
    heads = check._heads(case, w)
    shorter = [h._replace(keys=tuple(x[:-1] for x in h.keys), values=tuple(x[:-1] for x in h.values)) for h in heads]
    turned = [h._replace(query=h.query[::-1]) for h in heads]
    for wrong in (shorter, turned):
        output = folded.outputs(wrong, case.bits).reshape(right["output"].shape).astype(np.float16)
        assert check.fault(case, right, right | {"output": output}).startswith("output: at")


def test_cases_cover_every_mode_format_and_way():
    assert {(case.mode, case.bits) for case in check.CASES} >= {(m, b) for m in ("decode", "append") for b in BITS}
    assert {case.tile[4] for case in check.CASES if len(case.tile) > 4} == {2, 4, 8}
    assert len({case.name for case in check.CASES}) == len(check.CASES) == len({case.seed for case in check.CASES})


def test_the_cache_of_a_case_holds_what_the_twin_of_the_layout_reads():
    """What no token has written is 0xFF; what one has is its quantized vector."""
    from gpu_kernels.kv4_attention.packing import unpack

    case = named("longest 65")
    w, cache = check.world(case), check.expected(case)["cache"]
    keys, values = unpack(cache, case.size, case.bits)
    page, slot = divmod(int(w.lengths[0]), 64)
    new = folded.quantize(w.value, case.bits)
    assert np.array_equal(values.codes[w.table[0, page], :, slot], new.codes[0])
    assert (values.codes[w.table[0, page], :, slot + 1 :] == 15).all()
    assert np.isnan(keys.scale[w.table[0, page], :, slot + 1 :]).all()
