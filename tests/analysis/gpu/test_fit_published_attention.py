import pytest

from accel.gpu.loading import load_fit
from accel.machine import load_machine
from analysis.gpu.fit_attention import judged
from analysis.gpu.fit_published_attention import fit_fa3, points
from dataflow.gpu.attention import prefill_attention

pytest.importorskip("scipy")
H100, FIT = load_machine("h100_sxm"), load_fit("h200").attention


def rows(slower: float) -> list[dict[str, str]]:
    """What the shipped fit says of FlashAttention 3, so many times slower."""
    found = []
    for length in (512, 1024, 2048, 4096, 8192):
        for causal in (False, True):
            for heads, size in ((32, 64), (16, 128)):
                batch = 16384 // length
                made = prefill_attention(H100, FIT, batch, heads, heads, length, length, size, causal, "fa3")
                work = 4 * batch * heads * length**2 * size / (2 if causal else 1)
                shape = {"batch": batch, "heads": heads, "seq_q": length, "seq_kv": length, "head_dim": size}
                value = work / made.seconds[0] / 1e12 / slower
                row = {"causal": str(int(causal)), "value": f"{value:.1f}", "kernel": "attention_fwd:FA3"}
                found.append({name: str(number) for name, number in shape.items()} | row)
    return found


def test_every_second_length_is_held_out() -> None:
    full, causal = points(H100, rows(1.0))
    assert len(full.seconds) == len(causal.seconds) == 10
    assert sorted(set(full.held_out.nonzero()[0].tolist())) == [2, 3, 6, 7]


@pytest.mark.parametrize("slower", [1.0, 1.1])
def test_lengths_that_were_held_out_are_predicted(slower: float) -> None:
    found = points(H100, rows(slower))
    assert judged(found, fit_fa3(found, FIT))["prefill_fa3"].mean < 0.02
