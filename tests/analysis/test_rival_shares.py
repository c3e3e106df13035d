"""Shares that A3's search and MNNFast's threshold leave of one query."""

import numpy as np
import pytest

from analysis.rival_shares import shares


def test_one_dominant_key_is_all_that_is_left() -> None:
    """Of 16 keys, the planted one holds all probability; the iterations of either search reach it."""
    rng = np.random.default_rng(1)
    query, key = rng.normal(size=8), rng.normal(size=(16, 8))
    key[5] = 4 * query
    found = shares(query, key)
    assert found["A3 M = n/2: probability of candidates"] == pytest.approx(1, abs=1e-6)
    assert found["A3 M = n/8: candidates / keys"] <= 2 / 16
    assert found["MNNFast 0.1: V above it"] == found["MNNFast 0.01: V above it"] == 1 / 16
    assert found["A3 T = 5 %: kept / candidates"] <= 1


def test_no_candidate_leaves_nothing_to_post_score() -> None:
    found = shares(np.ones(2), -np.ones((16, 2)))
    assert found["A3 M = n/2: candidates / keys"] == 0
    assert "A3 T = 5 %: kept / candidates" not in found
