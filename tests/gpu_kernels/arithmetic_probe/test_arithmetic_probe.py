"""The recorded probe of an H200: made by these sources, replayed by our rules, and what it says told apart."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.tensor_core import matmul, rule
from gpu_kernels.arithmetic_probe import replay, scalars
from gpu_kernels.arithmetic_probe.__main__ import main
from gpu_kernels.arithmetic_probe.facts import facts
from gpu_kernels.arithmetic_probe.instructions import PRODUCTS, SCALARS
from gpu_kernels.arithmetic_probe.operands import operands, suites, values
from gpu_kernels.arithmetic_probe.record import NUMBERS, SEED, STEPS, TILES, digest, read, source_hashes

FILE = Path(replay.__file__).parents[1] / "results" / "arithmetic_probe_h200.json"
RECORD = read(FILE)
FLOATS = [name for name, one in PRODUCTS.items() if one.operand != "int8"]


def test_it_was_made_by_these_sources() -> None:
    assert RECORD["sources"] == source_hashes(), "the probe has changed: run it again on the device"


def test_it_holds_every_instruction_and_suite_and_nothing_was_wrong() -> None:
    wanted = {(name, suite) for name, one in PRODUCTS.items() for suite in suites(one.operand)}
    assert {(row["instruction"], row["suite"]) for row in RECORD["products"]} == wanted
    assert {row["instruction"] for row in RECORD["scalars"]} == set(SCALARS) - set(scalars.APPROXIMATE)
    assert [
        row for row in (*RECORD["products"], *RECORD["scalars"]) if row["wrong"] or row["checked"] < 1_000_000
    ] == []


@pytest.mark.parametrize("row", RECORD["products"], ids=lambda row: f"{row['instruction']}-{row['suite']}")
def test_products_replay_bit_for_bit(row: dict[str, Any]) -> None:
    given = operands(PRODUCTS[row["instruction"]], row["suite"], TILES, STEPS, SEED)
    assert digest(*given) == row["operands"], "NumPy draws other operands"
    assert digest(replay.products(row["instruction"], *given, "sm_90")) == row["results"]


@pytest.mark.parametrize("row", RECORD["scalars"], ids=lambda row: row["instruction"])
def test_scalars_replay_bit_for_bit(row: dict[str, Any]) -> None:
    given = scalars.operands(row["instruction"], NUMBERS, SEED)
    assert digest(*given) == row["operands"], "NumPy draws other operands"
    assert digest(scalars.expected(row["instruction"], *given)) == row["results"]


@pytest.mark.parametrize("name", FLOATS)
def test_our_rules_answer_the_directed_questions_alike(name: str) -> None:
    def run(a: Any, b: Any, c: Any) -> Any:
        return replay.products(name, a, b, c, "sm_90")

    assert facts(run, PRODUCTS[name]) == RECORD["facts"][name]


@pytest.mark.parametrize("change", [{"width": 8}, {"fraction_bits": 24}, {"fraction_bits": 26}, {"result_bits": 22}])
def test_another_rule_gives_other_bits(change: dict[str, int]) -> None:
    """Otherwise the replay would prove nothing."""
    a, b, c = operands(PRODUCTS["mma_float16"], "cancelling", 1, STEPS, SEED)
    tile = values("float16", a[0]), values("float16", b[0]), values("float32", c[0])
    known = rule("sm_90", "float16")
    assert (matmul(*tile, replace(known, **change)) != matmul(*tile, known)).any()


def test_a_chain_of_fmas_and_an_exact_sum_give_other_bits() -> None:
    a, b, c = operands(PRODUCTS["mma_float16"], "plain", 1, STEPS, SEED)
    x, y, z = values("float16", a[0]), values("float16", b[0]), values("float32", c[0])
    found = matmul(x, y, z, rule("sm_90", "float16"))
    exact = (z.astype(np.float64) + x.astype(np.float64) @ y.T.astype(np.float64)).astype(np.float32)
    assert (found != exact).any()
    assert np.abs(found - exact).max() < 1e-4


@pytest.mark.parametrize("architecture", ["sm_80", "sm_86", "sm_89", "sm_90a"])
def test_it_compiles(architecture: str) -> None:
    pytest.importorskip("cuda.core")
    from gpu_kernels.arithmetic_probe.device import compile_kernels

    code = compile_kernels(architecture).code
    assert (b"wgmma_e4m3" in code) == (architecture == "sm_90a")
    assert (b"mma_e5m2" in code) == (architecture >= "sm_89")
    assert b"fma_bfloat16x2" in code


def test_show_prints_every_instruction(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--show", str(FILE)]) == 0
    shown = capsys.readouterr().out
    assert all(f"| {name} |" in shown for name in (*PRODUCTS, *SCALARS))


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="not a record of the arithmetic probe"):
        read(tmp_path / "other.json")
