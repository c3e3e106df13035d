"""Golden cases of W4A16: groups, NF4, and the kernel for few tokens."""

from typing import Any

import numpy as np

from accel.arithmetic import round_to
from accel.formats import groups

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
