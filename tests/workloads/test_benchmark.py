"""The thirty benchmark files and the work that they imply."""

import math
import re

import numpy as np
import pytest

from accel.fault import Faults
from accel.machine import load_machine
from dataflow.simulate import simulate
from workloads.benchmarks import length_ranges, read_benchmark, sampled_work
from workloads.policy import Policy
from workloads.replay import attention_work
from workloads.schedule import keep_shares
from workloads.trace import BENCHMARKS, benchmark_names, load_workload, workload_names
from workloads.trace_file import read_trace, write_trace

NAMES = benchmark_names()
BERT = [name for name in NAMES if name.startswith("bert")]
GPT2 = [name for name in NAMES if name.startswith("gpt2")]
NUMBER = re.compile(r":\s*(\{.*\}|\[[\d., ]+\]|[-+]?[\d_.]+)\s*(#.*)?$")
SHORT = """name: short
source: a test
model: {layers: 3, heads: 2, head_size: 64, hidden: 128, intermediate: 512}
kind: generation
prompt: 8
steps: 3
policy:
  token_keep: [1.0, 0.5, 0.25]
  head_keep: [1.0, 1.0, 0.5]
  value_keep: 0.5
  key_msb_bits: 6
  key_lsb_bits: 4
lsb_rate: [0.5, 0.0, 0.0]
"""


def write(folder, text):
    path = folder / "short.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def short(tmp_path):
    return load_workload(write(tmp_path, SHORT))


def nominal_cuts(name):
    """K and V cut, and head cut, that the policy of a file states: means over the layers (and steps)."""
    benchmark = read_benchmark(BENCHMARKS / f"{name}.yaml")
    policy, layers = benchmark.policy, benchmark.model.layers
    tokens = keep_shares("token_keep", policy.token_keep, policy.token_front, policy.token_taper, layers).mean()
    heads = keep_shares("head_keep", policy.head_keep, policy.head_front, policy.head_taper, layers).mean()
    if benchmark.steps:  # step 0 keeps all keys
        tokens = (1 + (benchmark.steps - 1) * tokens) / benchmark.steps
    return 2 / (tokens * (1 + policy.value_keep)), 1 / heads


def counted_cuts(name):
    """K, V and head cut of the work: vectors of all heads and layers, over those fetched."""
    trace = load_workload(name)
    (work,) = attention_work(trace, None)
    lengths = work.length[np.unique(work.step, return_index=True)[1]]
    dense = int(lengths.sum()) * trace.model["layers"] * trace.model["heads"]
    values = work.values if trace.made["phase"] == "generation" else work.keys
    rows = trace.model["layers"] * trace.model["heads"] * len(lengths)
    return dense / work.keys.sum(), dense / values.sum(), rows / work.rows


def geometric_mean(values):
    return math.exp(np.mean(np.log(list(values))))


def test_there_are_thirty():
    models = {"bert_base": 11, "bert_large": 11, "gpt2_small": 4, "gpt2_medium": 4}
    assert len(NAMES) == 30
    assert {model: sum(name.startswith(model) for name in NAMES) for model in models} == models


@pytest.mark.parametrize("name", NAMES)
def test_a_file_loads_and_says_where_each_number_comes_from(name):
    path = BENCHMARKS / f"{name}.yaml"
    trace = load_workload(name)
    assert trace.name == trace.model["name"] == name
    assert len(trace.operators["step"]) > 0
    for line in path.read_text().splitlines():
        found = NUMBER.search(line)
        assert not found or (found[2] and len(found[2]) > 9), line
    tokens = trace.made["tokens"]
    assert ("tokens" in length_ranges(path)) == (tokens is not None)
    low, high = length_ranges(path).get("tokens", (0, 0))
    assert not tokens or low <= tokens <= high


def test_the_cuts_are_the_published_averages():
    bert, gpt2 = ([nominal_cuts(name) for name in names] for names in (BERT, GPT2))
    assert geometric_mean(tokens for tokens, _ in bert) == pytest.approx(1.48, abs=0.005)
    # the 6.04 and 3.10 of the two released files are among them; 3.10 counts pruned heads too (1.085)
    medium = {"gpt2_medium_wikitext2": 1.085}
    named = [nominal_cuts(name)[0] * medium.get(name, 1.0) for name in GPT2]
    assert geometric_mean(named) == pytest.approx(3.8, abs=0.03)
    assert geometric_mean([*(tokens for tokens, _ in bert), *named]) == pytest.approx(1.9, abs=0.01)
    stated = [heads for name, (_, heads) in zip([*BERT, *GPT2], [*bert, *gpt2], strict=True) if "wikitext2" not in name]
    assert stated == pytest.approx([1.1] * 28, abs=1e-4)


def test_a_longer_text_is_pruned_more():
    for model in ("bert_base", "bert_large"):
        files = [read_benchmark(BENCHMARKS / f"{name}.yaml") for name in BERT if name.startswith(model)]
        files.sort(key=lambda benchmark: benchmark.tokens)
        keep = [benchmark.policy.token_keep for benchmark in files]
        assert keep == sorted(keep, reverse=True)
        assert keep[0] == 1 > keep[1]


@pytest.mark.parametrize(
    ("name", "keys", "values", "heads"),
    [("gpt2_small_wikitext2", 3.62, 18.2, 1.0), ("gpt2_medium_wikitext2", 2.02, 6.70, 1.085)],
)
def test_the_two_wikitext2_files_count_as_the_released_ones(name, keys, values, heads):
    """We round up where the released files round down: at most 1 of 102 keys and 1 of 20 V vectors more."""
    k, v, h = counted_cuts(name)
    assert keys * (1 - 1 / 102) < k < keys * 1.005
    assert values * (1 - 1 / 20) < v < values * 1.005
    assert h == pytest.approx(heads, abs=0.0005)


def test_low_bits_come_at_the_released_rate():
    (work,) = attention_work(load_workload("gpt2_small_wikitext2"), None)
    assert work.needs_lsb.mean() == pytest.approx(0.070, abs=0.0005)
    assert work.needs_lsb[work.layer == 1].mean() == pytest.approx(0.4479, abs=1 / 384)


def test_generation_by_hand(short):
    (work,) = attention_work(short, None)
    assert work.rows == 3 * 5
    assert work.step.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert work.layer.tolist() == [0, 0, 1, 1, 2] * 3
    assert work.head.tolist() == [0, 1, 0, 1, 0] * 3
    assert work.length.tolist() == [9] * 5 + [10] * 5 + [11] * 5
    # shares are of 11; step 0 keeps every key
    assert work.keys.tolist() == [9] * 5 + [10, 10, 6, 6, 3] + [11, 11, 6, 6, 3]
    assert work.values.tolist() == [6] * 5 + [6, 6, 3, 3, 2] * 2
    assert work.token_topk.tolist() == [0] * 5 + [0, 6, 0, 3, 0] * 2
    assert work.token_candidates.tolist() == [0] * 5 + [0, 10, 0, 6, 0] + [0, 11, 0, 6, 0]
    assert work.head_topk.tolist() == [0, 0, 0, 1, 0] * 3
    assert work.head_candidates.tolist() == [0, 0, 0, 2, 0] * 3
    assert set(work.key_set.tolist()) == {-1}
    assert work.needs_lsb[work.layer == 0].sum() == 3
    assert not work.needs_lsb[work.layer > 0].any()
    assert work.dense_operations == 4 * (9 + 10 + 11) * 3 * 2 * 64


def test_layer_0_keeps_what_the_step_before_chose(tmp_path):
    path = write(tmp_path, SHORT.replace("[1.0, 0.5, 0.25]", "[0.6, 0.5, 0.25]"))
    (work,) = attention_work(load_workload(path), None)
    assert work.keys.tolist() == [9] * 5 + [7, 7, 6, 6, 3] * 2
    # after the last layer all tokens so far compete; the last step chooses for nobody
    assert work.token_topk[4::5].tolist() == [7, 7, 0]
    assert work.token_candidates[4::5].tolist() == [9, 10, 0]


def test_another_policy_replaces_the_files(short):
    (dense,) = attention_work(short, Policy())
    assert dense.keys.tolist() == dense.values.tolist() == dense.length.tolist()
    assert dense.rows == 3 * 3 * 2
    assert not dense.needs_lsb.any()
    assert not dense.token_topk.any()
    (low,) = attention_work(short, Policy(key_msb_bits=8, key_lsb_bits=4))
    assert low.needs_lsb.sum() == 3
    with pytest.raises(ValueError, match="short: token_threshold must be 0"):
        attention_work(short, Policy(token_threshold=0.01))


def test_summarization_by_hand():
    trace = load_workload("bert_base_mrpc")
    (work,) = attention_work(trace, Policy(token_keep=(1.0, *[0.5] * 11), value_keep=0.5))
    n = trace.made["tokens"]
    assert work.queries.tolist() == work.keys.tolist() == [n] * 12 + [-(-n // 2)] * 132
    assert work.values.max() == -(-n // 2)
    assert np.flatnonzero(work.token_topk).tolist() == [11]
    assert (work.token_topk[11], work.token_candidates[11]) == (-(-n // 2), n)
    assert work.dense_operations == 4 * n * n * 12 * 12 * 64
    products = trace.operators["kind"] == "bmm"
    assert int(trace.operators["flops"][products].sum()) == work.dense_operations


def test_the_baselines_get_the_generated_tokens_only(short):
    assert sorted(set(short.operators["step"])) == [0, 1, 2]
    assert set(short.operators["part"]) == {"attention", "fc"}
    products = short.operators["kind"] == "bmm"
    (work,) = attention_work(short, None)
    assert int(short.operators["flops"][products].sum()) == work.dense_operations


def test_samples_stand_for_all_steps():
    trace = load_workload("gpt2_small_ptb")
    (whole,) = attention_work(trace, None)
    parts = sampled_work(trace, None, every=8)
    assert [part.repeat for part in parts] == [1, 8, 8, 8, 7]
    assert [sorted(set(part.step)) for part in parts] == [[0], [5], [13], [21], [28]]
    for column in ("keys", "values"):
        total = sum(part.repeat * int(getattr(part, column).sum()) for part in parts)
        assert total == pytest.approx(int(getattr(whole, column).sum()), rel=1e-3)
    assert sum(p.repeat * p.dense_operations for p in parts) == pytest.approx(whole.dense_operations, rel=1e-3)
    assert len(sampled_work(load_workload("bert_base_cola"), None)) == 1
    with pytest.raises(ValueError, match="every must be >= 1, got 0"):
        sampled_work(trace, None, 0)


def test_grouped_queries_share_a_row(tmp_path):
    text = SHORT.replace("heads: 2, head_size: 64", "heads: 4, head_size: 32") + "kv_heads: 2\n"
    trace = load_workload(write(tmp_path, text))
    (work,) = attention_work(trace, None)
    assert (work.group, work.rows) == (2, 3 * 5)
    assert work.head.tolist() == [0, 1, 0, 1, 0] * 3
    assert len(work.needs_lsb) == 3 * 5 * 2
    assert work.needs_lsb.sum() == 3 * 2 * 2 / 2
    assert work.dense_operations == 4 * (9 + 10 + 11) * 3 * 4 * 32
    steps = sampled_work(trace, None, every=1)
    assert np.array_equal(np.concatenate([part.needs_lsb for part in steps]), work.needs_lsb)


def test_a_batch_counts_so_often(tmp_path):
    trace = load_workload(write(tmp_path, SHORT + "batch: 3\n"))
    assert [part.repeat for part in (*attention_work(trace, None), *sampled_work(trace, None))] == [3, 3, 6]
    assert set(trace.operators["repeat"]) == {3}


def test_a_benchmark_runs_and_survives_a_trace_file(short, tmp_path):
    path = tmp_path / "copy.trace.zip"
    write_trace(short, path)
    machine = load_machine("spatten")
    once, again = (simulate(machine, trace, None) for trace in (short, read_trace(path)))
    assert once.cycles == again.cycles > 0
    assert once.energy_j == again.energy_j


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("hidden: 128", "hidden: 127", r"3:53: model.hidden: must be heads x head_size \(128\), got 127"),
        ("layers: 3", "layers: 0", r"3:17: model.layers: must be >= 1, got 0"),
        ("prompt: 8", "prompt: eight", r"5:9: prompt: must be"),
        ("prompt: 8\n", "", r"prompt: must be given for generation"),
        ("prompt: 8", "tokens: 8", r"5:1: tokens: must not be given for generation"),
        ("generation", "chatting", r"4:7: kind: must be"),
        ("value_keep: 0.5", "value_keep: 1.5", r"10:15: policy.value_keep: must be"),
        ("value_keep", "value_kept", r"10:3: policy.value_kept: .*value_keep"),
        ("[1.0, 0.5, 0.25]", "[1.0, 0.5]", r"8:15: policy.token_keep: must have one share per layer \(3\), got 2"),
        ("lsb_rate: [0.5, 0.0, 0.0]", "lsb_rate: [0.5]", r"13:11: lsb_rate: must have one share per layer"),
        ("kind:", "kv_heads: 3\nkind:", r"4:11: kv_heads: must divide heads \(2\), got 3"),
        ("prompt: 8", "prompt: {assumed: 8, low: 0, high: 9}", r"prompt.low: must be >= 1"),
    ],
)
def test_faults_say_where(tmp_path, old, new, message):
    assert old in SHORT
    with pytest.raises(Faults, match=rf"short.yaml:.*{message}"):
        load_workload(write(tmp_path, SHORT.replace(old, new)))


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"got 'bert_base_colla'; did you mean 'bert_base_cola'\?"):
        load_workload("bert_base_colla")
    assert not set(NAMES) & set(workload_names())
