"""Fitting products of libraries: numbers that made the times come back; names of kernels; which points may be used."""

import numpy as np
import pytest

from accel.machine import load_machine
from analysis.gpu.fit_gemm import Family, Vectors, cross_validated, fit_gemm, folds, told
from analysis.gpu.fit_library import FEW, family_of, fitted
from analysis.gpu.library_tiles import Ran, tile_of
from dataflow.gpu.gemm import gemm
from dataflow.gpu.tiles import Candidates

M, N, K = (axis.ravel() for axis in np.meshgrid([1, 16, 128, 512, 2048, 4096], [1024, 4096, 8192], [2048, 8192]))
FAMILY = Family(tiles=((64, 64), (128, 256)), parts=(1,), steady=True)


def made(family: Family = FAMILY):
    """(section, microseconds) of a library that the model describes exactly."""
    vectors = Vectors(family)
    off = np.random.default_rng(1).normal(0, 0.5, len(vectors.centre)) * vectors.spread
    section = vectors.section(vectors.centre + off)
    return section, gemm(load_machine("h200"), section, "bf16", M, N, K).seconds * 1e6


def test_times_that_the_model_made_are_found_again():
    _, us = made()
    found = fit_gemm(load_machine("h200"), "bf16", M, N, K, us, family=FAMILY, starts=1, steps=60)
    again = gemm(load_machine("h200"), found, "bf16", M, N, K).seconds * 1e6
    assert np.abs(again / us - 1).mean() < 0.02


def test_too_few_points_and_unknown_libraries_are_refused():
    machine = load_machine("h200")
    with pytest.raises(ValueError, match=r"needs 1\d points or more, got 2"):
        fit_gemm(machine, "bf16", [1, 2], 1024, 1024, [5.0, 5.0], family=FAMILY)
    with pytest.raises(ValueError, match="no tiles of a library known for sm_61"):
        fit_gemm(load_machine("titan_xp_gpu"), "fp16", [1, 2], 1024, 1024, [5.0, 5.0])


@pytest.mark.parametrize(
    ("name", "ran"),
    [
        ("nvjet_sm90_tst_64x8_64x16_4x1_v_bz_TNT", Ran(8, 64, False)),
        ("nvjet_sm90_tst_192x8_64x8_4x1_v_bz_splitK_TNT", Ran(8, 192, True)),
        ("nvjet_sm90_qqtst_128x128_128x6_1x1_h_bz_coopA_algo2_ovscale_TNT", Ran(128, 128, False)),
        ("Kernel2<cutlass_80_tensorop_i16832gemm_s8_128x64_128x3_tn_align16>", Ran(64, 128, False)),
        ("sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize64x256x8_stage3_ffma", Ran(256, 64, False)),
        ("Memset(Device)", None),
    ],
)
def test_kernels_tell_their_tiles_columns_first(name, ran):
    assert tile_of(["Memset(Device)", name]) == ran


def test_a_known_tile_excludes_others_and_an_unknown_one_none():
    section, _ = made()
    one = Candidates.of(section)
    possible = told(one, [Ran(128, 256, False), None, Ran(7, 7, False)], 3)
    assert possible.tolist() == [[False, True], [True, True], [True, True]]


def test_few_tiles_are_told_apart_and_many_follow_a_law():
    few = family_of("int8", [Ran(64, 64, False), None, Ran(128, 256, False)])
    assert (few.tiles, few.parts, few.single, few.least_rows) == (((64, 64), (128, 256)), (1,), True, 32)
    assert not family_of("bf16", [Ran(8 * one, 64, True) for one in range(1, FEW + 2)]).single


def test_folds_leave_out_whole_pairs_and_whole_rows():
    for fold in folds(M, N, K):
        kept = ~fold
        pairs = {(n, k) for n, k in zip(N[kept], K[kept], strict=True)}
        rows = set(M[kept].tolist())
        assert all((m in rows and (n, k) in pairs) <= yes for m, n, k, yes in zip(M, N, K, kept, strict=True))
    left_out = folds(M, N, K)
    assert cross_validated(lambda kept: kept.astype(float), left_out).sum() == 0


def test_a_record_without_held_out_points_is_refused():
    row = {"part": "gemm_bf16", "m": 1, "n": 8, "k": 8, "us": 3.0, "held_out": False, "kernel": []}
    with pytest.raises(ValueError, match="1 points to fit and 0 held out"):
        fitted(load_machine("h200"), [row], "bf16")
