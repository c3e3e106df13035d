"""Which points are held out: whole pairs and whole values of M, and no shape on both sides."""

import numpy as np

from analysis.gpu.held_out import calibrates, held_out

M, N, K = (axis.ravel() for axis in np.meshgrid([1, 8, 64, 512], [16, 32, 48], [128]))


def test_every_second_pair_and_every_second_row_count():
    fitted = {(m, n) for m, n, yes in zip(M, N, calibrates(M, N, K), strict=True) if yes}
    assert fitted == {(1, 16), (64, 16), (1, 48), (64, 48)}


def test_no_shape_is_on_both_sides_even_where_it_was_measured_twice():
    m, n, k = (np.concatenate([axis, axis]) for axis in (M, N, K))
    fitted, judges = calibrates(m, n, k), held_out(m, n, k)
    assert fitted.sum() == 4
    assert judges.sum() == 2 * (12 - 4)
    assert not (fitted & judges).any()
