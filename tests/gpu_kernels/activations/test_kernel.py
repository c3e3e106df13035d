"""The CUDA kernel without a GPU: it compiles for what it claims, shapes cover rows, cases are adversarial."""

import re

import numpy as np
import pytest

from gpu_kernels import runtime
from gpu_kernels.activations import check
from gpu_kernels.activations.config import MOST, TREE, Shape, choose, macros, shape_for
from gpu_kernels.activations.model import FURTHEST, MINUS_LOG2_E, POWER, SHIFT

SOURCE = "activations/kernel.cu"


@pytest.mark.parametrize("architecture", runtime.ARCHITECTURES)
@pytest.mark.parametrize("mode", ["plain", "norm", "gate"])
def test_it_compiles(architecture, mode):
    clusters = architecture >= "sm_90"
    for float16, extra in ((True, False), (False, True)):
        shape = choose(mode, 2, 14336, 132, clusters)
        chosen = macros(mode, shape, float16, extra and mode == "norm", extra)
        assert bytes(runtime.compile_cubin(SOURCE, architecture, chosen).code)[:4] == b"\x7fELF"


def test_the_text_has_the_constants_of_the_model():
    text = runtime.source(SOURCE)
    written = re.findall(r"(?:\(f, p, |float p = )([0-9.e-]+)f", text)
    assert [np.float32(number) for number in written] == POWER[::-1].tolist()
    for name, value in (("SHIFT", SHIFT), ("FURTHEST", FURTHEST), ("MINUS_LOG2_E", MINUS_LOG2_E)):
        assert np.float32(re.search(rf"#define {name} (-?[0-9.]+)f", text)[1]) == value


@pytest.mark.parametrize("mode", ["plain", "norm", "gate"])
def test_shapes_cover_every_row(mode):
    for tokens in (1, 2, 16, 17, 33, 64, 128, 4096):
        for channels in (8, 128, 2048, 2056, 4096, 11008, 14336, 28672, MOST):
            for clusters in (False, True):
                shape = choose(mode, tokens, channels, 132, clusters)
                assert shape.channels >= channels
                assert shape.threads <= 1024
                assert shape.cluster in ((1, 2, 4, 8) if clusters else (1,))
                assert TREE // shape.cluster % 32 == 0


def test_a_thread_has_no_more_than_it_must():
    assert shape_for(14336, 1, 8) == Shape(8, 7, 1)
    assert shape_for(14336, 2) == Shape(1, 4, 2)
    assert shape_for(4096, 4) == Shape(1, 1, 2)
    assert shape_for(MOST, 1) == Shape(1, 4, 8)


def test_cases_tell_what_goes_wrong():
    """A wrong code, a missing sum, another dtype; NaN has one pattern."""
    case = next(c for c in check.CASES if c.name == "residual float16")
    right = check.expected(case)
    assert check.fault(case, right, right) == ""
    for name, part in right.items():
        wrong = part.copy()
        wrong.ravel()[1] += 1
        assert check.fault(case, right, right | {name: wrong}).startswith(f"{name}: 1 of")
        assert check.fault(case, right, right | {name: part.astype(np.int64)}).startswith(f"{name}: must be")
    assert check.bits16([np.nan, -np.nan, -0.0], "bfloat16").tolist() == [0x7FFF, 0x7FFF, 0x8000]
    assert check.bits16([np.inf, 1.0], "float16").tolist() == [0x7C00, 0x3C00]


def test_cases_are_what_they_say():
    names = [case.name for case in check.CASES]
    assert len(set(names)) == len(names)
    assert len({case.seed for case in check.CASES}) == len(names)
    edges = check.operands(next(c for c in check.CASES if c.name == "plain float16 edges"))["x"]
    assert {0.0, 2.0**-24, 65504.0} <= set(np.abs(edges).ravel().tolist())
    tiny = check.operands(next(c for c in check.CASES if c.name == "plain bfloat16 subnormal"))["x"]
    assert np.abs(tiny).max() < 2.0**-120
