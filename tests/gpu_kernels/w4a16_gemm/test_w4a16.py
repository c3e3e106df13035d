"""W4A16: golden cases in exact fractions for groups, NF4 and the kernel for few tokens; wrong orders told apart."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.arithmetic import round_to
from accel.formats import blocks, groups, number
from gpu_kernels.exact_rounding import to_form
from gpu_kernels.w4a16_gemm import exact, model
from tests.gpu_kernels.golden_cases import read, told, told_exact

FOLDER = Path(__file__).parent / "golden"
FORMS = ("float16", "bfloat16")
Case = dict[str, Any]


def activations(draw: Any, tokens: int, size: int, form: str) -> Any:
    """Normal numbers, each tenth of them ten times as large; short ones where there are many."""
    x = draw.normal(size=(tokens, size)) * np.where(draw.random(size) < 0.1, 10, 1)
    return round_to(np.round(x * 4) / 4 if size > 256 else x, form)


def group_case(
    seed: int,
    form: str = "float16",
    real: bool = False,
    shape: tuple[int, int, int] = (2, 3, 32),
    count: int = 2,
    bias: bool = False,
    rank: int = 0,
    spread: float = 0.0,
) -> Case:
    """Tokens, outputs, inputs; `count` groups a row; codes and integer zeros over their whole range."""
    draw = np.random.default_rng(seed)
    tokens, outputs, size = shape
    scale = round_to(draw.uniform(0.01, 0.1, (outputs, count)) * 2.0 ** draw.uniform(-spread, spread), form)
    zero = draw.integers(0, 16, (outputs, count))
    case = {"form": form, "x": activations(draw, tokens, size, form), "codes": draw.integers(0, 16, (outputs, size))}
    case |= {"scale": scale, "zero": groups.scaled_zero(scale, zero, form) if real else zero, "real": str(real)}
    case |= {"bias": round_to(draw.normal(size=(1, outputs)), form) if bias else None}
    branch = {"down": (rank, size), "up": (outputs, rank)}
    return case | {key: round_to(draw.normal(size=s) / 4, form) if rank else None for key, s in branch.items()}


def one(x: Any, codes: Any, scale: float, zero: Any, **rest: Any) -> Case:
    """A token, an output, a group."""
    real = isinstance(zero, float)
    found = {"form": "float16", "x": np.array([x]), "codes": np.array([codes]), "scale": np.array([[scale]])}
    found |= {"zero": np.array([[zero]]), "real": str(real), "bias": None, "down": None, "up": None}
    return found | rest


LARGE = 2.0**15
GROUPS = {
    "integer_zero": group_case(1),
    "integer_zero_bfloat16": group_case(2, "bfloat16"),
    "real_zero": group_case(3, real=True),
    "real_zero_bfloat16": group_case(4, "bfloat16", real=True),
    "one_group": group_case(5, count=1),
    "many_groups": group_case(6, shape=(1, 2, 64), count=8, real=True),
    "bias": group_case(7, bias=True),
    "bias_bfloat16": group_case(8, "bfloat16", bias=True, real=True),
    "branch": group_case(9, rank=3),
    "branch_bfloat16": group_case(10, "bfloat16", rank=5, bias=True),
    "branch_of_17": group_case(11, shape=(1, 2, 32), rank=17, real=True, bias=True),
    "odd_inputs": group_case(12, shape=(2, 2, 21), count=3),
    "long": group_case(13, shape=(1, 2, 160), count=5),
    "wide_scales": group_case(14, spread=8.0),
    "zeros": one([1.0] * 4, [5] * 4, 0.5, 5),
    "weight_rounds": one([1.0], [15], 2047 / 2**17, 2),  # 13 x 2047 needs 15 bits
    "weight_ties": one([1.0], [3], 1 + 2.0**-10, 0),  # 3 + 3 x 2^-10: to even
    "subnormal_weight": one([4096.0, 1.0], [1, 2], 2.0**-24, 0),
    "real_zero_rounds_once": one([1.0], [15], 1185 / 2**14, -5.0546875),  # 15 s rounded first would be another weight
    "cuts_products": one([LARGE, 2.0**-11, -LARGE, 2.0**-11], [1] * 4, 1.0, 0),  # 26 bits below the largest
    "cuts_by_the_sum": one([LARGE, *[0.0] * 15, -LARGE, 2.0**-11, 2.0**-9], [1] * 19, 1.0, 0),
    "bias_cancels": one([3.0], [11], 1 / 3 - 1 / 12288, 1, bias=np.array([[-10.0]])),
    "overflow": one([60000.0] * 2, [2] * 2, 1.0, 1),
    "branch_starts_from_y": one(  # 2^15 - 2^14 - 2^14 + 2^-11: beside 2^15 the tensor core cuts 2^-11 off
        [LARGE], [1], 1.0, 0, down=np.array([[0.5], [0.5], [2.0**-15]]), up=np.array([[-1.0, -1.0, 2.0**-11]])
    ),
}


def nf4_case(
    seed: int, form: str = "float16", shape: tuple[int, int, int] = (2, 2, 64), bias: bool = False, power: int = 0
) -> Case:
    draw = np.random.default_rng(seed)
    tokens, outputs, size = shape
    absmax = (draw.uniform(0.01, 1, (1, outputs * size // 64)) * 2.0**power).astype(np.float32)
    case = {"form": form, "x": activations(draw, tokens, size, form), "codes": draw.integers(0, 16, (outputs, size))}
    return case | {"absmax": absmax, "bias": round_to(draw.normal(size=(1, outputs)), form) if bias else None}


NF4 = {
    **{f"random_{seed}": nf4_case(seed) for seed in range(6)},
    **{f"bfloat16_{seed}": nf4_case(seed, "bfloat16") for seed in range(6, 10)},
    **{f"bias_{form}": nf4_case(10, form, bias=True) for form in FORMS},
    "blocks_over_rows": nf4_case(11, shape=(1, 4, 48)),
    "half_rows": nf4_case(12, shape=(2, 4, 32)),
    "long": nf4_case(13, shape=(1, 2, 192)),
    "large": nf4_case(14, power=12),
    "small": nf4_case(15, power=-20),
    "small_bfloat16": nf4_case(16, "bfloat16", power=-100),
    "zero_blocks": nf4_case(17) | {"absmax": np.zeros((1, 2), np.float32)},
    "ones": nf4_case(18) | {"absmax": np.ones((1, 2), np.float32)},
    **{  # code 1 times this, once rounded to 16 bits, is another number than by way of float32: found by trying
        f"rounds_twice_{form}": nf4_case(19, form, shape=(1, 1, 64))
        | {"x": np.ones((1, 64)), "codes": np.array([[1] + [7] * 63]), "absmax": np.array([[value]], np.float32)}
        for form, value in zip(FORMS, (0.5717831254005432, 0.7546625733375549), strict=True)
    },
}
SMALL = (1, 1, 64)
GEMV = {
    **{f"random_{seed}": group_case(seed, real=seed % 2 > 0, shape=(1, 2, 128)) for seed in range(4)},
    **{f"bfloat16_{seed}": group_case(seed, "bfloat16", real=True, shape=(1, 2, 128)) for seed in range(4, 8)},
    **{f"row_{n}": group_case(8 + n, real=True, shape=(1, n + 1, 64), count=1) for n in range(5)},
    **{f"four_warps_{form}": group_case(13, form, shape=(1, 1, 1024), count=16, real=True) for form in FORMS},
    "eight_tokens": group_case(14, shape=(8, 1, 64), count=1),
    "bias": group_case(15, shape=SMALL, count=1, bias=True),
    "two_rounds": group_case(16, shape=(1, 1, 2112), count=33, real=True),  # more inputs than the block has room for
    "threads_cancel": one([LARGE, 2.0**-7] * 16 + [-LARGE, 2.0**-7] * 16, [1] * 64, 1.0, 0),
    "warps_upwards": one([LARGE, *[0.0] * 255, -LARGE, *[0.0] * 1790, 2.0**-11], [1] * 2048, 1.0, 0)
    | {"scale": np.ones((1, 32)), "zero": np.zeros((1, 32), int)},
    "products_round": one([1 + 2.0**-10] * 64, [3] * 64, 1 + 2.0**-10, 0),
}
KINDS = {"w4a16": GROUPS, "nf4": NF4, "gemv": GEMV}


def vector(c: Case, key: str) -> Any:
    return None if c.get(key) is None else np.asarray(c[key])[0]


def by_twin(kind: str, c: Case) -> Any:
    form, codes, x, bias = c["form"], c["codes"].tolist(), c["x"], vector(c, "bias")
    if kind == "nf4":
        return told_exact(exact.gemm(x, exact.nf4_weights(codes, vector(c, "absmax"), form), bias, form))
    weights = exact.group_weights(codes, c["scale"], c["zero"], c["real"] == "True", form)
    if kind == "gemv":
        return told_exact(exact.gemv(x, weights, bias, form))
    y = exact.gemm(x, weights, bias, form)
    return told_exact(y if c["down"] is None else exact.add_branch(y, x, c["down"], c["up"], form))


def state_of(c: Case) -> dict[str, Any]:
    zero = np.float32 if c.get("real") == "True" else np.uint8
    kinds = {"codes": np.uint8, "scale": np.float32, "zero": zero, "down": np.float32, "up": np.float32}
    state = {key: np.asarray(c[key]).astype(kind) for key, kind in kinds.items() if c.get(key) is not None}
    return state | {key: vector(c, key) for key in ("absmax", "bias") if c.get(key) is not None}


def by_model(kind: str, c: Case) -> Any:
    return (model.gemv if kind == "gemv" else model.linear)(np.float32(c["x"]), state_of(c), c["form"])


@pytest.mark.parametrize("kind", KINDS)
def test_twin_gives_the_golden_cases(kind, golden):
    assert len(KINDS[kind]) >= 20
    found = {n: {key: told(v) for key, v in c.items()} | {"y": by_twin(kind, c)} for n, c in KINDS[kind].items()}
    golden(FOLDER / f"{kind}.json", found)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, cases in KINDS.items() for name in cases])
def test_model_gives_the_golden_cases(kind, name):
    written = read(FOLDER / f"{kind}.json")[name]
    assert np.array_equal(by_model(kind, written), np.array(written["y"]))


def _weights(c: Case, how: str) -> Any:
    """float64, in plain NumPy."""
    form, count = c["form"], c["scale"].shape[1]
    q, s, z = c["codes"].reshape(len(c["codes"]), count, -1), c["scale"][..., None], c["zero"][..., None]
    if how == "zero the other way" or how == "product rounded first":
        z = z if c["real"] == "True" else -(s * z)
        w = round_to(q * s, form) + round_to(z, form)
    else:
        w = q * s + z if c["real"] == "True" else (q - z) * s
    w = w.reshape(c["codes"].shape)
    return w if how == "weights not rounded" else round_to(w, form).astype(float)


def _wrong(c: Case, how: str) -> Any:
    """y in float64 sums, each rounded to the form, with one thing done wrongly."""
    form, bias = c["form"], 0 if c["bias"] is None else c["bias"][0]
    with np.errstate(over="ignore"):
        y = c["x"] @ _weights(c, how).T
        y = (
            round_to(y + bias, form)
            if how == "bias in the sum"
            else round_to(round_to(y, form) + np.float64(bias), form)
        )
        if c["down"] is None:
            return y
        hidden = c["x"] @ c["down"].T
        hidden = hidden if how == "hidden not rounded" else round_to(hidden, form).astype(float)
        added = hidden @ c["up"].T
        return round_to(y.astype(float) + (round_to(added, form) if how == "branch rounded" else added), form)


@pytest.mark.parametrize(
    "how",
    [
        "sums in float64",
        "product rounded first",
        "weights not rounded",
        "bias in the sum",
        "hidden not rounded",
        "branch rounded",
    ],
)
def test_cases_tell_wrong_orders_apart(how):
    """Else a model with that error could pass."""
    written = read(FOLDER / "w4a16.json")
    seen = [name for name, c in written.items() if not np.array_equal(_wrong(c, how), np.array(c["y"]))]
    plain = [n for n, c in written.items() if not np.array_equal(_wrong(c, "sums in float64"), np.array(c["y"]))]
    assert seen if how == "sums in float64" else set(seen) - set(plain)


def test_the_kernel_for_few_tokens_is_another_sum():
    differ = 0
    for seed in range(8):
        c = group_case(seed, real=True, shape=(1, 4, 128))
        differ += not np.array_equal(by_model("gemv", c), by_model("w4a16", c))
    assert differ > 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("real", [False, True])
def test_every_code_and_zero_gives_the_weight_of_the_twin(form, real):
    codes = np.tile(np.arange(16), (16, 1))
    draw = np.random.default_rng(3)
    scale = round_to(draw.uniform(0.001, 1, (16, 1)), form)
    zero = round_to(draw.normal(size=(16, 1)), form) if real else np.arange(16, dtype=np.uint8)[:, None]
    found = model.group_weights(codes, scale, zero, form)
    assert found.tolist() == told_exact(exact.group_weights(codes.tolist(), scale, zero.tolist(), real, form))


@pytest.mark.parametrize("form", FORMS)
def test_quantized_weights_come_near_the_product(form):
    draw = np.random.default_rng(4)
    w, x = draw.normal(size=(24, 256)).astype(np.float32), round_to(draw.normal(size=(6, 256)), form)
    codes, scale, zero = groups.asymmetric(w, 64, form)
    q4, absmax = blocks.nf4_quantize(w)
    for state, step in (
        ({"codes": codes, "scale": scale, "zero": zero}, scale.max() / 2),
        ({"codes": codes, "scale": scale, "zero": groups.scaled_zero(scale, zero, form)}, scale.max() / 2),
        ({"codes": q4, "absmax": absmax}, absmax.max() * 0.152),  # half of the widest gap, -1 to -0.696
    ):
        error = np.abs(model.linear(x, state, form) - x @ w.T)
        assert error.max() < step * np.abs(x).sum(axis=1).max() * 0.3
    assert np.abs(number("nf4").decode(q4)).max() == 1


@given(st.integers(0, 2**32 - 1), st.sampled_from(FORMS), st.integers(-3, 3))
@settings(max_examples=8, deadline=None)
def test_tokens_outputs_and_powers_of_two(seed, form, power):
    """Tokens and outputs do not know each other; x times 2^p gives y times 2^p; a token of zeros gives the bias."""
    draw = np.random.default_rng(seed)
    c = group_case(seed, form, real=bool(seed % 2), shape=(4, 5, 64), count=1)
    for kind in ("w4a16", "gemv"):
        y = by_model(kind, c)
        tokens, outputs = draw.permutation(4), draw.permutation(5)
        part = c | {"x": c["x"][tokens]} | {key: c[key][outputs] for key in ("codes", "scale", "zero")}
        assert np.array_equal(by_model(kind, part), y[tokens][:, outputs])
        assert np.array_equal(by_model(kind, c | {"x": c["x"] * np.float32(2.0**power)}), y * 2.0**power)
        bias = round_to(draw.normal(size=(1, 5)), form)
        zeros = by_model(kind, c | {"x": 0 * c["x"], "bias": bias})
        assert np.array_equal(zeros, np.repeat(bias, 4, axis=0))


def test_overflow_is_infinite_and_a_tie_goes_to_even():
    assert by_model("w4a16", GROUPS["overflow"]) == np.inf
    assert by_model("w4a16", GROUPS["weight_ties"]) == float(to_form(exact.exact(3 * (1 + 2.0**-10)), "float16"))


def test_faults_are_told_with_their_place():
    ok = state_of(group_case(1))
    x = np.zeros((2, 32), np.float32)
    for change, said in (
        ({"codes": np.full((3, 32), 16)}, r"w4a16: codes: must be within 0\.\.15, got 16"),
        ({"zero": np.zeros((3, 1), np.uint8)}, r"w4a16: zero: must be integers of shape \(3, 2\)"),
        ({"zero": np.full((3, 2), 0.1)}, "w4a16: zero: must be float16 values, got 0.1"),
        (
            {"scale": np.ones((3, 5), np.float32)},
            "K must be a multiple of the number of groups, got K = 32, groups = 5",
        ),
        ({"scale": np.ones(3)}, "codes and scale must be matrices"),
        ({"down": np.zeros((2, 32))}, "down and up come together or not at all"),
        ({"down": np.zeros((2, 31)), "up": np.zeros((3, 2))}, r"w4a16: down: must have shape \(2, 32\), got \(2, 31\)"),
        ({"bias": np.zeros(4)}, r"w4a16: bias: must have shape \(3,\), got \(4,\)"),
        ({"zeros": 1}, r"unknown tensor 'zeros' \(nearest: 'zero'\)"),
    ):
        with pytest.raises(ValueError, match=said):
            model.linear(x, ok | change)
    with pytest.raises(ValueError, match="w4a16: x: must be float16 values"):
        model.linear(x + np.float32(0.1), ok)
    with pytest.raises(ValueError, match=r"absmax must have shape \(1.5,\), got \(2,\)"):
        model.linear(x, {"codes": np.zeros((3, 32), np.uint8), "absmax": np.ones(2)})
    with pytest.raises(ValueError, match="gemv: takes at most 8 tokens and groups of 64, got 2 tokens, K = 32 in 2"):
        model.gemv(x, ok)
