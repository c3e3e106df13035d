"""The study of QoQ on a decoder: rows, what they are measured against, kernels, order of plain schemes."""

from math import isnan
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from analysis.quality.decoder import OFF, Setup, all_rows, chosen_rows, decoder_quality, window_bits  # noqa: E402
from analysis.quality.records import FOLDER, read_rows  # noqa: E402
from workloads.decoder import DecoderShape, bits_per_byte, build_decoder, heldout_text, load_decoder  # noqa: E402


def test_calibration_and_scored_text_are_apart() -> None:
    text = bytes(range(100)) * 2 + bytes(range(100, 200)) * 2
    calibration, scored = Setup(windows=5, length=30, calibration=3).cut(text)
    assert calibration.shape == (3, 31)
    assert scored.shape == (5, 31)
    assert calibration.max() < 100 <= scored.min()


def test_rows_bring_what_they_are_measured_against() -> None:
    rows = all_rows()
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    for place, row in enumerate(rows):
        assert row.against in ["16-bit", *names[:place]], row.name
    assert [row.name for row in chosen_rows(["+ clipping", "cache"])][-2:] == ["+ rotation", "+ clipping"]
    with pytest.raises(ValueError, match=r"none is called 'KV5'; parts: cache, baseline"):
        chosen_rows(["KV5"])


def test_each_step_of_the_chain_changes_one_thing() -> None:
    """But for the last ones, which switch to groups and end with the whole recipe."""
    rows = {row.name: row for row in all_rows()}
    before = OFF
    for row in (row for row in rows.values() if row.part == "steps"):
        options = {**OFF, **row.options}
        if row.name.startswith("+") and row.name != "+ progressive groups":
            assert sum(before.get(name) != options[name] for name in OFF) == 1, row.name
        before = options
    whole = rows["QoQ g128"].options
    assert not set(whole) & set(OFF)  # all switches as they are by default: on
    assert all(set(row.options) & set(OFF) for row in rows.values() if row.part == "left out")


def test_window_bits_are_bits_per_byte() -> None:
    decoder = load_decoder()
    text = heldout_text()[1000:1257]
    (found,) = window_bits(decoder, torch.tensor(list(text))[None])
    assert found == pytest.approx(bits_per_byte(decoder, text, 300, 100), rel=1e-6)


def test_plain_schemes_on_the_shipped_decoder() -> None:
    """8 bits in the cache cost next to nothing, 4 bits little, 4-bit weights by row more."""
    found = list(decoder_quality(load_decoder(), heldout_text(), Setup(3, 96, 1), chosen_rows(["KV?", "naive W4A8"])))
    more = {row["name"]: row["more_bits"] for row in found}
    assert abs(more["KV8"]) < 0.01
    assert 0.01 < more["KV4"] < more["naive W4A8"] < 0.5
    assert np.isfinite([row["perplexity"] for row in found]).all()


def test_rows_of_a_small_decoder() -> None:
    """Seconds instead of minutes; the kernels' arithmetic differs from fake quantization by 16-bit roundings alone."""
    torch.manual_seed(0)
    decoder = build_decoder(DecoderShape(1, 128, 4, 2, 32, 128, 64)).requires_grad_(False)
    for weight in decoder.parameters():
        weight.data *= 3 if weight.dim() > 1 else 1
    found = {}
    rows = chosen_rows(["KV4", "naive W4A8", "*kernel's arithmetic"])
    for row in decoder_quality(decoder, bytes(range(256)) * 3, Setup(3, 48, 2), rows):
        found[row["part"], row["name"]] = row
    for whole in ("QoQ per channel", "QoQ g128"):
        row = found["kernel", f"{whole}, kernel's arithmetic"]
        assert row["against"] == whole
        assert 0 < abs(row["step"]) < 0.01
    dense = found["dense", "16-bit"]
    assert dense["more_bits"] == 0
    assert isnan(dense["step"])
    assert found["cache", "KV4"]["more_bits"] != 0
    order = found["order", "QoQ g128"]
    apart = found["steps", "QoQ g128"]["bits_per_byte"] - found["baseline", "naive W4A8"]["bits_per_byte"]
    assert order["against"] == "naive W4A8"
    assert order["step"] == pytest.approx(apart)
    assert order["step_low"] <= order["step"] <= order["step_high"]


def test_the_page_shows_the_recorded_rows() -> None:
    page = (Path(__file__).parents[2] / "docs" / "qoq.md").read_text(encoding="utf-8")
    recorded = read_rows(FOLDER / "decoder.csv")
    assert {row["name"] for row in recorded} == {"16-bit", *(row.name for row in all_rows())}
    for row in recorded:
        cells = [row["name"], f"{float(row['bits_per_byte']):.4f}"]
        if row["against"]:
            ends = f"({float(row['step_low']):+.4f} to {float(row['step_high']):+.4f})"
            cells.append(f"{float(row['step']):+.4f} {ends} {row['effect']}")
        assert any(all(cell in line for cell in cells) for line in page.splitlines()), cells
