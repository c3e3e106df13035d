"""Keep counts of a policy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.policy import Policy
from workloads.schedule import keep_counts, keep_shares, keep_thresholds, keep_top

SHARE = st.floats(0.01, 1)


def test_a_dense_policy_keeps_all():
    tokens, heads = keep_counts(Policy(), 12, 384, 12)
    assert tokens.tolist() == [384] * 12
    assert heads.tolist() == [12] * 12


def test_bert_base_by_hand():
    # 15 % of 12 layers: 2 layers stay whole; then a line from 0.75 to 0.25 over 10 layers
    tokens, heads = keep_counts(Policy(token_keep=0.5, head_keep=0.75), 12, 90, 12)
    assert tokens.tolist() == [90, 90, 68, 63, 58, 53, 48, 43, 38, 33, 28, 23]
    # 30 %: 4 layers stay whole; then a line from 0.825 to 0.675 over 8 layers
    assert heads.tolist() == [12, 12, 12, 12, 10, 10, 10, 10, 9, 9, 9, 9]


@given(keep=SHARE, front=st.floats(0, 0.9), taper=st.floats(0, 0.99), layers=st.integers(1, 40))
def test_the_line_has_the_mean_that_was_asked_for(keep, front, taper, layers):
    shares = keep_shares("token_keep", keep, front, taper, layers)
    assert len(shares) == layers
    whole = int(np.ceil(front * layers - 1e-9))
    assert (shares[:whole] == 1).all()
    if whole < layers:
        assert shares[whole:].mean() == pytest.approx(keep)
    assert (np.diff(shares) <= 1e-12).all()
    assert 0 < shares.min() <= shares.max() <= 1 + 1e-12


@given(shares=st.lists(SHARE, min_size=1, max_size=9), tokens=st.integers(1, 300), heads=st.integers(1, 16))
def test_counts_never_rise_and_stay_in_range(shares, tokens, heads):
    for counts, most in zip(
        keep_counts(Policy(token_keep=shares, head_keep=shares), len(shares), tokens, heads),
        (tokens, heads),
        strict=True,
    ):
        assert (np.diff(counts) <= 0).all()
        assert 1 <= counts.min() <= counts[0] == most


def test_a_whole_product_is_not_rounded_up():
    # 0.07 * 100 is 7.000000000000001 in float64
    assert keep_counts(Policy(token_keep=(1.0, 0.07)), 2, 100, 1)[0].tolist() == [100, 7]


def test_shares_for_another_number_of_layers_are_refused():
    with pytest.raises(ValueError, match=r"policy.head_keep: must have one share per layer \(3\), got 2"):
        keep_counts(Policy(head_keep=(1.0, 0.5)), 3, 8, 8)


def test_the_lowest_index_wins_a_tie():
    score = np.array([1.0, 3.0, 2.0, 2.0, 2.0])
    assert keep_top(score, np.array([0, 2, 3, 4]), 2).tolist() == [2, 3]
    assert keep_top(score, np.array([0, 2, 3, 4, 1]), 2).tolist() == [2, 1]  # the order of `alive` stays
    steps = np.tile([0.0, 1.0, 2.0], 500)
    assert keep_top(steps, np.arange(1500), 700).tolist() == sorted([*range(2, 1500, 3), *range(1, 600, 3)])


def test_released_schedules_have_the_kept_keys_of_the_released_traces():
    # over 1024 tokens the traces round down
    shares = Policy(token_keep="released_gpt2_small").token_keep
    assert [int(share * 1024) for share in shares] == [921, 716, *[204] * 4, *[102] * 6]
    shares = Policy(token_keep="released_gpt2_medium").token_keep
    assert [int(share * 1024) for share in shares] == [1024, 1024, 921, 819, 819, *[614] * 6, *[307] * 13]
    heads = keep_counts(Policy(head_keep="released_gpt2_medium_heads"), 24, 1024, 16)[1]
    assert heads.tolist() == [*[16] * 16, *[13] * 6, *[10] * 2]


def test_an_unknown_schedule_is_told_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'released_gpt2_small'"):
        Policy(token_keep="released_gpt_small")


def test_a_later_step_prunes_the_first_layer_too():
    policy = Policy(token_keep="released_gpt2_small")
    assert keep_counts(policy, 12, 1000, 12)[0][0] == 1000
    assert keep_counts(policy, 12, 1000, 12, scored=True)[0][0] == 900


def test_counts_rise_with_readmission_only():
    shares = (1.0, 0.2, 0.6)
    assert keep_counts(Policy(token_keep=shares), 3, 10, 1)[0].tolist() == [10, 2, 2]
    assert keep_counts(Policy(token_keep=shares, readmit=True), 3, 10, 1)[0].tolist() == [10, 2, 6]


def test_thresholds_rise_from_zero_in_front_to_the_value_in_the_last_layer():
    assert keep_thresholds(Policy(token_threshold=0.12, token_front=0.3), 6) == pytest.approx(
        [0, 0, 0.03, 0.06, 0.09, 0.12]
    )
    assert not keep_thresholds(Policy(), 6).any()


@pytest.mark.parametrize("beside", [{"token_keep": 0.5}, {"readmit": True}])
def test_a_threshold_stands_alone(beside):
    with pytest.raises(ValueError, match="token_threshold"):
        Policy(token_threshold=0.1, **beside)
